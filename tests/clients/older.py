"""openai 2 and instructor against a server: python older.py URL ANSWER, in an environment of tests/clients/older.txt.

ANSWER: what the seed 1 makes of the prompt, as the newest client has it.
"""

from __future__ import annotations

import sys
from typing import Any

import instructor
import openai
from instructor.core import InstructorRetryException
from pydantic import BaseModel

URL, ANSWER = sys.argv[1:]
SAID: list[Any] = [{"role": "user", "content": "w5 w9 w77"}]
HOW: dict[str, Any] = {"model": "x", "messages": SAID, "seed": 1, "max_tokens": 8}


class Value(BaseModel):
    value: int


def main() -> None:
    assert openai.__version__.startswith("2."), openai.__version__
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="x", max_retries=0)
    assert client.chat.completions.create(**HOW).choices[0].message.content == ANSWER
    stream = client.chat.completions.create(stream=True, **HOW)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ANSWER
    assert len(client.embeddings.create(model="x", input=["w5", "w6"]).data[1].embedding) == 64
    body: dict[str, Any] = {"model": "x", "input": "w5 w9 w77", "max_output_tokens": 8, "extra_body": {"seed": 1}}
    assert client.responses.create(**body).output_text == ANSWER
    with client.responses.stream(**body) as events:
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER

    plain = instructor.from_openai(client, mode=instructor.Mode.MD_JSON)
    assert plain.chat.completions.create(response_model=None, **HOW).choices[0].message.content == ANSWER
    for mode, named in ((instructor.Mode.TOOLS, "tools"), (instructor.Mode.JSON, "response_format")):
        asks = instructor.from_openai(client, mode=mode)
        try:
            asks.chat.completions.create(response_model=Value, max_retries=1, **HOW)
        except InstructorRetryException as error:
            assert named in str(error), error
        else:
            raise AssertionError(f"{named} was not refused")


main()
