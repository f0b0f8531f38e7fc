"""Tools of a request: what the model is told, what its answer is held to, and which calls are in it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.grammar import SPACES, Grammar, closed
from thoughtmix.models.tools import CallForm
from thoughtmix.serve.forms import Function

_MOST_CALLS = 8
"""In one answer: a model may go on calling for ever."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """id: our own. arguments: JSON, or its beginning where the answer was cut."""

    id: str
    name: str
    arguments: str

    def function(self) -> dict[str, Any]:
        """As chat completions have it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """How one request's answers may call.

    Args:
        form: How the model writes calls.
        functions: That may be called.
        forced: Whether an answer is nothing but calls.
        many: Whether it may be several.
    """

    form: CallForm
    functions: tuple[Function, ...]
    forced: bool
    many: bool

    @classmethod
    def of(
        cls, form: CallForm, functions: Sequence[Function] | None, choice: str | Function | None, parallel: bool | None
    ) -> ToolPlan | None:
        """choice: none, auto, required, or the name of the function to call. None where none may be called. Raises
        `InputError`."""
        some = {function.name: function for function in functions or ()}
        if len(some) < len(functions or ()):
            raise InputError("Two tools have the same name.", "Name each otherwise.")
        if choice == "none" or (not some and choice in {None, "auto"}):
            return None
        if choice not in {None, "auto", "required", *some} or not some:
            raise InputError(f"There is no tool for tool_choice {choice!r}.", "Name one of tools.")
        for function in some.values():
            _check(function)
        named = choice not in {None, "auto", "required"}
        allowed = (some[str(choice)],) if named else tuple(some.values())
        many = parallel is not False and not named
        return cls(form, allowed, choice not in {None, "auto"}, many)

    @property
    def trigger(self) -> str:
        """What begins a call: free text has it nowhere."""
        return self.form.before.strip() or '{"name": "'

    def grammar(self, other: Grammar | None) -> Grammar:
        """Of a whole answer. other: what it is held to where it calls nothing."""
        most = _MOST_CALLS - 1
        calls = f'call ("\\n" call){{0,{most}}}' if self.many else "call"
        rules = ["%llguidance {}"]
        if self.forced:
            rules.append(f"start: {calls}")
        elif other is None:
            rules += [
                f"start: (begun rest){{0,{_MOST_CALLS if self.many else 1}}} TEXT",
                r"TEXT: /(.|\n)*/",
                f"begun[lazy]: TEXT {_quoted(self.trigger)}",
            ]
        else:
            if other.kind != "json_schema":
                raise InputError("A regular expression was asked for beside tools.", "Leave one of them out.")
            rules += [f"start: {calls} | other", f"other: %json {_schema(json.loads(other.text))}"]
        free = not self.forced and other is None
        before, after = self.form.before, self.form.after
        at = before.find(self.trigger) + len(self.trigger) if before.strip() else len(self.trigger)
        names = []
        for i, function in enumerate(self.functions):
            head = (before + self.form.head(function.name))[at if free else 0 :]
            end = "}" + after
            rules.append(f"f{i}: {_quoted(head)} %json {_schema(parameters_of(function))} {_quoted(end)}")
            names.append(f"f{i}")
        rules.append(f"{'rest' if free else 'call'}: {' | '.join(names)}")
        return Grammar("lark", "\n".join(rules))

    def read(self, text: str) -> tuple[str, list[ToolCall]]:
        """What an answer says beside its calls, and these."""
        at = text.find(self.trigger)
        if at < 0:
            return ("" if self.forced else text), []
        said, rest = ("" if self.forced else text[:at]), text[at:]
        calls: list[ToolCall] = []
        while rest.startswith(self.trigger):
            call, rest = self._first(rest)
            if call is None:
                return said, calls
            calls.append(call)
            rest = rest.removeprefix(self.form.after)
            following = rest.lstrip()
            rest = following if following.startswith(self.trigger) else rest
        return said + ("" if self.forced else rest), calls

    def _first(self, text: str) -> tuple[ToolCall | None, str]:
        """The call that a text begins with, and what follows its closing brace; None where it has no name yet."""
        begun = self.form.before.lstrip()
        for function in self.functions:
            head = begun + self.form.head(function.name)
            if not text.startswith(head):
                continue
            rest = text[len(head) :]
            given = rest.lstrip(" \n")
            try:
                _, end = json.JSONDecoder().raw_decode(given)
            except ValueError:  # it was cut
                return ToolCall(_id(), function.name, given), ""
            return ToolCall(_id(), function.name, given[:end]), given[end:].removeprefix("}")
        return None, ""


class HeldBack:
    """A growing text without the calls in it, nor what may become one."""

    def __init__(self, plan: ToolPlan) -> None:
        self._plan, self._text, self._shown = plan, "", 0

    def add(self, text: str) -> str:
        """What can be shown now."""
        self._text += text
        at = self._text.find(self._plan.trigger)
        if at < 0:
            trigger = self._plan.trigger
            held = max((k for k in range(1, len(trigger)) if self._text.endswith(trigger[:k])), default=0)
            at = len(self._text) - held
        if self._plan.forced:
            return ""
        piece = self._text[self._shown : at]
        self._shown = max(self._shown, at)
        return piece

    def rest(self, said: str) -> str:
        """What remains of all that is said beside the calls."""
        return said[self._shown :]


def parameters_of(function: Function) -> Mapping[str, Any]:
    """Its schema: of an object, also where it does not say so."""
    return {"type": "object", **function.parameters}


def described(functions: Sequence[Function]) -> tuple[dict[str, Any], ...]:
    """As chat templates are told of them."""
    return tuple(
        {
            "type": "function",
            "function": {
                "name": f.name,
                "description": f.description or "",
                "parameters": {"properties": {}, **parameters_of(f)},
            },
        }
        for f in functions
    )


def _check(function: Function) -> None:
    """Raises `InputError` naming the tool whose schema cannot be followed."""
    try:
        Grammar.from_json_schema(parameters_of(function))
    except InputError as error:
        raise InputError(f"Tool {function.name}: {error.message}", error.hint) from None


def _schema(schema: Any) -> str:
    """Within a Lark grammar, read as one alone is."""
    options = {"whitespace_pattern": SPACES, "lenient": False}
    whole = closed(schema)
    return json.dumps({**(whole if isinstance(whole, dict) else {}), "x-guidance": options}, ensure_ascii=False)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _id() -> str:
    return f"call_{secrets.token_hex(12)}"
