"""From declared options to parameters that Typer sees: one for each field of a group, or of a thinker's options."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from typer.models import OptionInfo

from thoughtmix.cli.options import Quiet, option
from thoughtmix.cli.renamed import flag
from thoughtmix.cli.reporting import Reporter
from thoughtmix.core.options import ThinkerOptions, explained, fields_own_first, help_text, value_type

Options = TypeVar("Options", bound=ThinkerOptions)
TYPED = "typed"
"""A group of options with a field of this name gets there which options of its command, its own or not, were given by a
flag or an environment variable, and not by the config file or a default; None: it was made in a program."""


def with_options(command: Callable[..., int | None], more: Iterable[inspect.Parameter] = ()) -> Callable[..., Any]:
    """Let Typer see, in place of a parameter that is a group of options, an option for each of the group's fields.

    Args:
        command: A parameter whose type is a dataclass or a `ThinkerOptions` is a group; the command gets an instance.
            `Annotated[Group, "head"]` names the head under which its options stand in the help. A parameter that is a
            `Reporter` gives the command the option --quiet.
        more: Further parameters, whose values the command takes by **name.
    """
    flat: list[inspect.Parameter] = []
    groups: dict[str, Callable[[dict[str, Any], frozenset[str]], Any]] = {}
    reporter: str | None = None
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        kind, head = _group(parameter.annotation)
        if kind is Reporter:
            reporter = name
            flat.append(_parameter("quiet", Quiet, False))
        elif dataclasses.is_dataclass(kind):
            flat += _dataclass_parameters(kind, head)
            groups[name] = functools.partial(_dataclass_instance, kind)
        elif inspect.isclass(kind) and issubclass(kind, ThinkerOptions):
            flat += parameters_of_options(kind, head)
            groups[name] = functools.partial(_options_instance, kind)
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            flat.append(
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=_in_group(parameter.annotation, None))
            )

    @functools.wraps(command)
    def filled(click_context: typer.Context, **given: Any) -> int | None:
        typed = frozenset(name for name in given if _was_typed(click_context, name))
        if reporter is not None:
            quiet = given.pop("quiet") or click_context.find_root().params.get("quiet", False)
            given[reporter] = Reporter(quiet)
        return command(**{name: build(given, typed) for name, build in groups.items()}, **given)

    first = inspect.Parameter("click_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    filled.__signature__ = inspect.Signature([first, *flat, *more])  # type: ignore[attr-defined]
    filled.__annotations__ = {}  # Typer would prefer them to the signature
    return filled


def _was_typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given by a flag or an environment variable, and not by the config file or a default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in {"COMMANDLINE", "ENVIRONMENT"}


def parameters_of_options(kind: type[ThinkerOptions], head: str | None = None) -> list[inspect.Parameter]:
    """A thinker's options as parameters of a command, under a head of the help. The values are checked by `kind` alone,
    so that a mistake gets the same answer everywhere."""
    out = []
    for name, field in fields_own_first(kind).items():
        typed: Any = value_type(field) or str
        default = field.default
        if typed is tuple:
            typed, default = list[str], list(default or ()) or None
        if default is None:
            typed = typed | None
        shown = "left out" if default in (None, "") else None
        declared = Annotated[typed, option(f"{help_text(field)}.", default=shown)]
        out.append(_parameter(name, _in_group(declared, head), default))
    return out


def given_options(kind: type[ThinkerOptions], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that are not the default, as `kind` takes them."""
    out = {}
    for name, value in values.items():
        default = kind.model_fields[name].default
        if value is not None and value != (list(default) if isinstance(default, tuple) else default):
            out[name] = ",".join(value) if isinstance(value, list) else value
    return out


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _group(annotation: Any) -> tuple[Any, str | None]:
    """The type of a group of options, and the head that it stands under."""
    if typing.get_origin(annotation) is Annotated:
        kind, head = typing.get_args(annotation)[:2]
        return kind, head if isinstance(head, str) else None
    return annotation, None


_METAVARS: Mapping[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "FILE"}


def _in_group(annotation: Any, head: str | None) -> Any:
    """An option's annotation with the head that it stands under and a word for its value, where it names none."""
    if typing.get_origin(annotation) is not Annotated:
        return annotation
    kind, info = typing.get_args(annotation)[:2]
    if not isinstance(info, OptionInfo):
        return annotation
    info = copy.copy(info)
    info.rich_help_panel = info.rich_help_panel or head
    kinds = [kind, *typing.get_args(kind), *(k for arg in typing.get_args(kind) for k in typing.get_args(arg))]
    info.metavar = info.metavar or next((_METAVARS[k] for k in kinds if k in _METAVARS), None)
    return Annotated[kind, info]


def _dataclass_parameters(kind: Any, head: str | None) -> Sequence[inspect.Parameter]:
    """A field's help stands in its annotation, or in its metadata where the class knows nothing of command lines."""
    head = head or getattr(kind, "GROUP", None)
    types = typing.get_type_hints(kind, include_extras=True)
    out = []
    for f in dataclasses.fields(kind):
        if f.name == TYPED:
            continue
        annotation = types[f.name]
        if "help" in f.metadata:
            said = f.metadata
            annotation = Annotated[annotation, option(said["help"], *said["flags"], default=said["otherwise"])]
        default = inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default
        out.append(_parameter(f.name, _in_group(annotation, head), default))
    return out


def _dataclass_instance(kind: Any, given: dict[str, Any], typed: frozenset[str]) -> Any:
    return kind(**{f.name: typed if f.name == TYPED else given.pop(f.name) for f in dataclasses.fields(kind)})


def _options_instance(kind: type[Options], given: dict[str, Any], typed: frozenset[str]) -> Options:
    """Takes a thinker's options out of `given`. Raises `InputError`."""
    try:
        return kind(**given_options(kind, {name: given.pop(name) for name in kind.model_fields}))
    except ValidationError as error:
        raise explained(kind, error, {name: flag(name) for name in kind.model_fields}) from None
