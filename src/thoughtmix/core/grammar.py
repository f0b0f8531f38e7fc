"""What form a text must have: a JSON schema, a regular expression, or a grammar. No torch.

    Grammar.from_json_schema({"type": "object", "properties": {"use": {"type": "string"}}, "required": ["use"]})
    Grammar.from_regex(r"[0-9]{4}-[0-9]{2}")

`llguidance` reads them. What it does not support is refused here, before any model is loaded: nothing is left out.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import parse_json

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

Kind = Literal["json_schema", "regex", "lark"]

SPACES = r"[ ]?|\n[ ]{0,16}"
"""Between the parts of a JSON text: nothing, a space, or a new line with its indentation. JSON allows any number, which
a model may go on writing for ever."""
_WHAT = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar"}
_NEXT = {
    "json_schema": "Write it within what llguidance supports: https://github.com/guidance-ai/llguidance.",
    "regex": "Write it as Rust's regex crate has it, without look-around and back-references.",
    "lark": "Write it in llguidance's Lark.",
}


@dataclass(frozen=True, slots=True)
class Grammar:
    """A form that a whole text must have.

    Args:
        kind: json_schema, regex, or lark (as llguidance has it).
        text: The schema as JSON, the expression, or the grammar.

    Raises:
        InputError: It is none, or says something that is not supported.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault:
            raise InputError(f"The {_WHAT[self.kind]} cannot be followed: {fault}", _NEXT[self.kind])

    @classmethod
    def from_json_schema(cls, schema: Any) -> Grammar:
        """A JSON schema: a mapping, its JSON, or a pydantic model class. Raises `InputError`."""
        if inspect.isclass(schema) and hasattr(schema, "model_json_schema"):
            schema = schema.model_json_schema()
        elif isinstance(schema, str):
            try:
                schema = parse_json(schema)
            except ValueError as error:
                raise InputError(f"The JSON schema is no JSON: {error}.", 'Write {"type": "object"}.') from None
        if not isinstance(schema, (Mapping, bool)):
            kind = type(schema).__name__
            raise InputError(
                f"A JSON schema is an object, not {kind}.", 'Pass {"type": "object"}, or a pydantic class.'
            )
        try:
            return cls("json_schema", json.dumps(schema, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"The JSON schema is no JSON: {error}.", 'Pass {"type": "object"}.') from None

    @classmethod
    def from_regex(cls, pattern: str) -> Grammar:
        """A regular expression that the whole text matches. Raises `InputError`."""
        if not isinstance(pattern, str) or not pattern:
            raise InputError(f"A regular expression is a text, not {pattern!r}.", "Pass regex='[a-z]+'.")
        return cls("regex", pattern)

    @classmethod
    def given(cls, json_schema: Any = None, regex: str | None = None) -> Grammar | None:
        """Of a call's settings; None where neither was given. Raises `InputError`."""
        if json_schema is not None and regex is not None:
            raise InputError("A JSON schema and a regular expression were given.", "Pass one of the two.")
        if json_schema is not None:
            return cls.from_json_schema(json_schema)
        return None if regex is None else cls.from_regex(regex)

    @property
    def source(self) -> str:
        """As llguidance takes it."""
        from llguidance import LLMatcher

        if self.kind == "json_schema":
            schema = json.dumps(closed(json.loads(self.text)))
            return str(LLMatcher.grammar_from_json_schema(schema, overrides=_options()))
        if self.kind == "regex":
            return str(LLMatcher.grammar_from_regex(self.text))
        return str(LLMatcher.grammar_from_lark(self.text))

    def may_be(self, text: str) -> bool:
        """Whether a text that another program wrote can be what was asked for: it matches the expression, or is JSON.
        The schema itself is not looked at."""
        if self.kind == "json_schema":
            try:
                parse_json(text)
            except ValueError:
                return False
            return True
        from llguidance import LLMatcher, LLTokenizer

        tokens = LLTokenizer("byte")
        matcher, ids = LLMatcher(tokens, self.source, log_level=0), tokens.tokenize_str(text)
        return (not ids or matcher.consume_tokens(ids)) and matcher.is_accepting()

    def recorded(self) -> dict[str, Any]:
        """For the settings of a thought set, as they were given."""
        return {self.kind: json.loads(self.text) if self.kind == "json_schema" else self.text}


def _options() -> JsonCompileOptions:
    """They go before what a schema says of them itself: nothing is left out of it."""
    return {"whitespace_pattern": SPACES, "lenient": False}


def closed(schema: Any) -> Any:
    """A schema whose objects have no other properties than they name, where it says nothing of others: a model may go
    on inventing them for ever. Objects that name none stay open, and so do those that are put together of several."""
    return schema if "allOf" in _keywords(schema) else _closed(schema)


_SCHEMAS = ("items", "additionalProperties", "contains")
_LISTS = ("anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_SAID = {"additionalProperties", "unevaluatedProperties", "patternProperties", "anyOf", "oneOf", "$ref"}


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas within a schema."""
    yield from (schema[name] for name in _SCHEMAS if name in schema)
    for name in (*_LISTS, *_NAMED):
        inner = schema.get(name, ())
        yield from inner.values() if isinstance(inner, Mapping) else inner if isinstance(inner, list) else ()


def _keywords(schema: Any) -> set[str]:
    """Of a schema and all within it."""
    if not isinstance(schema, Mapping):
        return set()
    return {*schema, *(name for part in _parts(schema) for name in _keywords(part))}


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    out = dict(schema)
    out |= {name: _closed(out[name]) for name in _SCHEMAS if name in out}
    out |= {name: [_closed(s) for s in out[name]] for name in _LISTS if isinstance(out.get(name), list)}
    out |= {k: {n: _closed(s) for n, s in out[k].items()} for k in _NAMED if isinstance(out.get(k), Mapping)}
    return {**out, "additionalProperties": False} if out.get("properties") and not _SAID & set(out) else out


@functools.lru_cache(256)
def _fault(grammar: Grammar) -> str:
    """What cannot be followed, in one line; "" where all can."""
    try:
        from llguidance import LLMatcher
    except ImportError:  # a platform without wheels
        raise InputError("Grammars need llguidance.", "Type: pip install llguidance") from None
    try:
        grammar.text.encode()
        bad, said = LLMatcher.validate_grammar_with_warnings(grammar.source)
    except (ValueError, RecursionError) as error:
        return f"{error}."
    return f"{_one_line(said[0])}." if bad else ""


def _one_line(said: str) -> str:
    """The error itself: of one that shows the place, what follows it."""
    _, shown, error = said.partition("\nerror: ")
    text = error.partition("\n")[0] if shown else said.partition("\n")[0]
    return text.strip().rstrip(".")[:300]
