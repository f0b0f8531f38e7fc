"""`thoughtmix experts`: read and steer the routing of a mixture-of-experts model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.options import (
    DeviceOptions,
    Html,
    Json,
    LocalOptions,
    OutputOptions,
    Prompt,
    SamplingOptions,
    SelectionOptions,
    option,
    with_options,
)
from thoughtmix.cli.think import explore, finish, read_prompt
from thoughtmix.core.errors import InputError
from thoughtmix.thinkers.experts import ExpertsThinker

experts = typer.Typer(
    help="Read and steer the routing of a mixture-of-experts model.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(experts, name="experts")

_Model = Annotated[
    str, typer.Argument(help="A folder or a Hugging Face id of a mixture-of-experts model.", show_default=False)
]


@experts.command("map")
@with_options
def map_experts(
    model: _Model,
    texts: Annotated[Path | None, option('JSON {"label": ["text", ...]}; default: built-in prompts.')] = None,
    permutations: Annotated[int, option("Shufflings of the labels in the tests.")] = 999,
    alpha: Annotated[float, option("Chance of calling any expert wrongly over- or under-used.")] = 0.05,
    max_tokens: Annotated[int, option("Read this many tokens of a text at most.")] = 256,
    seed: Annotated[int, option("Of the shufflings.")] = 0,
    json: Json = False,
    html: Html = None,
    profiles: Annotated[Path | None, option("Also write the profiles found, for `experts think`.")] = None,
    *,
    device: DeviceOptions,
) -> None:
    """Find out what each expert is used for, and test it."""
    labelled = None if texts is None else _texts(texts)
    from thoughtmix.cli.output import progress
    from thoughtmix.core.files import write_whole
    from thoughtmix.experts import analyze_expert_specialization
    from thoughtmix.experts.profile import save_profiles
    from thoughtmix.models import load_model
    from thoughtmix.report.experts import experts_page, experts_plain

    say = progress()
    lm = load_model(model, dtype=device.dtype, device=device.device, on_progress=say)

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
@with_options
def think_with_experts(
    model: _Model,
    prompt: Prompt,
    *,
    selection: SelectionOptions,
    options: ExpertsThinker.Options,
    sampling: SamplingOptions,
    engine: LocalOptions,
    output: OutputOptions,
) -> int:
    """Turn one prompt into n thoughts, each under its own routing."""
    prompt = read_prompt(prompt)
    output.check(sampling.n, selection)
    thoughts, code = explore(engine.pipeline(model), prompt, "experts", options, sampling.settings(), output)
    finish(thoughts, output, selection)
    return code


def _texts(path: Path) -> dict[str, list[str]]:
    from thoughtmix.core.files import bounded_text, parse_json

    hint = 'Write {"label": ["text", "text", ...], "other": [...]}.'
    try:
        body = parse_json(bounded_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read texts from {path}: {error}.", hint) from None
    if not isinstance(body, dict) or not all(isinstance(x, list) for x in body.values()):
        raise InputError(f"{path} is not an object of lists.", hint)
    return body
