"""`thoughtmix diffuse` and `thoughtmix renoise`: text out of noise, along several branches at once."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import COMMON, Device, Json, Out, ResultOptions, option, read_text
from thoughtmix.cli.output import STDOUT, as_json, check_files, print_json, write_file
from thoughtmix.cli.reporting import Reporter
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.diffusion.branching import BranchedResult, BranchingConfig, MultiBranchDiffusion
    from thoughtmix.diffusion.load import DiffusionModel
    from thoughtmix.diffusion.sampler import DenoisingConfig
    from thoughtmix.diffusion.state import DiffusionState

_Steps = Annotated[int, option("Forward passes of each branch.")]


@dataclass(frozen=True, kw_only=True)
class DenoisingOptions:
    """How a text is written out of noise, and by which model."""

    GROUP: ClassVar[str] = "How noise becomes text"
    steps: _Steps = 128
    policy: Annotated[
        str,
        option("Which positions are decided first: random, ancestral, first-hitting, confidence, margin, entropy, ..."),
    ] = "random"
    remask: Annotated[
        str | None,
        option(
            "Take tokens back so that mistakes can be mended: cap, rescale, confidence or loop.",
            default="what is written stays",
            metavar="NAME",
        ),
    ] = None
    temperature: Annotated[float, option("Of the draws; 0: the likeliest token.")] = 1.0
    model: Annotated[
        str | None,
        option(
            "A folder, or a Hugging Face id of a masked language model.",
            "-m",
            "--model",
            default="shakespeare-diffusion, which comes along",
            metavar="NAME",
        ),
    ] = None
    device: Device = "auto"

    def denoising(self, block: int = 0, top_p: float = 1.0) -> DenoisingConfig:
        """Raises `InputError`, `UnknownName`."""
        from thoughtmix.diffusion.policies import make_policy
        from thoughtmix.diffusion.sampler import DenoisingConfig
        from thoughtmix.diffusion.schedules import Remask

        policy = make_policy(self.policy)
        remask = None if self.remask is None else Remask(self.remask)
        _require_positive("--steps", self.steps)
        own_steps = not policy.fixed_steps or policy.one_per_step
        return DenoisingConfig(policy, None if own_steps else self.steps, block, remask, top_p=top_p)

    def load(self) -> DiffusionModel:
        from thoughtmix.diffusion.load import load_diffusion

        return load_diffusion(self.model, self.device)


@dataclass(frozen=True, kw_only=True)
class RenoiseOptions(DenoisingOptions):
    steps: _Steps = 64


@dataclass(frozen=True, kw_only=True)
class BranchOptions:
    """The branches, and how they compete."""

    GROUP: ClassVar[str] = "How branches compete"
    branches: Annotated[int, option("Texts denoised side by side.", group=COMMON)] = 4
    max_new_tokens: Annotated[int, option("Tokens to write after the prompt.")] = 256
    compete: Annotated[str, option("Who goes on: none, best, diverse or smc.")] = "diverse"
    at: Annotated[str, option("When that is decided: shares of the text, rising.")] = "0.2,0.5"
    keep: Annotated[int | None, option("How many go on, copied to fill the places.", default="half")] = None
    score: Annotated[str, option("fill, path, or a judge: a model as in `think --model`.")] = "fill"
    sharpness: Annotated[float, option("What a nat of score counts (smc).")] = 20.0
    merge: Annotated[int, option("Make one text of the best so many; 0: none.")] = 0
    block: Annotated[int, option("Fill in so many tokens at a time, left to right; 0: all.")] = 0
    top_p: Annotated[float, option("Keep this much probability; 1 is off.")] = 1.0
    seed: Annotated[int, option("Branch i begins with seed + i - 1.", "-s", "--seed")] = 0

    @property
    def judged(self) -> bool:
        """Whether the score is a model's."""
        from thoughtmix.diffusion.selection import SCORES

        return self.score not in SCORES

    def branching(self) -> BranchingConfig:
        """With a judge of no use until it is loaded. Raises `InputError`, `UnknownName`."""
        from thoughtmix.diffusion.branching import BranchingConfig

        score = "fill" if self.judged else self.score
        return BranchingConfig(self.compete, _shares(self.at), self.keep, score=score, strength=self.sharpness)


@app.command()
@with_options
def diffuse(
    prompt: Annotated[
        str, typer.Argument(help='Where the text begins, or a text with gaps: "To be, <mask:12> be"; - reads it.')
    ] = "",
    *,
    own: BranchOptions,
    denoising: DenoisingOptions,
    live: Annotated[bool, option("Watch them being denoised (terminals only).", "--live")] = False,
    output: ResultOptions,
    report: Reporter,
) -> None:
    """Write a text all at once out of noise, along branches that are judged, pruned, copied and merged."""
    report.start("torch")
    from thoughtmix.core.files import read_stream
    from thoughtmix.report import branches as branches_report

    prompt = read_stream(sys.stdin) if prompt == "-" else prompt
    settings = {**dataclasses.asdict(own), **dataclasses.asdict(denoising), "at": list(_shares(own.at))}
    settings = {name: value for name, value in settings.items() if name not in {"model", "device"}}
    output.check()
    with report.work("Loading the model"):
        diffusion = _multi_branch(own, denoising, report)
    dm, seeds = diffusion.model, list(range(own.seed, own.seed + own.branches))
    if "<mask" in prompt:
        state = dm.infill_state(prompt, seeds, denoising.temperature)
    else:
        state = dm.prompt_state(prompt, own.max_new_tokens, seeds, denoising.temperature)
    film = branches_report.Film(dm)
    made = _watched(diffusion, state, prompt, film, live and output.prints, report)
    body = branches_report.to_dict(made, {"model": dm.name, **settings})
    if output.json:
        print_json(body)
    elif output.prints:
        print(branches_report.plain(made, dm.name))
    write_file(output.out, lambda: as_json(body), report)
    write_file(output.html, lambda: branches_report.page(made, film, dm.name, settings), report)


def _multi_branch(own: BranchOptions, how: DenoisingOptions, report: Reporter) -> MultiBranchDiffusion:
    """Everything is checked before a model is loaded; a judge is loaded last."""
    from thoughtmix.diffusion.branching import MultiBranchDiffusion

    denoising, branching = how.denoising(own.block, own.top_p), own.branching()
    _require_positive("--branches", own.branches)
    _require_positive("--max-new-tokens", own.max_new_tokens)
    branching.check(denoising, own.branches)
    dm = how.load()
    if own.judged:
        branching = dataclasses.replace(branching, score=_judge(own.score, how.device, report))
    return MultiBranchDiffusion(own.branches, dm, branching=branching, denoising=denoising, merge=own.merge)


@app.command()
@with_options
def renoise(
    text: Annotated[str, typer.Argument(help="The text to begin from; - reads it from standard input.")],
    level: Annotated[str, option("How much is forgotten, 0 to 1; several with commas.")] = "0.5",
    lock: Annotated[list[str] | None, option("Words of the text that stay; may be repeated.", default="none")] = None,
    mask: Annotated[str, option("What is forgotten: random, span, or unsure (least likely first).")] = "random",
    n: Annotated[int, option("How many new versions.", "-n", "--n")] = 4,
    seed: Annotated[int, option("Version i has seed + i - 1 and can be made again alone by it.", "-s", "--seed")] = 0,
    json: Json = False,
    out: Out = None,
    *,
    denoising: RenoiseOptions,
    report: Reporter,
) -> None:
    """Noise an idea: forget part of a text, and denoise it again in n directions."""
    text = read_text(text, "The text is empty.", 'Type one: thoughtmix renoise "To be, or not to be"')
    levels = _shares(level, "--level", most=True)
    report.start("torch")
    config = denoising.denoising()
    _require_positive("-n", n)
    check_files(out, STDOUT if json else None)
    from thoughtmix.diffusion.renoise import renoise as renoise_text

    with report.work("Loading the model") as say:
        dm = denoising.load()
        settings: dict[str, Any] = {"lock": lock or [], "how": mask, "temperature": denoising.temperature}
        made = []
        for each in levels:
            say(f"Writing {n} versions at level {each:g}")
            made.append(renoise_text(dm, text, each, n, seed=seed, config=config, **settings))
    versions = [
        {"level": r.level, "forgotten": r.forgotten, "texts": r.texts, "distances": r.distances, "seeds": r.seeds}
        for r in made
    ]
    head = {"schema": "thoughtmix/renoised", "version": 1, "model": dm.name, "original": text, "how": mask}
    body = {**head, "levels": versions}
    write_file(out, lambda: as_json(body), report)
    if json:
        print_json(body)
    if json or out == STDOUT:
        return
    from thoughtmix.report.text import printable

    for r in made:
        for new, far, own in zip(r.texts, r.distances, r.seeds, strict=True):
            print(f"level {r.level:g}, seed {own}: {far:.0%} of the characters changed\n{printable(new)}\n")
    if len(made) > 1:
        print("level  mean distance from the original")
        for r in made:
            far = sum(r.distances) / len(r.distances)
            print(f"{r.level:5g}  {far:.3f} {'#' * round(40 * far)}")


def _watched(
    diffusion: MultiBranchDiffusion, state: DiffusionState, prompt: str, film: Any, live: bool, report: Reporter
) -> BranchedResult:
    if live and sys.stdout.isatty():
        from rich.console import Console

        from thoughtmix.report.branches import LiveBranches

        view = LiveBranches(Console(), diffusion.model)

        def both(frame: Any) -> None:
            film(frame)
            view.show(frame)

        with view:
            return diffusion.denoise(state, prompt, on_frame=both)
    with report.work("Denoising") as say:

        def step(frame: Any) -> None:
            film(frame)
            filled = float(frame.state.filled.mean())
            say(f"Denoising: pass {len(film.frames)}, {filled:.0%} of the text is written")

        return diffusion.denoise(state, prompt, on_frame=step)


def _judge(name: str, device: str, report: Reporter) -> Any:
    """Of texts, by an autoregressive model."""
    from thoughtmix.diffusion.selection import likelihood_judge
    from thoughtmix.models import load_model

    lm = load_model(name, device=device, on_progress=report.step)
    if not lm.causal:
        raise InputError(f"{name} does not read from left to right.", "Pass --score fill, path or a causal model.")
    return likelihood_judge(lm)


def _shares(text: str, option: str = "--at", most: bool = False) -> tuple[float, ...]:
    try:
        values = tuple(float(x) for x in text.split(","))
    except ValueError:
        raise InputError(
            f"{option} is {text!r}, not numbers.", f"Pass shares with commas ({option} 0.25,0.5)."
        ) from None
    if any(not 0 < v <= 1 or (v == 1 and not most) for v in values):
        raise InputError(f"{option} is {text!r}.", f"Pass shares between 0 and 1 ({option} 0.25,0.5).")
    return values


def _require_positive(option: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{option} is {value}.", f"Pass 1 or more ({option} 4).")
