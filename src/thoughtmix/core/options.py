"""A thinker's own options, declared once: type, bounds, default, help, and what a server may take from strangers.

    class Options(ThinkerOptions):
        width: int = option(4, "Children drawn at a leaf.", ge=1, served=True, served_max="thoughts")

Help texts, refusals, the server's schema and the page's form are all made from these declarations.
"""

from __future__ import annotations

import math
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from thoughtmix.core.errors import InputError, RenamedWarning, UnknownName

Limit = Literal["thoughts", "tokens"]
Role = Literal["text", "strength", "language"]


def option(
    default: Any,
    help: str,
    *,
    served: bool = False,
    served_max: Limit | None = None,
    served_pattern: str | None = None,
    role: Role | None = None,
    old: str | None = None,
    **bounds: Any,
) -> Any:
    """A field of a `ThinkerOptions`.

    Args:
        default: The value when nobody gives one.
        help: One sentence. The default is added where it is shown.
        served: Whether a request to a server may set it. False, the default, refuses: an option that names a file or a
            model, or whose cost nobody has thought about, is not for strangers.
        served_max: The server's limit that bounds its value: its most thoughts or its most tokens of a request.
        served_pattern: A regular expression that a text must match in full to be taken from a request.
        role: What a front end may use it for without knowing its name. text: a text to rewrite (the page then offers
            the thinker at every thought); strength: how far from that text; language: of whoever reads the answer.
        old: A name that it once had, and that is still taken in its place.
        bounds: Pydantic's own (`ge`, `gt`, `le`, `lt`, `min_length`, ...).
    """
    extra: dict[str, JsonValue] = {"served": served}
    if served_max is not None:
        extra["served_max"] = served_max
    if served_pattern is not None:
        extra["served_pattern"] = served_pattern
    if role is not None:
        extra["role"] = role
    if old is not None:
        extra["old"] = old
    return Field(default, description=help, json_schema_extra=extra, **bounds)


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",")) if value.strip() else ()
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_split)]
"""Several names: a list, or one text with commas between."""


class ThinkerOptions(BaseModel):
    """Base of every thinker's `Options`; as it is, the options of a thinker that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    @classmethod
    def old_names(cls) -> dict[str, str]:
        """Names that options once had -> those that they have."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return {str(e["old"]): name for name, e in extras.items() if isinstance(e, dict) and "old" in e}

    @model_validator(mode="before")
    @classmethod
    def _take_old_names(cls, given: Any) -> Any:
        """Also in what was saved before an option had its name."""
        return renamed(cls, given) if isinstance(given, Mapping) else given

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and bool not in _members(cls.model_fields[info.field_name].annotation):
            raise ValueError("true and false are no numbers")
        return value

    def given(self) -> dict[str, Any]:
        """What was set, as JSON: the rest is the defaults."""
        return self.model_dump(mode="json", exclude_unset=True)


Options = TypeVar("Options", bound=ThinkerOptions)


def renamed(kind: type[ThinkerOptions], given: Mapping[str, Any], tell: bool = False) -> dict[str, Any]:
    """`given` by the names that options have now.

    Args:
        kind: The thinker's `Options`.
        given: Values by name.
        tell: Whether to warn of an old name.

    Raises:
        InputError: An option is given by both of its names.
    """
    now, out = kind.old_names(), dict(given)
    for old in out.keys() & now.keys():
        if now[old] in out:
            raise InputError(f"{now[old]} is given twice, also as {old}.", f"Pass {now[old]} alone.")
        if tell:
            warnings.warn(f"{old} is {now[old]} now. Type: {now[old]}=...", RenamedWarning, stacklevel=2)
        out[now[old]] = out.pop(old)
    return out


def _members(annotation: Any) -> set[Any]:
    """The types that an annotation allows, unions taken apart."""
    inner = typing.get_args(annotation)
    return {annotation} if not inner else {annotation, *(m for arg in inner for m in _members(arg))}


def parse_options(kind: type[Options], given: Mapping[str, Any], thinker: str, other: Iterable[str] = ()) -> Options:
    """An instance of a thinker's options from names and values of a user.

    Args:
        kind: The thinker's `Options`.
        given: Values by name; texts are read as the types say ("4" is 4, "a,b" two names).
        thinker: Its name, for messages.
        other: Further names that a misspelt one may stand for (the settings of a call).

    Raises:
        UnknownName: A name that is no option, with the nearest that is one.
        InputError: A value of another type or beyond its bounds.
    """
    given = renamed(kind, given, tell=True)
    for name in given:
        if name not in kind.model_fields:
            raise UnknownName(f"option of thinker {thinker!r}:", name, [*kind.model_fields, *other])
    try:
        return kind(**given)
    except ValidationError as error:
        raise explained(kind, error) from None


def explained(kind: type[ThinkerOptions], error: ValidationError, flags: Mapping[str, str] | None = None) -> InputError:
    """Pydantic's complaint as one line that ends with what to type. flags: those of a command that has them."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if name not in kind.model_fields:
        return InputError(first["msg"] + ".", "See: thoughtmix thinkers")
    field = kind.model_fields[name]
    value = first["input"]
    choices = literals(field.annotation)
    if choices and isinstance(value, str):
        return UnknownName(name, value[:80], [str(c) for c in choices])
    says = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input should be ").partition(", unable to")[0]
    says = says.replace("a valid integer", "a whole number").replace("a valid number", "a number")
    says = says.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    bounds = [first.get("ctx", {}).get(name) for name in ("ge", "le")]
    given = [field.default, *bounds]
    example = next((_plain(value) for value in given if value not in (None, ())), "...")
    hint = f"Pass {name}={example} (--option)." if flags is None else f"Pass {flags[name]} {example}."
    return InputError(f"{name} is {value!r}: it should be {says}.", hint)


def literals(annotation: Any) -> tuple[Any, ...]:
    """The choices of a `Literal`, also within a union; () for other types."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    return tuple(choice for arg in typing.get_args(annotation) for choice in literals(arg))


def fields_own_first(kind: type[ThinkerOptions]) -> dict[str, FieldInfo]:
    """The fields by name: those that the class itself declares, then those of its bases."""
    bases = [base for base in kind.__mro__ if issubclass(base, ThinkerOptions)]
    declared_in = {name: sum(name in base.model_fields for base in bases) for name in kind.model_fields}
    return {name: kind.model_fields[name] for name in sorted(kind.model_fields, key=declared_in.__getitem__)}


def described(kind: type[ThinkerOptions]) -> dict[str, str]:
    """Name -> one line of help with the default; own options first."""
    return {name: _line(field) for name, field in fields_own_first(kind).items()}


def _line(field: FieldInfo) -> str:
    default = default_text(field)
    return help_text(field) + (f" (default {default})." if default else ".")


def help_text(field: FieldInfo) -> str:
    """The help without a full stop, with the choices where it does not name them."""
    said = (field.description or "").rstrip(".")
    choices = literals(field.annotation)
    among = f" ({', '.join(map(str, choices))})" if choices and not any(str(c) in said for c in choices) else ""
    return said + among


def default_text(field: FieldInfo) -> str:
    """The default as it would be typed; empty where it is nothing."""
    return "" if field.default is None else _plain(field.default)


_TYPES: dict[type, str] = {tuple: "names", bool: "true or false", int: "whole number", float: "number", str: "text"}
_BOUNDS = {"ge": "{} or more", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}


def value_type(field: FieldInfo) -> type | None:
    """tuple (of names), bool, int, float or str; None for an option of another type."""
    if literals(field.annotation):
        return str
    types = {typing.get_origin(member) or member for member in _members(field.annotation)}
    return next((kind for kind in _TYPES if kind in types), None)


def type_text(field: FieldInfo) -> str:
    """The type, choices and bounds in words: "whole number, 1 or more"."""
    if choices := literals(field.annotation):
        return " | ".join(map(str, choices))
    kind = value_type(field)
    bounds = [
        words.format(f"{limit:g}" if abs(limit) < 2**53 else f"2^{math.log2(limit):g}")
        for bound in field.metadata
        for name, words in _BOUNDS.items()
        if (limit := getattr(bound, name, None)) is not None
    ]
    return ", ".join(["JSON" if kind is None else _TYPES[kind], *bounds])


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)


def served_schema(kind: type[ThinkerOptions]) -> dict[str, Any]:
    """JSON schema of the options that a request to a server may set: what the page builds its form from."""
    schema = kind.model_json_schema()
    properties = {
        name: {k: v for k, v in body.items() if k not in {"served", "title", "old"}}
        for name, body in schema.get("properties", {}).items()
        if body.get("served")
    }
    referred = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **referred}
