"""How a model is told of tools, and how it calls them: as its chat template has it, or in plain words.

A template that knows tools shows them when it is given some, and shows how a call is written: that form is read off it.
Where it shows none, the tools are described in the system message, and calls and results are texts (`plain_messages`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thoughtmix.models.chat_template import render

_PROBE = "thoughtmix_probe"
_NAME_OF_IT = r'\{"name": "' + _PROBE + r'", "(arguments|parameters)": \{"x": "thoughtmix_value"\}\}'
_TELL = (
    "These functions are available, each described as JSON:\n{tools}\n"
    "To call one, write its name and its arguments in this form:\n"
    '{before}{{"name": "<name>", "{key}": {{...}}}}{after}'
)


@dataclass(frozen=True, slots=True)
class CallForm:
    """A call is `before`, `{"name": NAME, KEY: ARGUMENTS}`, `after`. native: the template itself shows tools."""

    before: str = "<tool_call>\n"
    key: str = "arguments"
    after: str = "\n</tool_call>"
    native: bool = False

    def call(self, name: str, arguments: str) -> str:
        """As the model writes it. arguments: JSON."""
        return f"{self.before}{self.head(name)}{arguments}}}{self.after}"

    def head(self, name: str) -> str:
        """What stands before the arguments' JSON."""
        return f'{{"name": {json.dumps(name)}, "{self.key}": '


def call_form(tokenizer: Any) -> CallForm:
    """Of a tokenizer's chat template."""
    tool = {"type": "function", "function": {"name": _PROBE, "description": "x", "parameters": {"type": "object"}}}
    asked = {"role": "user", "content": "x"}

    def shown(messages: Sequence[Mapping[str, Any]]) -> str:
        try:
            return render(tokenizer, messages, {"tools": [tool]})
        except Exception:  # any Jinja error
            return ""

    if not tokenizer.chat_template or _PROBE not in shown([asked]):
        return CallForm()
    call = {"type": "function", "function": {"name": _PROBE, "arguments": {"x": "thoughtmix_value"}}}
    written = shown([asked, {"role": "assistant", "content": "", "tool_calls": [call]}])
    said = shown([asked, {"role": "assistant", "content": "thoughtmix_said"}])
    head, _, tail = said.rpartition("thoughtmix_said")
    found = re.search(_NAME_OF_IT, written)
    if not found or not said or not written.startswith(head) or not written.endswith(tail):
        return CallForm(native=True)
    before, after = written[len(head) : found.start()], written[found.end() : len(written) - len(tail)]
    special = any(name in before + after for name in tokenizer.all_special_tokens)
    if special or len(before) > 40 or len(after) > 40:  # texts leave out special tokens
        return CallForm(native=True)
    return CallForm(before.lstrip(), found[1], after, native=True)


def plain_messages(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], form: CallForm
) -> list[dict[str, Any]]:
    """A conversation with tools for a template without: the tools are described in the system message, calls are texts
    of the assistant, and their results a user's."""
    out: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of calls, by their ids
    for message in messages:
        text = message["content"]
        if message["role"] == "tool":
            of = names.get(message.get("tool_call_id", ""), "the call")
            out.append({"role": "user", "content": f"Result of {of}:\n{text}"})
            continue
        for call in message.get("tool_calls", ()):
            function = call["function"]
            names[call.get("id", "")] = function["name"]
            arguments = json.dumps(function["arguments"], ensure_ascii=False)
            text += ("\n" if text else "") + form.call(function["name"], arguments)
        out.append({"role": message["role"], "content": text})
    if tools:
        lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        told = _TELL.format(tools=lines, before=form.before, key=form.key, after=form.after)
        if out and out[0]["role"] == "system":
            out[0]["content"] += f"\n\n{told}"
        else:
            out.insert(0, {"role": "system", "content": told})
    return out
