"""`thoughtmix diffuse` and `thoughtmix renoise`: text out of noise, along several branches at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.cli.output import check_folder
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.diffusion.branching import Threads
    from thoughtmix.diffusion.load import DiffusionModel
    from thoughtmix.diffusion.sampler import Plan

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
    if prompt == "-":
        prompt = sys.stdin.read()
    check_folder(html)
    moments = _shares(at)
    settings = {
        "branches": branches, "steps": steps, "length": length, "select": select, "at": list(moments), "keep": keep,
        "score": score, "strength": strength, "merge": merge, "policy": policy, "remask": remask,
        "block": block, "temperature": temperature, "top_p": top_p, "seed": seed,
    }  # fmt: skip
    from thoughtmix.diffusion.branching import Branching, MultiBranchDiffusion
    from thoughtmix.diffusion.scores import NAMES
    from thoughtmix.report import branches as report
    from thoughtmix.report.film import Film

    plan = _plan(policy, steps, remask, block, top_p)
    judge = score if score in NAMES else None
    # Everything is checked before a model is loaded; a judge is loaded last.
    how = Branching(select, moments, keep, score=judge or "fill", strength=strength)
    _count("--branches", branches)
    _count("--length", length)
    how.check(plan, branches)
    dm = _load(model, device)
    if judge is None:
        how = Branching(select, moments, keep, score=_judge(score, device), strength=strength)
    diffusion = MultiBranchDiffusion(branches, dm, how=how, plan=plan, merge=merge)
    seeds = list(range(seed, seed + branches))
    gaps = "<mask" in prompt
    canvas = dm.infill(prompt, seeds, temperature) if gaps else dm.canvas(prompt, length, seeds, temperature)
    film = Film(dm)
    made = _watched(diffusion, canvas, prompt, film, live and not json)
    if html is not None:
        from thoughtmix.core.types import write_whole

        write_whole(html, report.page(made, film, dm.name, settings))
    if json:
        import json as codec

        print(codec.dumps(report.to_dict(made, {"model": dm.name, **settings}), ensure_ascii=False, indent=2))
    else:
        print(report.plain(made, dm.name))
    if html is not None:
        print(f"Wrote {html}", file=sys.stderr)


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
    plan = _plan(policy, steps, remask, 0, 1.0)
    _count("-n", n)
    from thoughtmix.diffusion.renoise import curve

    dm = _load(model, device)
    made = curve(dm, text, levels, n, lock=lock or [], how=how, seed=seed, plan=plan, temperature=temperature)
    if json:
        import json as codec

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


def _watched(diffusion: Any, canvas: Any, prompt: str, film: Any, live: bool) -> Threads:
    from contextlib import nullcontext

    view: Any = None
    if live and sys.stdout.isatty():
        from rich.console import Console

        from thoughtmix.report.branches import LiveBranches

        view = LiveBranches(Console(), diffusion.model)

    def both(frame: Any) -> None:
        film(frame)
        if view is not None:
            view.see(frame)

    with view or nullcontext():
        return diffusion.denoise(canvas, prompt, on_frame=both)


def _plan(name: str, steps: int, remask: str | None, block: int, top_p: float) -> Plan:
    from thoughtmix.diffusion.policies import policy
    from thoughtmix.diffusion.remask import Remask
    from thoughtmix.diffusion.sampler import Plan

    kind = policy(name)
    taken = None if remask is None else Remask(remask)
    if steps < 1:
        raise InputError(f"steps is {steps}.", "Pass 1 or more (--steps 128).")
    return Plan(kind, steps if kind.planned and not kind.one else None, block, taken, top_p=top_p)


def _load(model: str | None, device: str) -> DiffusionModel:
    from thoughtmix.diffusion.load import load_diffusion

    return load_diffusion(model, device)


def _judge(name: str, device: str) -> Any:
    """Of texts, by an autoregressive model."""
    from thoughtmix.cli.output import progress
    from thoughtmix.diffusion.scores import likelihood
    from thoughtmix.models import load_model

    lm = load_model(name, device=device, on_progress=progress())
    if not lm.causal:
        raise InputError(f"{name} does not read from left to right.", "Pass --score fill, path or a causal model.")
    return likelihood(lm)


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


def _count(option: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{option} is {value}.", f"Pass 1 or more ({option} 4).")
