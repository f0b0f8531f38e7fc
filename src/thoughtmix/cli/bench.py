"""`thoughtmix bench`: thinkers beside each other, with intervals."""

from __future__ import annotations

import dataclasses
import json as codec
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import MEASURING, DeviceOptions, Json, Model, option
from thoughtmix.cli.output import print_json
from thoughtmix.cli.reporting import Reporter
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.bench.config import BenchConfig, Models
    from thoughtmix.bench.tasks import Item


_SETTINGS = "How settings are chosen"


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured, and how."""

    thinkers: Annotated[str, option("Who takes part, the first as baseline; see --list.")] = (
        "sampling,temperature,styles"
    )
    prompts: Annotated[
        Path | None,
        option(
            "A file of open prompts: JSONL with `prompt` (NoveltyBench's files too), or .txt, a prompt a line.",
            default="none",
        ),
    ] = None
    tasks: Annotated[
        str | None,
        option(
            "Task families: coverage, puzzles, countdown, writing, by commas, or none.",
            default="coverage,puzzles; none beside --prompts",
        ),
    ] = None
    quick: Annotated[
        bool,
        option(
            "A look in a few minutes, no result: 1 seed, 3 settings, 8 prompts of each kind, 256 tokens, unless named.",
            "--quick",
        ),
    ] = False
    n: Annotated[int, option("Thoughts a trial.", "-n", "--n")] = 8
    budget: Annotated[int, option("Most tokens of a trial, all n thoughts together, for everyone.")] = 384
    seeds: Annotated[int, option("Seeds of each prompt and setting; 3 or more for a result.")] = 3
    settings: Annotated[int, option("Settings each thinker may try on the development prompts.", group=_SETTINGS)] = 5
    keep: Annotated[int, option("Settings of each that are reported on the held-out prompts.", group=_SETTINGS)] = 3
    grids: Annotated[
        Path | None, option("JSON with a list of settings by thinker.", default="those that are built in")
    ] = None
    limit: Annotated[
        int | None, option("Take only so many of the prompts of each kind, drawn by --seed.", default="all")
    ] = None
    development: Annotated[float, option("Share of the prompts for choosing settings.", group=_SETTINGS)] = 0.4
    pairs: Annotated[
        Path | None,
        option("Labelled pairs (a, b, same) that set the threshold of distinct_k.", group=MEASURING, default="0.3"),
    ] = None
    seed: Annotated[int, option("Of the split, the intervals and the examples.", "-s", "--seed")] = 0
    typed: frozenset[str] = frozenset()

    def config(self, models: Models, report: Reporter) -> BenchConfig:
        """The prompts read, the settings to try laid out. Raises `InputError`."""
        from thoughtmix.bench.config import BenchConfig, split_items
        from thoughtmix.bench.grids import build_grids

        if self.quick:
            values: dict[str, Any] = {name: value for name, value in _QUICK.items() if name not in self.typed}
            return dataclasses.replace(self, quick=False, **values).config(models, report)
        names = tuple(name.strip() for name in self.thinkers.split(","))
        first, second = split_items(_items(self.prompts, self.tasks), self.development, self.limit, self.seed)
        return BenchConfig(
            names,
            build_grids(names, self.settings, self.grids, models, first),
            first,
            second,
            n=self.n,
            max_new_tokens=self.budget // max(self.n, 1),
            seeds=self.seeds,
            keep=self.keep,
            seed=self.seed,
            threshold=0.3 if self.pairs is None else _threshold(self.pairs, models, report),
            models=models,
        )


_QUICK = {"seeds": 1, "settings": 3, "keep": 2, "limit": 8, "budget": 256}
"""What --quick sets, where the command line does not."""


@app.command()
@with_options
def bench(
    own: BenchOptions,
    device: DeviceOptions,
    model: Model = None,
    judge: Annotated[
        str | None,
        option(
            "Who judges open prompts, named as --model.",
            group=MEASURING,
            default="nobody, and the report says so",
            metavar="NAME",
        ),
    ] = None,
    judge_endpoint: Annotated[
        str | None,
        option(
            "An endpoint that judges, URL or @profile; --judge is its model.",
            group=MEASURING,
            default="nobody judges",
            metavar="URL",
        ),
    ] = None,
    judge_by: Annotated[
        str | None,
        option(
            "likelihood, rubric, or pairs with the model's likeliest answer.",
            group=MEASURING,
            default="likelihood here, rubric at an endpoint",
        ),
    ] = None,
    reward: Annotated[
        str | None,
        option(
            "A reward model as measure of quality: novelty-bench, a folder or a Hugging Face id.",
            group=MEASURING,
            default="none",
            metavar="NAME",
        ),
    ] = None,
    equivalence: Annotated[
        str,
        option(
            "What tells answers that are the same: embedder, words, novelty-bench, or the name of a classifier or a "
            "second embedder. auto: words where a thinker asked the embedder, else embedder.",
            group=MEASURING,
        ),
    ] = "auto",
    embedder: Annotated[
        str | None,
        option(
            "What embeds: a folder or a Hugging Face id.",
            group=MEASURING,
            default="all-MiniLM-L6-v2, which comes along",
            metavar="NAME",
        ),
    ] = None,
    workers: Annotated[int, option("Processes, each with its own models.")] = 1,
    ray: Annotated[bool, option("Spread the workers with Ray, over machines too.", "--ray")] = False,
    out: Annotated[
        Path, option("Folder for trials, record and page; the same again continues it.", metavar="FOLDER")
    ] = Path("bench-out"),
    json: Json = False,
    list_: Annotated[bool, option("Print who can take part, and stop.", "--list")] = False,
    *,
    report: Reporter,
) -> None:
    """Measure diversity against quality, on equal terms, and write a page with intervals."""
    if list_:
        _list(json)
        return
    from thoughtmix.bench.config import Models

    models = Models(model, judge, embedder, device.dtype, device.device, judge_endpoint, judge_by, reward, equivalence)
    with report.work("Laying out the settings"):
        config = own.config(models, report)
    _run(config, out, workers, ray, json, report)


def _run(config: BenchConfig, out: Path, workers: int, ray: bool, json: bool, report: Reporter) -> None:
    """Run what the folder lacks, write the record and the page into it, and print the record or what it comes to."""
    from thoughtmix.bench.report import page
    from thoughtmix.bench.study import run_bench
    from thoughtmix.bench.trials import TrialStore
    from thoughtmix.core.files import write_whole

    store = TrialStore(out, config.to_dict())
    if store.records:
        report.note(f"Continuing: {len(store.records)} trials are there.")
    with report.work("Loading the models") as say:
        result = run_bench(config, store, workers=workers, ray=ray, on_progress=lambda progress: say(str(progress)))
    write_whole(out / "result.json", codec.dumps(result, indent=1, ensure_ascii=False, allow_nan=False))
    write_whole(out / "report.html", page(result))
    if json:
        print_json(result)
    else:
        _print_result(result)
    report.note(f"Wrote {out / 'report.html'} and {out / 'result.json'}")


def _list(json: bool) -> None:
    from thoughtmix.bench.systems import get_system, system_names

    if json:
        print_json({name: get_system(name).summary for name in system_names()})
        return
    for name in system_names():
        print(f"{name:18}  {get_system(name).summary}")


def _items(prompts: Path | None, tasks: str | None) -> list[Item]:
    """Those of the file alone, where one is named and no tasks are."""
    from thoughtmix.bench.tasks import family, read_prompts

    items = [] if prompts is None else read_prompts(prompts)
    if tasks is None:
        tasks = "coverage,puzzles" if prompts is None else "none"
    for name in tasks.split(",") if tasks not in {"", "none"} else ():
        items += family(name.strip())
    if not items:
        raise InputError("There is nothing to ask.", "Pass --prompts FILE, or --tasks coverage.")
    return items


def _threshold(file: Path, models: Models, report: Reporter) -> float:
    """Calibrated on the labelled pairs, with the embedder of the run."""
    from thoughtmix.bench.scoring import calibrate_threshold, load_pairs

    pairs, same = load_pairs(file)
    left, right = (models.pipeline().embedder.encode([pair[side] for pair in pairs]) for side in (0, 1))
    got = calibrate_threshold(1 - (left * right).sum(1), same)
    report.note(
        f"Same below a distance of {got.threshold:.3f}: "
        f"{100 * got.balanced_accuracy:.0f}% of {got.pairs} pairs are told right."
    )
    return round(got.threshold, 4)


def _print_result(result: dict[str, Any]) -> None:
    """Each kind of prompt: the means of the reported settings, then the comparisons, under headers."""
    from thoughtmix.bench.report import comparison, limits, too_few

    baseline = result["plan"]["thinkers"][0]
    for kind, body in result["kinds"].items():
        axes = body["axes"]
        print(f"{kind}: {body['prompts']['held out']} held-out prompts")
        print(f"  {'thinker':18} {'setting':>8}  {axes['quality']:>14} {axes['diversity']:>14}")
        for name, points in body["held_out"].items():
            for p in points:
                print(f"  {name:18} {p['setting'] + 1:>8}  {p['quality']:>14.3f} {p['diversity']:>14.3f}")
        rows, note = [comparison(c) for c in body["comparisons"]], too_few(body)
        if note:
            print(f"  {note}")
        elif rows:
            print(f"  {'beside ' + baseline:18} {'measure':40} {'value':>12}  {'95% interval':24} p (Holm)")
        for row in () if note else rows:
            print(
                f"  {row['thinker']:18} {row['measure']:40} {row['value']:>12}  {row['interval']:24} {row['p']}"
                f"{' *' if row['tells'] else ''}"
            )
    for says in limits(result):
        print(says)
