"""`thoughtmix experts`: read and steer the routing of a mixture-of-experts model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtmix.cli.app import app, group
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import (
    DeviceOptions,
    LocalOptions,
    OutputOptions,
    Prompt,
    ResultOptions,
    SamplingOptions,
    SelectionOptions,
    option,
)
from thoughtmix.cli.output import check_files, write_file
from thoughtmix.cli.reporting import Reporter
from thoughtmix.cli.think import explore, finish, read_prompt
from thoughtmix.core.errors import InputError
from thoughtmix.thinkers.experts import ExpertsThinker

experts = group("experts", "Read and steer the routing of a mixture-of-experts model.")
app.add_typer(experts)

_Model = Annotated[
    str, typer.Argument(help="A folder or a Hugging Face id of a mixture-of-experts model.", show_default=False)
]


@experts.command("map")
@with_options
def map_experts(
    model: _Model,
    texts: Annotated[Path | None, option('JSON {"label": ["text", ...]}.', default="built-in prompts")] = None,
    permutations: Annotated[int, option("Shufflings of the labels in the tests.")] = 999,
    alpha: Annotated[float, option("Chance of calling any expert wrongly over- or under-used.")] = 0.05,
    text_tokens: Annotated[int, option("Read this many tokens of a text at most.")] = 256,
    seed: Annotated[int, option("Of the shufflings.")] = 0,
    save: Annotated[
        Path | None, option("Also write the profiles found, for `experts think`.", default="no file")
    ] = None,
    *,
    device: DeviceOptions,
    output: ResultOptions,
    report: Reporter,
) -> None:
    """Find out what each expert is used for, and test it."""
    labelled = None if texts is None else _texts(texts)
    output.check()
    check_files(save)
    report.start("torch", "transformers")
    from thoughtmix.experts import analyze_expert_specialization
    from thoughtmix.experts.profile import save_profiles
    from thoughtmix.models import load_model
    from thoughtmix.report.experts import experts_page, experts_plain

    with report.work("Loading the model") as say:
        lm = load_model(model, dtype=device.dtype, device=device.device, on_progress=report.step)

        def on_text(done: int, total: int) -> None:
            say(f"Read {done} of {total} texts" if done < total else "Shuffling labels")

        found = analyze_expert_specialization(
            lm, labelled, permutations=permutations, alpha=alpha, seed=seed, max_tokens=text_tokens, on_text=on_text
        )
    if output.json:
        print(found.to_json())
    elif output.prints:
        print(experts_plain(found))
    write_file(output.out, found.to_json, report)
    write_file(output.html, lambda: experts_page(found), report)
    if save is not None:
        made = found.profiles()
        if not made:
            raise InputError("No label has a profile: no expert stands out.", "Try more or longer texts (--texts).")
        save_profiles(save, made, found.facts())
        report.note(f"Wrote {save}: {', '.join(p.name for p in made)}")


@experts.command("think")
@with_options
def think_with_experts(
    model: _Model,
    prompt: Prompt,
    *,
    selection: SelectionOptions,
    options: Annotated[ExpertsThinker.Options, "How the experts are steered"],
    sampling: SamplingOptions,
    engine: LocalOptions,
    output: OutputOptions,
    report: Reporter,
) -> int:
    """Turn one prompt into n thoughts, each under its own routing."""
    prompt = read_prompt(prompt)
    output.check()
    selection.check(sampling.n, output.measure)
    pipeline = engine.pipeline(model, report)
    thoughts, code = explore(pipeline, prompt, "experts", options, sampling.settings(), output, report)
    finish(thoughts, output, report, selection)
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
