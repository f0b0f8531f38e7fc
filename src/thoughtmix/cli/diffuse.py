"""`thoughtmix diffuse` and `thoughtmix renoise`: text out of noise, along several branches at once."""

from __future__ import annotations

import json as codec
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.cli.output import check_folder
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.diffusion.branching import BranchedResult, MultiBranchDiffusion
    from thoughtmix.diffusion.load import DiffusionModel
    from thoughtmix.diffusion.sampler import DenoisingConfig
    from thoughtmix.diffusion.state import DiffusionState

_MODEL = typer.Option(help="shakespeare-diffusion, a folder, or a Hugging Face id of a masked language model.")
_STEPS = typer.Option(help="Forward passes of each branch.")
_POLICY = typer.Option(
    help="Which positions are decided first: random, ancestral, first-hitting, confidence, margin, entropy, ..."
)
_REMASK = typer.Option(help="Take tokens back so that mistakes can be mended: cap, rescale, confidence or loop.")
_DEVICE = typer.Option(help="auto, cpu, cuda, ...")
_JSON = typer.Option("--json", help="Print everything as JSON and nothing else.")


@app.command()
def diffuse(
    prompt: Annotated[
        str, typer.Argument(help='Where the text begins, or a text with gaps: "To be, <mask:12> be"; - reads it.')
    ] = "",
    branches: Annotated[int, typer.Option(help="Texts denoised side by side.")] = 4,
    steps: Annotated[int, _STEPS] = 128,
    length: Annotated[int, typer.Option(help="Tokens to write after the prompt.")] = 256,
    select: Annotated[str, typer.Option(help="Who goes on: none, best, diverse or smc.")] = "diverse",
    at: Annotated[str, typer.Option(help="When that is decided: shares of the text, rising.")] = "0.2,0.5",
    keep: Annotated[int | None, typer.Option(help="How many go on, copied to fill the places; default: half.")] = None,
    score: Annotated[str, typer.Option(help="fill, path, or a judge: a model as in `think --model`.")] = "fill",
    strength: Annotated[float, typer.Option(help="What a nat of score counts (smc).")] = 20.0,
    merge: Annotated[int, typer.Option(help="Make one text of the best so many; 0: none.")] = 0,
    policy: Annotated[str, _POLICY] = "random",
    remask: Annotated[str | None, _REMASK] = None,
    block: Annotated[int, typer.Option(help="Fill in so many tokens at a time, left to right; 0: all.")] = 0,
    temperature: Annotated[float, typer.Option(help="Of the draws; 0: the likeliest token.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Keep this much probability; 1 is off.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Branch i begins with seed + i - 1.")] = 0,
    model: Annotated[str | None, _MODEL] = None,
    device: Annotated[str, _DEVICE] = "auto",
    live: Annotated[bool, typer.Option("--live", help="Watch them being denoised (terminals only).")] = False,
    json: Annotated[bool, _JSON] = False,
    html: Annotated[Path | None, typer.Option(help="Also write one page here that plays it.")] = None,
) -> None:
    """Write a text all at once out of noise, along branches that are judged, pruned, copied and merged."""
    settings = {
        "branches": branches,
        "steps": steps,
        "length": length,
        "select": select,
        "at": list(_shares(at)),
        "keep": keep,
        "score": score,
        "strength": strength,
        "merge": merge,
        "policy": policy,
        "remask": remask,
        "block": block,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    _diffuse(sys.stdin.read() if prompt == "-" else prompt, settings, model, device, live, json, html)


def _diffuse(
    prompt: str, settings: dict[str, Any], model: str | None, device: str, live: bool, json: bool, html: Path | None
) -> None:
    check_folder(html)
    from thoughtmix.report import branches as report

    diffusion = _multi_branch(settings, model, device)
    dm, seed, temperature = diffusion.model, settings["seed"], settings["temperature"]
    seeds = list(range(seed, seed + settings["branches"]))
    if "<mask" in prompt:
        state = dm.infill_state(prompt, seeds, temperature)
    else:
        state = dm.prompt_state(prompt, settings["length"], seeds, temperature)
    film = report.Film(dm)
    made = _watched(diffusion, state, prompt, film, live and not json)
    if html is not None:
        from thoughtmix.core.types import write_whole

        write_whole(html, report.page(made, film, dm.name, settings))
    if json:
        print(codec.dumps(report.to_dict(made, {"model": dm.name, **settings}), ensure_ascii=False, indent=2))
    else:
        print(report.plain(made, dm.name))
    if html is not None:
        print(f"Wrote {html}", file=sys.stderr)


def _multi_branch(settings: dict[str, Any], model: str | None, device: str) -> MultiBranchDiffusion:
    """Everything is checked before a model is loaded; a judge is loaded last."""
    from thoughtmix.diffusion.branching import BranchingConfig, MultiBranchDiffusion
    from thoughtmix.diffusion.selection import SCORES

    s, score = settings, settings["score"]
    denoising = _denoising_config(s["policy"], s["steps"], s["remask"], s["block"], s["top_p"])
    known = score in SCORES
    branching = BranchingConfig(
        s["select"], tuple(s["at"]), s["keep"], score=score if known else "fill", strength=s["strength"]
    )
    _require_positive("--branches", s["branches"])
    _require_positive("--length", s["length"])
    branching.check(denoising, s["branches"])
    dm = _load(model, device)
    if not known:
        branching = replace(branching, score=_judge(score, device))
    return MultiBranchDiffusion(s["branches"], dm, branching=branching, denoising=denoising, merge=s["merge"])


@app.command()
def renoise(
    text: Annotated[str, typer.Argument(help="The text to begin from; - reads it from standard input.")],
    level: Annotated[str, typer.Option(help="How much is forgotten, 0 to 1; several with commas.")] = "0.5",
    lock: Annotated[list[str] | None, typer.Option(help="Words of the text that stay; may be repeated.")] = None,
    how: Annotated[
        str, typer.Option(help="What is forgotten: random, span, or unsure (least likely first).")
    ] = "random",
    n: Annotated[int, typer.Option("-n", "--n", help="How many new versions.")] = 4,
    steps: Annotated[int, _STEPS] = 64,
    policy: Annotated[str, _POLICY] = "random",
    remask: Annotated[str | None, _REMASK] = None,
    temperature: Annotated[float, typer.Option(help="Of the draws; 0: the likeliest token.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Version i has seed + i - 1 and can be made again alone by it.")] = 0,
    model: Annotated[str | None, _MODEL] = None,
    device: Annotated[str, _DEVICE] = "auto",
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Noise an idea: forget part of a text, and denoise it again in n directions."""
    if text == "-":
        text = sys.stdin.read()
    if not text.strip():
        raise InputError("The text is empty.", 'Type one: thoughtmix renoise "To be, or not to be"')
    levels = _shares(level, "--level", most=True)
    config = _denoising_config(policy, steps, remask, 0, 1.0)
    _require_positive("-n", n)
    from thoughtmix.diffusion.renoise import renoise as renoise_text

    dm = _load(model, device)
    settings: dict[str, Any] = {"lock": lock or [], "how": how, "temperature": temperature}
    made = [renoise_text(dm, text, level, n, seed=seed, config=config, **settings) for level in levels]
    if json:
        body = [
            {"level": r.level, "forgotten": r.forgotten, "texts": r.texts, "distances": r.distances, "seeds": r.seeds}
            for r in made
        ]
        head = {"schema": "thoughtmix/renoised", "version": 1, "model": dm.name, "original": text, "how": how}
        print(codec.dumps({**head, "levels": body}, ensure_ascii=False, indent=2))
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
    diffusion: MultiBranchDiffusion, state: DiffusionState, prompt: str, film: Any, live: bool
) -> BranchedResult:
    from contextlib import nullcontext

    view: Any = None
    if live and sys.stdout.isatty():
        from rich.console import Console

        from thoughtmix.report.branches import LiveBranches

        view = LiveBranches(Console(), diffusion.model)

    def both(frame: Any) -> None:
        film(frame)
        if view is not None:
            view.show(frame)

    with view or nullcontext():
        return diffusion.denoise(state, prompt, on_frame=both)


def _denoising_config(name: str, steps: int, remask: str | None, block: int, top_p: float) -> DenoisingConfig:
    from thoughtmix.diffusion.policies import make_policy
    from thoughtmix.diffusion.sampler import DenoisingConfig
    from thoughtmix.diffusion.schedules import Remask

    policy = make_policy(name)
    taken = None if remask is None else Remask(remask)
    if steps < 1:
        raise InputError(f"steps is {steps}.", "Pass 1 or more (--steps 128).")
    own_steps = not policy.fixed_steps or policy.one_per_step
    return DenoisingConfig(policy, None if own_steps else steps, block, taken, top_p=top_p)


def _load(model: str | None, device: str) -> DiffusionModel:
    from thoughtmix.diffusion.load import load_diffusion

    return load_diffusion(model, device)


def _judge(name: str, device: str) -> Any:
    """Of texts, by an autoregressive model."""
    from thoughtmix.cli.output import progress
    from thoughtmix.diffusion.selection import likelihood_judge
    from thoughtmix.models import load_model

    lm = load_model(name, device=device, on_progress=progress())
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
