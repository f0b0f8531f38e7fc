"""Options of commands, each declared once: groups that commands share, and options made from a thinker's own."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer
from pydantic import ValidationError

from thoughtmix.cli.output import be_quiet, check_folder, progress
from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text, read_stream
from thoughtmix.core.grammar import Grammar
from thoughtmix.core.options import ThinkerOptions, explained, fields_own_first, help_text, value_type
from thoughtmix.core.request import LANDING, MAX_NEW_TOKENS, Request
from thoughtmix.core.selection import QUALITY_FLOOR, check_floor
from thoughtmix.core.types import ThoughtSet
from thoughtmix.pipeline import PathName, Pipeline, Weights

Options = TypeVar("Options", bound=ThinkerOptions)
TYPED = "typed"
"""A group of options with a field of this name gets there which options of its command, its own or not, were given by a
flag or an environment variable, and not by the config file or a default; None: it was made in a program."""


def option(help: str, *flags: str) -> Any:
    """An option in `Annotated[type, option(...)]`. flags: in place of the parameter's name."""
    return typer.Option(*flags, help=help)


def _quieten(value: bool) -> bool:
    if value:
        be_quiet()
    return value


_EACH = "One value, or n with commas between."
Count = Annotated[int, option("How many thoughts.", "-n", "--n")]
Prompt = Annotated[str, typer.Argument(help="What to think about; - reads it from standard input.")]
Model = Annotated[
    str | None, option("A folder, a GGUF file or a Hugging Face id. Default: SmolLM2-135M-Instruct.", "-m", "--model")
]
Dtype = Annotated[str, option("auto, float32, bfloat16 or float16.")]
Device = Annotated[str, option("auto, cpu, cuda, ...")]
MaxNewTokens = Annotated[int, option("Longest thought, in tokens.")]
Json = Annotated[bool, option("Print JSON and nothing else.", "--json")]
Quiet = Annotated[
    bool,
    typer.Option(
        "-q", "--quiet", help="Say nothing beside the result, but what went wrong.", callback=_quieten, is_eager=True
    ),
]
Html = Annotated[Path | None, option("Also write one self-contained page here.")]


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """Which of the thoughts are shown."""

    select: Annotated[int | None, option("Show only the k most different good thoughts.")] = None
    quality_floor: Annotated[
        float, option("Quantile of likelihood that --select asks for: 0 difference alone, 1 the likeliest.")
    ] = QUALITY_FLOOR

    def check(self, n: int | None, measured: bool = True) -> None:
        """Refuse what could not be selected of n thoughts (None: not known yet). Raises `InputError`."""
        check_floor(self.quality_floor)
        if self.select is not None and n is not None and not 1 <= self.select <= n:
            raise InputError(f"Cannot select {self.select} of {n} thoughts.", f"Pass --select 1 to {n}.")
        if self.select is not None and not measured:
            raise InputError("--select needs the distances that --no-measure leaves out.", "Drop one of the two.")

    def of(self, thoughts: ThoughtSet) -> ThoughtSet:
        """Those selected, or all. Raises `InputError`."""
        if self.select is None:
            return thoughts
        return thoughts.select(self.select, quality_floor=self.quality_floor)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The settings of a call to a `Pipeline`."""

    n: Count = 8
    creativity: Annotated[float | None, option("0 is deterministic, 1 the default, more is bolder.")] = None
    seed: Annotated[int, option("Thought i gets seed + i - 1 and can be made again alone by it.", "-s", "--seed")] = 0
    max_new_tokens: MaxNewTokens = MAX_NEW_TOKENS
    landing: Annotated[
        float, option("In this last share of its tokens a thought ends with its sentence; 0: never.")
    ] = LANDING
    temperature: Annotated[str | None, option(f"Sampling temperature. {_EACH}")] = None
    top_k: Annotated[str, option(f"Keep the k likeliest tokens; 0 is off. {_EACH}")] = "0"
    top_p: Annotated[str, option(f"Keep this much probability; 1 is off. {_EACH}")] = "1"
    min_p: Annotated[str | None, option(f"Keep tokens this likely beside the likeliest. {_EACH}")] = None
    top_nsigma: Annotated[str, option(f"Keep logits within n deviations; 0 is off. {_EACH}")] = "0"
    stop: Annotated[list[str] | None, option("End a thought before this text; may be repeated.")] = None
    json_schema: Annotated[Path | None, option("Every thought is JSON of the JSON schema in this file.")] = None
    regex: Annotated[str | None, option("Every thought matches this regular expression as a whole.")] = None
    raw: Annotated[
        bool,
        option(
            "Continue the text as it is, without the chat template; names of control tokens are those tokens.", "--raw"
        ),
    ] = False

    def settings(self) -> dict[str, Any]:
        """As a `Pipeline` takes them, checked before a model is loaded for them. Raises `InputError`."""
        kinds = {"temperature": float, "top_k": int, "top_p": float, "min_p": float, "top_nsigma": float}
        out = {**dataclasses.asdict(self), "stop": tuple(self.stop or ())}
        out |= {name: parse_numbers(name, out[name], kind) for name, kind in kinds.items() if out[name] is not None}
        if self.json_schema is not None:
            out["json_schema"] = _read_schema(self.json_schema)
        form = Grammar.given(out["json_schema"], self.regex)
        Request(**{name: value for name, value in out.items() if name not in _FORM}, grammar=form)
        return out


_FORM = {"raw", "json_schema", "regex"}


def _read_schema(file: Path) -> str:
    """A JSON schema's text. Raises `InputError`."""
    try:
        return bounded_text(file)
    except (OSError, ValueError) as error:
        raise InputError(
            f"Cannot read the JSON schema: {error}.", "Pass a file of JSON (--json-schema FILE)."
        ) from None


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """How a model is loaded."""

    dtype: Dtype = "auto"
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class LocalOptions(DeviceOptions):
    """How a model of this machine is loaded and run, and which one judges."""

    weights: Annotated[str, option("How steps read the weights: auto, native or fp16.")] = "auto"
    path: Annotated[str, option("Decoding path: auto, fused, shared, expanded or recompute.")] = "auto"
    judge: Annotated[str | None, option("A model that scores each thought's likelihood, named as --model.")] = None

    def pipeline(self, model: str | None) -> Pipeline:
        """Nothing is loaded yet."""
        return Pipeline(
            model,
            dtype=self.dtype,
            device=self.device,
            weights=cast("Weights", self.weights),
            path=cast("PathName", self.path),
            judge=self.judge,
            on_progress=progress(),
        )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is shown, and where."""

    measure: Annotated[bool, option("Embed the thoughts and measure them.")] = True
    stream: Annotated[bool, option("Show the thoughts while they grow (terminals only).")] = True
    json: Json = False
    html: Html = None
    quiet: Quiet = False

    @property
    def live(self) -> bool:
        """Whether thoughts may be seen growing."""
        return self.stream and not self.json and sys.stdout.isatty()

    def check(self, n: int, selection: SelectionOptions | None = None) -> None:
        """Refuse what could not be shown of n thoughts. Raises `InputError`."""
        if selection is not None:
            selection.check(n, self.measure)
        check_folder(self.html)


def read_text(text: str, empty: str, hint: str) -> str:
    """An argument, or standard input for "-". Raises `InputError` where it is blank."""
    if text == "-":
        text = read_stream(sys.stdin)
    if not text.strip():
        raise InputError(empty, hint)
    return text


def parse_numbers(name: str, text: str, kind: type[float] | type[int]) -> Any:
    """ "0.7" -> 0.7, "0.5,0.9" -> (0.5, 0.9). Raises `InputError`."""
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        hint = f"Pass a number, or several with commas ({_flag(name)} 1)."
        raise InputError(f"{_flag(name)} is {text!r}, not a number.", hint) from None
    return values[0] if len(values) == 1 else values


# --- from declarations to parameters ---------------------------------------------------------------------------------


def with_options(command: Callable[..., int | None], more: Iterable[inspect.Parameter] = ()) -> Callable[..., Any]:
    """Let Typer see, in place of a parameter that is a group of options, an option for each of the group's fields.

    Args:
        command: A parameter whose type is a dataclass or a `ThinkerOptions` is a group; the command gets an instance.
            `Annotated[Group, {"field": "--flag"}]` renames an option; its own name goes on working.
        more: Further parameters, whose values the command takes by **name.
    """
    flat: list[inspect.Parameter] = []
    groups: dict[str, Callable[[dict[str, Any], frozenset[str]], Any]] = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        kind, renamed = _group(parameter.annotation)
        if dataclasses.is_dataclass(kind):
            flat += _dataclass_parameters(kind)
            groups[name] = functools.partial(_dataclass_instance, kind)
        elif inspect.isclass(kind) and issubclass(kind, ThinkerOptions):
            flat += parameters_of_options(kind, renamed)
            groups[name] = functools.partial(_options_instance, kind, renamed)
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def filled(click_context: typer.Context, **given: Any) -> int | None:
        typed = frozenset(name for name in given if _was_typed(click_context, name))
        return command(**{name: build(given, typed) for name, build in groups.items()}, **given)

    first = inspect.Parameter("click_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    filled.__signature__ = inspect.Signature([first, *flat, *more])  # type: ignore[attr-defined]
    filled.__annotations__ = {}  # Typer would prefer them to the signature
    return filled


def _was_typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given by a flag or an environment variable, and not by the config file or a default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in {"COMMANDLINE", "ENVIRONMENT"}


def parameters_of_options(kind: type[ThinkerOptions], renamed: Mapping[str, str] = {}) -> list[inspect.Parameter]:
    """A thinker's options as parameters of a command. The values are checked by `kind` alone, so that a mistake gets
    the same answer everywhere."""
    out = []
    for name, field in fields_own_first(kind).items():
        typed: Any = value_type(field) or str
        default = field.default
        if typed is tuple:
            typed, default = list[str], list(default or ()) or None
        if default is None:
            typed = typed | None
        flags = (renamed[name], _flag(name)) if name in renamed else ()
        out.append(_parameter(name, Annotated[typed, option(f"{help_text(field)}.", *flags)], default))
    return out


def given_options(kind: type[ThinkerOptions], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that are not the default, as `kind` takes them."""
    out = {}
    for name, value in values.items():
        default = kind.model_fields[name].default
        if value is not None and value != (list(default) if isinstance(default, tuple) else default):
            out[name] = ",".join(value) if isinstance(value, list) else value
    return out


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _group(annotation: Any) -> tuple[Any, Mapping[str, str]]:
    """The type of a group of options, and its renamed flags."""
    if typing.get_origin(annotation) is Annotated:
        kind, renamed = typing.get_args(annotation)[:2]
        return kind, renamed if isinstance(renamed, Mapping) else {}
    return annotation, {}


def _dataclass_parameters(kind: Any) -> Sequence[inspect.Parameter]:
    """A field's help stands in its annotation, or in its metadata where the class knows nothing of command lines."""
    types = typing.get_type_hints(kind, include_extras=True)
    out = []
    for f in dataclasses.fields(kind):
        if f.name == TYPED:
            continue
        annotation = types[f.name]
        if "help" in f.metadata:
            annotation = Annotated[annotation, option(f.metadata["help"], *f.metadata["flags"])]
        default = inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default
        out.append(_parameter(f.name, annotation, default))
    return out


def _dataclass_instance(kind: Any, given: dict[str, Any], typed: frozenset[str]) -> Any:
    return kind(**{f.name: typed if f.name == TYPED else given.pop(f.name) for f in dataclasses.fields(kind)})


def _options_instance(
    kind: type[Options], renamed: Mapping[str, str], given: dict[str, Any], typed: frozenset[str]
) -> Options:
    """Takes a thinker's options out of `given`. Raises `InputError`."""
    try:
        return kind(**given_options(kind, {name: given.pop(name) for name in kind.model_fields}))
    except ValidationError as error:
        raise explained(kind, error, {name: renamed.get(name, _flag(name)) for name in kind.model_fields}) from None
