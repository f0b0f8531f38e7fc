"""openai 2 and instructor against servers: python older.py URL ANSWER GUIDED, in an environment of
tests/clients/older.txt.

ANSWER: what the seed 1 makes of the prompt, as the newest client has it. GUIDED: another server's URL, of a model whose
tokens grammars can tell.
"""

from __future__ import annotations

import sys
from typing import Any

import instructor
import openai
from instructor.core import IncompleteOutputException, InstructorRetryException
from pydantic import BaseModel

URL, ANSWER, GUIDED = sys.argv[1:]
SAID: list[Any] = [{"role": "user", "content": "w5 w9 w77"}]
HOW: dict[str, Any] = {"model": "x", "messages": SAID, "seed": 1, "max_tokens": 8}


class Value(BaseModel):
    value: bool


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
    there = openai.OpenAI(base_url=f"{GUIDED}/v1", api_key="x", max_retries=0)
    how: dict[str, Any] = {"model": "x", "messages": [{"role": "user", "content": "ab"}], "seed": 1, "max_retries": 1}
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT):
        asks = instructor.from_openai(there, mode=mode)
        assert isinstance(asks.chat.completions.create(response_model=Value, **how), Value), mode
    try:  # any object: the schema is in the prompt alone
        instructor.from_openai(there, mode=instructor.Mode.JSON).chat.completions.create(response_model=Value, **how)
    except (InstructorRetryException, IncompleteOutputException) as error:
        assert "validation error" in str(error) or "incomplete" in str(error), error


main()
