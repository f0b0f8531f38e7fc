"""Chat templates, rendered within bounds.

A template comes with a model and is run as a program. Jinja's sandbox keeps it from the machine, but neither from
looping for ever nor from asking for all of its memory: `{{ "x" * 10**10 }}` is folded when it is compiled. Here every
operator, filter and method that makes much out of little says first how much, and a rendering has so many lines and
seconds.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from thoughtmix.models.bounds import bounded_rendering
from thoughtmix.models.plain_tokenizer import PlainTokenizer

MOST = 2**24
"""Most characters of a text that a template makes."""
_MOST_ITEMS = 2**20  # of a list
_MOST_BITS = 4096  # of a whole number
_MOST_DIGITS = 64  # of a rounded one, and spaces that JSON is indented by
_CONTINUE = "qThoughtmixGoesOnHereq "
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names that one thing has in templates
_WIDE = re.compile(r"%[^a-zA-Z%]*(\*|\d{5})|\{[^}]*(\{|\d{5})")  # a format's width that is large, or given beside it
_WRITES_NOTHING = {
    "length", "count", "first", "last", "default", "d", "select", "reject", "selectattr", "rejectattr", "map", "list",
    "reverse", "items", "attr", "int", "float", "abs", "random", "min", "max",
}  # fmt: skip
"""Filters that neither write their value out nor multiply it."""


class TooMuch(TemplateError):
    """A template asks for more than a chat can need."""


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    more: Mapping[str, Any] | None = None,
    generation: bool = False,
    goes_on: bool = False,
) -> str:
    """A conversation in a tokenizer's chat template, as `apply_chat_template(tokenize=False)` gives it.

    Args:
        more: Further variables of the template, tools among them.
        generation: Put what begins an answer at the end.
        goes_on: End where the last message ends, which the answer goes on with.

    Raises:
        Exception: Whatever a template raises; `TooMuch` or RuntimeError for one that asks for too much.
    """
    if not _is_jinja(tokenizer):
        whole = {"add_generation_prompt": generation, "continue_final_message": goes_on, **(more or {})}
        with bounded_rendering():
            return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **whole))
    turns = [_named(_plain({name: v for name, v in m.items() if v is not None})) for m in messages]
    if goes_on:
        _mark_end(turns[-1])
    variables = {"tools": None, "documents": None, **tokenizer.special_tokens_map, **_plain(dict(more or {}))}
    with bounded_rendering():
        template = _compiled(tokenizer.get_chat_template(tools=variables["tools"]))
        text = template.render(messages=turns, add_generation_prompt=generation, **variables)
    return _until_mark(text) if goes_on else text


def _is_jinja(tokenizer: Any) -> bool:
    """Whether its chats are its template's, and no method's of its own."""
    if isinstance(tokenizer, PlainTokenizer):
        return True
    from transformers import PreTrainedTokenizerBase

    return type(tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template


def _plain(value: Any) -> Any:
    """As JSON has it: a template sees no objects, whose methods might do anything."""
    return json.loads(json.dumps(value, default=lambda other: f"<{type(other).__name__}>"))


def _named(message: dict[str, Any]) -> dict[str, Any]:
    """With its reasoning under the names that templates read it by."""
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _mark_end(message: dict[str, Any]) -> None:
    content = message["content"]
    if isinstance(content, str):
        message["content"] = content + _CONTINUE
    else:
        next(part for part in reversed(content) if "text" in part)["text"] += _CONTINUE


def _until_mark(text: str) -> str:
    """Where the last message ends. A template that trims messages has trimmed the mark's own space, too."""
    before, mark, after = text.rpartition(_CONTINUE.strip())
    if not mark:
        raise TemplateError("it drops the message to go on with")
    return before if after.startswith(" ") else before.rstrip()


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> Template:
    return _Bounded().from_string(template)


# --- how much there is ------------------------------------------------------------------------------------------------


def _bounded(size: int, most: int = MOST) -> None:
    if size > most:
        raise TooMuch(f"it makes {f'{size:,}' if size < 10**15 else 'endlessly many'} characters or items")


def _written(value: Any, known: dict[int, int] | None = None) -> int:
    """Characters that a value has when it is written out, about. What lists share counts as often as it stands there,
    but is looked at once (known: by id)."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, int):
        return 1 + value.bit_length() // 3
    if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return 1
    known = {} if known is None else known
    if id(value) not in known:
        items = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        known[id(value)] = 1 + len(items) + sum(_written(item, known) for item in items)
    return known[id(value)]


def _kept(value: Any) -> Any:
    """A value that is not too large to go on with."""
    if isinstance(value, (str, bytes)):
        _bounded(len(value))
    elif isinstance(value, (list, tuple)):
        _bounded(len(value), _MOST_ITEMS)
    elif isinstance(value, int):
        _bounded(value.bit_length(), _MOST_BITS)
    return value


def _whole_numbers(values: Iterable[Any]) -> int:
    """The largest of the numbers among these, or 1."""
    return max((abs(int(v)) for v in values if isinstance(v, (int, float)) and v == v and abs(v) < 1e300), default=1)


def _require_narrow(pattern: str, values: Any) -> None:
    """Of a format: that it pads nothing widely, and that what it writes is no more than there may be."""
    if _WIDE.search(pattern):
        raise TooMuch("it formats a text with a wide field")
    _bounded(_written(values) * (1 + pattern.count("{") + pattern.count("%")))


def _require_small(name: str, value: Any, given: Sequence[Any]) -> None:
    """Whether what a method of a text or a filter, by `name`, makes of `value` and what else is given is not too large.

    Raises:
        TooMuch: It is, or may be.
    """
    numbers, lengths = _whole_numbers(given), max((_written(v) for v in given), default=1)
    if name in {"format", "format_map"}:
        _require_narrow(str(value), given)
    elif name == "replace" and len(given) > 1:
        text, old, new = str(value), str(given[0]), str(given[1])
        _bounded(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    elif name == "join":
        texts, between = (given[0], value) if isinstance(value, str) and given else (value, given[:1])
        count = len(texts) if hasattr(texts, "__len__") else 1
        _bounded(_written(texts) + count * _written(between))
    elif name in {"indent", "expandtabs", "wordwrap", "urlize", "translate", "xmlattr"}:
        _bounded(_written(value) * max(numbers, lengths))
    elif name == "sum":
        _bounded(_written(value) if any(isinstance(v, (list, tuple, str)) for v in given) else 0)
    elif name in {"tojson", "round"}:
        _bounded(numbers, _MOST_DIGITS)
        _bounded(_written(value) * (numbers if name == "tojson" else 1))
    else:
        _bounded(max(numbers, lengths))


# --- Jinja, with that -------------------------------------------------------------------------------------------------


def _bounded_filter(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    before = 1 if hasattr(filter_, "jinja_pass_arg") else 0  # a context or an environment comes first

    @functools.wraps(filter_)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        value, *given = args[before:]
        given += kwargs.values()
        if name not in _WRITES_NOTHING:
            _bounded(_written(value))
            _require_small(name, value, given)
        return _kept(filter_(*args, **kwargs))

    return bounded


class _Names(Namespace):
    """A namespace whose names are no private ones, and which does not write out what it holds."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        own, *rest = args
        for name in dict(*rest, **kwargs):
            _require_public(name)
        Namespace.__init__(own, *rest, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


def _require_public(name: Any) -> None:
    if str(name).startswith("_"):
        raise TemplateError(f"a namespace has no {name!r}")


class _Generation(Extension):
    """`{% generation %}` marks what an assistant says, for those who train on it. Here it is said and no more."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _CallJoin(NodeTransformer):
    """`a ~ b` as a call, which can be bounded."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Call(nodes.EnvironmentAttribute("joined"), node.nodes, [], None, None, lineno=node.lineno)


class _Bounded(ImmutableSandboxedEnvironment):
    """What transformers gives to chat templates, bounded."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        extensions = [_Generation, "jinja2.ext.loopcontrols"]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=self._finalized)
        self.filters["tojson"] = _tojson
        self.filters = {name: _bounded_filter(name, filter_) for name, filter_ in self.filters.items()}
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now, "dict": _dict, "namespace": _Names}
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _CallJoin().visit(super()._parse(source, name, filename))
        return tree

    @staticmethod
    def _finalized(value: Any) -> Any:
        if not isinstance(value, str):
            _bounded(_written(value))
        return value

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Of what a block, a macro or the whole template wrote."""
        kept, size = [], 0
        for part in parts:
            size += len(part)
            _bounded(size)
            kept.append(part)
        return "".join(kept)

    @staticmethod
    def joined(*values: Any) -> str:
        """`~`"""
        _bounded(_written(values))
        return "".join(map(str, values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sized = [v for v in (left, right) if isinstance(v, (str, bytes, list, tuple))]
        if operator == "%" and isinstance(left, str):
            _require_narrow(left, right)
        elif sized:
            size = len(sized[0]) * _whole_numbers((left, right)) if operator == "*" else sum(map(len, sized))
            _bounded(size, MOST if isinstance(sized[0], (str, bytes)) else _MOST_ITEMS)
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            _bounded(left.bit_length() + right.bit_length(), _MOST_BITS)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _bounded(left.bit_length() * abs(right), _MOST_BITS)
        return _kept(super().call_binop(context, operator, left, right))

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        method = getattr(called, "__wrapped__", called)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, (str, bytes, int)):
            given = [*args, *(v for name, v in kwargs.items() if name not in {"_loop_vars", "_block_vars"})]
            _require_small(getattr(method, "__name__", ""), owner, given)
        return _kept(super().call(context, called, *args, **kwargs))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Unlike Jinja's, it escapes nothing for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)
