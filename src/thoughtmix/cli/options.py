"""Options of commands, each declared once: groups that commands share, and options made from a thinker's own."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, cast

import typer
from pydantic import ValidationError
from typer.models import OptionInfo

from thoughtmix.cli.output import STDOUT, check_files
from thoughtmix.cli.renamed import flag
from thoughtmix.cli.reporting import Reporter
from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text, read_stream, why_unread
from thoughtmix.core.grammar import Grammar
from thoughtmix.core.options import ThinkerOptions, explained, fields_own_first, help_text, value_type
from thoughtmix.core.request import DEFAULT_MIN_P, LANDING, MAX_NEW_TOKENS, Request
from thoughtmix.core.selection import QUALITY_FLOOR, check_floor
from thoughtmix.core.types import ThoughtSet
from thoughtmix.pipeline import PathName, Pipeline, Weights

Options = TypeVar("Options", bound=ThinkerOptions)
TYPED = "typed"
"""A group of options with a field of this name gets there which options of its command, its own or not, were given by a
flag or an environment variable, and not by the config file or a default; None: it was made in a program."""


def option(
    help: str, *flags: str, default: str | None = None, group: str | None = None, metavar: str | None = None
) -> Any:
    """An option in `Annotated[type, option(...)]`.

    Args:
        help: One sentence or two.
        flags: In place of the parameter's name.
        default: What happens without it, where the value of the default does not say it (None, an empty text).
        group: Under which head it stands in the help; None: among those that most people want, or where its group of
            options stands.
        metavar: What stands for its value; None: a word for its type.
    """
    shown: Any = True if default is None else default
    return typer.Option(*flags, help=help, show_default=shown, rich_help_panel=group, metavar=metavar)


COMMON = "Options"
SAMPLING, FORM, MODEL = "How tokens are drawn", "What an answer must look like", "How the model runs"
ELSEWHERE, MEASURING, MANY, SHOWING = "Models elsewhere", "Judging and measuring", "Many prompts", "What is shown"
"""Heads of the help."""

_EACH = "One value, or n with commas between."
_OWN = "the thinker's; sampling: {}"
Count = Annotated[int, option("How many thoughts.", "-n", "--n")]
Prompt = Annotated[str, typer.Argument(help="What to think about; - reads it from standard input.")]
Model = Annotated[
    str | None,
    option(
        "A folder, a GGUF file or a Hugging Face id.",
        "-m",
        "--model",
        default="SmolLM2-135M-Instruct, which comes along",
        metavar="NAME",
    ),
]
Dtype = Annotated[str, option("auto, float32, bfloat16 or float16.")]
Device = Annotated[str, option("auto, cpu, cuda, ...")]
MaxNewTokens = Annotated[int, option("Longest thought, in tokens.")]
Json = Annotated[bool, option("Print the result as JSON and nothing else.", "--json")]
Out = Annotated[Path | None, option("Also write the result here, as JSON; - is standard output.", default="no file")]
Html = Annotated[
    Path | None, option("Also write one self-contained page here; - is standard output.", default="no page")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing beside the result, but what went wrong.")]


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """Which of the thoughts are shown."""

    select: Annotated[
        int | None, option("Show only the k most different good thoughts.", default="all", metavar="K")
    ] = None
    quality_floor: Annotated[
        float,
        option("Quantile of likelihood that --select asks for: 0 difference alone, 1 the likeliest.", group=SHOWING),
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
    creativity: Annotated[
        float | None, option("0 is deterministic, 1 as it is meant, more is bolder.", default="1")
    ] = None
    seed: Annotated[int, option("Thought i gets seed + i - 1 and can be made again alone by it.", "-s", "--seed")] = 0
    max_new_tokens: MaxNewTokens = MAX_NEW_TOKENS
    landing: Annotated[
        float, option("In this last share of its tokens a thought ends with its sentence; 0: never.", group=FORM)
    ] = LANDING
    temperature: Annotated[
        str | None, option(f"Sampling temperature. {_EACH}", group=SAMPLING, default=_OWN.format("1"), metavar="X")
    ] = None
    top_k: Annotated[str, option(f"Keep the k likeliest tokens; 0 is off. {_EACH}", group=SAMPLING, metavar="K")] = "0"
    top_p: Annotated[str, option(f"Keep this much probability; 1 is off. {_EACH}", group=SAMPLING, metavar="X")] = "1"
    min_p: Annotated[
        str | None,
        option(
            f"Keep tokens at least this likely beside the likeliest; 0 is off. {_EACH}",
            group=SAMPLING,
            default=str(DEFAULT_MIN_P),
            metavar="X",
        ),
    ] = None
    top_nsigma: Annotated[
        str, option(f"Keep logits within n deviations; 0 is off. {_EACH}", group=SAMPLING, metavar="X")
    ] = "0"
    stop: Annotated[
        list[str] | None, option("End a thought before this text; may be repeated.", group=FORM, default="none")
    ] = None
    json_schema: Annotated[
        Path | None, option("Every thought is JSON of the JSON schema in this file.", group=FORM, default="any text")
    ] = None
    regex: Annotated[
        str | None,
        option("Every thought matches this regular expression as a whole.", group=FORM, default="any text"),
    ] = None
    raw: Annotated[
        bool,
        option(
            "Continue the text as it is, without the chat template; names of control tokens are those tokens.",
            "--raw",
            group=FORM,
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
            f"Cannot read the JSON schema: {why_unread(error)}.", "Pass a file of JSON (--json-schema FILE)."
        ) from None


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """How a model is loaded."""

    GROUP: ClassVar[str] = MODEL

    dtype: Dtype = "auto"
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class LocalOptions(DeviceOptions):
    """How a model of this machine is loaded and run, and which one judges."""

    weights: Annotated[str, option("How steps read the weights: auto, native or fp16.")] = "auto"
    path: Annotated[str, option("Decoding path: auto, fused, shared, expanded or recompute.")] = "auto"
    judge: Annotated[
        str | None,
        option(
            "A model that scores each thought's likelihood, named as --model.",
            group=MEASURING,
            default="nobody judges",
            metavar="NAME",
        ),
    ] = None

    def pipeline(self, model: str | None, report: Reporter) -> Pipeline:
        """Nothing is loaded yet."""
        return Pipeline(
            model,
            dtype=self.dtype,
            device=self.device,
            weights=cast("Weights", self.weights),
            path=cast("PathName", self.path),
            judge=self.judge,
            on_progress=report.step,
        )


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """Where a result goes."""

    out: Out = None
    html: Html = None
    json: Json = False

    @property
    def prints(self) -> bool:
        """Whether standard output is for people: nothing else was sent there."""
        return not self.json and STDOUT not in (self.out, self.html)

    def check(self) -> None:
        """Refuse what could not be written. Raises `InputError`."""
        check_files(self.out, self.html, STDOUT if self.json else None)


@dataclass(frozen=True, kw_only=True)
class ShownOptions(ResultOptions):
    """Where a set of thoughts goes, and how it is shown."""

    details: Annotated[
        bool, option("Show likelihoods, relevance, who differs from whom, and every metric.", "--details")
    ] = False


@dataclass(frozen=True, kw_only=True)
class OutputOptions(ShownOptions):
    """What is shown of thoughts that are being written, and where."""

    measure: Annotated[bool, option("Embed the thoughts and measure them.", group=MEASURING)] = True
    stream: Annotated[bool, option("Show the thoughts while they grow (terminals only).", group=SHOWING)] = True

    @property
    def live(self) -> bool:
        """Whether thoughts may be seen growing."""
        return self.stream and self.prints and sys.stdout.isatty()


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
        hint = f"Pass a number, or several with commas ({flag(name)} 1)."
        raise InputError(f"{flag(name)} is {text!r}, not a number.", hint) from None
    return values[0] if len(values) == 1 else values


# --- from declarations to parameters ---------------------------------------------------------------------------------


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
