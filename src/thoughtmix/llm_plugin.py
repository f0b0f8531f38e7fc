"""A plugin for Simon Willison's `llm`: `llm -m thoughtmix "Name a use for a brick." -o n 4 -o select 2`.

Installed beside `llm`, it is found by itself (the entry point group `llm`). Nothing heavy is imported before a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import llm
from pydantic import Field

from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.core.request import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.pipeline import Pipeline


@llm.hookimpl
def register_models(register: Any) -> None:
    """What `llm models` lists."""
    register(Thoughtmix())


class ThoughtOptions(llm.Options):
    """What `-o NAME VALUE` sets."""

    n: int = Field(8, ge=1, description="How many thoughts.")
    select: int | None = Field(None, ge=1, description="Keep only the k most different good ones.")
    thinker: str = Field("auto", description="How to explore: see `thoughtmix thinkers`.")
    model: str | None = Field(None, description="A folder or a Hugging Face id. Left out: SmolLM2-135M-Instruct.")
    endpoint: str | None = Field(None, description="A chat-completions server that writes, URL or @profile.")
    creativity: float | None = Field(None, ge=0, description="0 is deterministic, more is bolder.")
    temperature: float | None = Field(None, ge=0, description="Sampling temperature.")
    seed: int = Field(0, description="Thought i gets seed + i - 1.")
    max_tokens: int = Field(MAX_NEW_TOKENS, ge=1, description="Longest thought, in tokens.")


class Thoughtmix(llm.Model):
    """One model of `llm`, whose answer is several: numbered where there are more than one."""

    model_id = "thoughtmix"
    can_stream = False
    supports_schema = True
    Options: Any = ThoughtOptions

    def __init__(self) -> None:
        self._pipelines: dict[tuple[str | None, str | None], Pipeline] = {}

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any | None = None) -> Iterator[str]:
        """The thoughts as one text; as JSON in `response.response_json`.

        Raises:
            llm.ModelError: What thoughtmix refuses, in its one line.
        """
        asked: ThoughtOptions = prompt.options
        try:
            made = self._think(prompt, asked, conversation)
        except ThoughtmixError as error:
            raise llm.ModelError(str(error)) from None
        response.response_json = made.to_dict()
        response.set_usage(output=int(made.run.get("tokens", 0)))
        yield made[0].text if len(made) == 1 else numbered(made)

    def _think(self, prompt: Any, asked: ThoughtOptions, conversation: Any | None) -> ThoughtSet:
        key = (asked.model, asked.endpoint)
        if key not in self._pipelines:
            from thoughtmix.pipeline import Pipeline

            self._pipelines = {key: Pipeline(asked.model, endpoint=asked.endpoint)}  # one: two may not fit
        made = self._pipelines[key](
            _messages(prompt, conversation),
            asked.n,
            asked.thinker,
            creativity=asked.creativity,
            temperature=asked.temperature,
            seed=asked.seed,
            max_new_tokens=asked.max_tokens,
            json_schema=prompt.schema,
            measure=asked.select is not None,
        )
        assert not isinstance(made, list)
        return made if asked.select is None else made.select(asked.select)


def numbered(thoughts: ThoughtSet) -> str:
    """A list in Markdown: one item a thought, its further lines indented to belong to it."""
    width = len(str(len(thoughts))) + 2
    items = []
    for i, thought in enumerate(thoughts, 1):
        first, *more = thought.text.strip().splitlines() or [""]
        items.append("\n".join([f"{i}. {first}", *(f"{'':{width}}{line}" if line else "" for line in more)]))
    return "\n\n".join(items)


def _messages(prompt: Any, conversation: Any | None) -> str | list[Mapping[str, str]]:
    """The prompt, behind what was said before and a system message where there are any."""
    before: list[Mapping[str, str]] = []
    for earlier in conversation.responses if conversation is not None else ():
        before += [
            {"role": "user", "content": earlier.prompt.prompt},
            {"role": "assistant", "content": earlier.text_or_raise()},
        ]
    if prompt.system:
        before.insert(0, {"role": "system", "content": prompt.system})
    return [*before, {"role": "user", "content": prompt.prompt}] if before else prompt.prompt
