"""Options of commands, each declared once: groups that commands share, and options made from a thinker's own."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import typer

from thoughtmix.cli.output import STDOUT, check_files
from thoughtmix.cli.renamed import flag
from thoughtmix.cli.reporting import Reporter
from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text, read_stream, why_unread
from thoughtmix.core.grammar import Grammar
from thoughtmix.core.request import DEFAULT_MIN_P, LANDING, MAX_NEW_TOKENS, Request
from thoughtmix.core.selection import QUALITY_FLOOR, check_floor
from thoughtmix.core.types import ThoughtSet
from thoughtmix.pipeline import PathName, Pipeline, Weights


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

    weights: Annotated[str, option("How steps read the weights: auto, native, fp16 or bf16.")] = "auto"
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
