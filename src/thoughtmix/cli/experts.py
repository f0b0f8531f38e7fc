"""`thoughtmix experts`: read and steer the routing of a mixture-of-experts model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.core.errors import InputError

experts = typer.Typer(
    help="Read and steer the routing of a mixture-of-experts model.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(experts, name="experts")

_MODEL = typer.Argument(help="A folder or a Hugging Face id of a mixture-of-experts model.", show_default=False)
_DTYPE = typer.Option(help="auto, float32, bfloat16 or float16.")
_DEVICE = typer.Option(help="auto, cpu, cuda, ...")


@experts.command("map")
def map_experts(
    model: Annotated[str, _MODEL],
    texts: Annotated[
        Path | None, typer.Option(help='JSON {"label": ["text", ...]}; default: built-in prompts.')
    ] = None,
    permutations: Annotated[int, typer.Option(help="Shufflings of the labels in the tests.")] = 999,
    alpha: Annotated[float, typer.Option(help="Chance of calling any expert wrongly over- or under-used.")] = 0.05,
    max_tokens: Annotated[int, typer.Option(help="Read this many tokens of a text at most.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the shufflings.")] = 0,
    dtype: Annotated[str, _DTYPE] = "auto",
    device: Annotated[str, _DEVICE] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained page here.")] = None,
    profiles: Annotated[Path | None, typer.Option(help="Also write the profiles found, for `experts think`.")] = None,
) -> None:
    """Find out what each expert is used for, and test it."""
    labelled = None if texts is None else _texts(texts)
    from thoughtmix.cli.output import progress
    from thoughtmix.core.types import write_whole
    from thoughtmix.experts import analyze_expert_specialization
    from thoughtmix.experts.profile import save_profiles
    from thoughtmix.models import load_model
    from thoughtmix.report.experts import experts_page, experts_plain

    say = progress()
    lm = load_model(model, dtype=dtype, device=device, on_progress=say)

    def on_text(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            say(f"Read {done} of {total} texts" if done < total else "Shuffling labels")

    found = analyze_expert_specialization(
        lm, labelled, permutations=permutations, alpha=alpha, seed=seed, max_tokens=max_tokens, on_text=on_text
    )
    print(found.to_json() if json else experts_plain(found))
    if html is not None:
        write_whole(html, experts_page(found))
        print(f"Wrote {html}", file=sys.stderr)
    if profiles is not None:
        made = found.profiles()
        if not made:
            raise InputError("No label has a profile: no expert stands out.", "Try more or longer texts (--texts).")
        save_profiles(profiles, made, found.facts())
        print(f"Wrote {profiles}: {', '.join(p.name for p in made)}", file=sys.stderr)


@experts.command("think")
def think_with_experts(
    model: Annotated[str, _MODEL],
    prompt: Annotated[str, typer.Argument(help="What to think about; - reads it from standard input.")],
    profiles: Annotated[
        str, typer.Option(help="noise, router, all, discovered, a label, or FILE.json; several with commas.")
    ] = "noise",
    n: Annotated[int, typer.Option("-n", "--n", help="How many thoughts.")] = 8,
    strength: Annotated[float, typer.Option(help="Times the biases of a profile.")] = 1.0,
    creativity: Annotated[float | None, typer.Option(help="Scales profiles and noise; 0 is the plain model.")] = None,
    head: Annotated[int, typer.Option(help="So many of a token's experts are left to the router under noise.")] = 0,
    read: Annotated[
        str, typer.Option(help="shared: the prompt is read once; each: by every thought itself.")
    ] = "shared",
    temperature: Annotated[str | None, typer.Option(help="Sampling temperature; default 0.7.")] = None,
    seed: Annotated[int, typer.Option(help="Thought i gets seed + i - 1; its profile follows from it.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest thought, in tokens.")] = 64,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    dtype: Annotated[str, _DTYPE] = "auto",
    device: Annotated[str, _DEVICE] = "auto",
    measure: Annotated[bool, typer.Option(help="Embed the thoughts and measure them.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the thought set as JSON and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained page here.")] = None,
) -> int:
    """Turn one prompt into n thoughts, each under its own routing."""
    from thoughtmix.cli.think import think

    option: list[Any] = [f"profiles={profiles}", f"strength={strength}", f"head={head}", f"read={read}"]
    return think(
        prompt,
        n=n,
        thinker="experts",
        creativity=creativity,
        seed=seed,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        raw=raw,
        model=model,
        dtype=dtype,
        device=device,
        option=option,
        measure=measure,
        json=json,
        html=html,
    )


def _texts(path: Path) -> dict[str, list[str]]:
    import json as codec

    hint = 'Write {"label": ["text", "text", ...], "other": [...]}.'
    try:
        body = codec.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read texts from {path}: {error}.", hint) from None
    if not isinstance(body, dict) or not all(isinstance(x, list) for x in body.values()):
        raise InputError(f"{path} is not an object of lists.", hint)
    return body
