"""All ways to several answers beside plain sampling, on equal terms: the table of docs/ways.md.

    python studies/ways/frontier.py --prompts novelty_bench_curated.jsonl --out frontier-out     # run, or go on
    python studies/ways/frontier.py --prompts novelty_bench_curated.jsonl --out frontier-out --report

Everyone has the same tokens in all (lists and specifications count), eight thoughts a prompt, and the same number of
settings, in studies/ways/settings.json. A setting is chosen on development prompts (one seed), and reported on others
(three seeds). Seeds are the outer loop: a run that is stopped reports those that are done by everyone. What is done is
kept, a prompt a line, and the same command goes on.

Known answers: the tasks of `thoughtmix bench`, 24 tokens a thought; valid answers, and distinct valid ones, of 8. Open:
the prompts of the file, 96 tokens a thought, the last third for landing; different answers of 8 by their words (which
choose nothing), by the embedder, whole ones, and nearness to the prompt.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thoughtmix.asking.question import kind_of_answer
from thoughtmix.batch.prompts import think_many
from thoughtmix.batch.records import Record
from thoughtmix.bench import statistics as st
from thoughtmix.bench.config import SEED_STEP, split_items
from thoughtmix.bench.pipeline import BenchPipeline
from thoughtmix.bench.record import environment, finite_json
from thoughtmix.bench.scoring import score
from thoughtmix.bench.systems import equal_budget
from thoughtmix.bench.tasks import Item, family, read_prompts
from thoughtmix.bench.trials import TrialRequest
from thoughtmix.core.files import append_line, write_whole
from thoughtmix.core.request import Prompt
from thoughtmix.thinkers.registry import get_thinker

N = 8
TOKENS = {"known": 24, "open": 96}
LANDING = {"known": 0.0, "open": 0.33}
DIVERSITY = {"known": "coverage", "open": "distinct_words"}
QUALITY = {"known": ("valid",), "open": ("complete", "relevance")}
SLACK = {"known": 0.0, "open": 0.02}
"""How far below sampling's best a chosen setting may be in quality, on development prompts."""
COLUMNS = {
    "known": {"valid": "valid", "coverage": "distinct valid", "tokens": "tokens"},
    "open": {
        "distinct_words": "distinct (words)",
        "distinct_k": "distinct (embedder)",
        "complete": "whole",
        "relevance": "relevance",
        "repetition": "repetition",
        "tokens": "tokens",
    },
}
BASELINE = "sampling"
ROWS = 64  # in a step, about


@dataclass(frozen=True)
class Job:
    """One way, one of its settings, one seed, on all items of a part."""

    kind: str
    way: str
    setting: int
    seed: int
    part: str

    def key(self, item: Item) -> str:
        return f"{self.kind}|{self.way}|{self.setting}|{item.id}|{self.seed}"


class Study:
    """The ways with their settings, the items, and what is done."""

    def __init__(self, args: argparse.Namespace) -> None:
        ways: dict[str, Any] = json.loads(Path(args.settings).read_text())
        named = args.ways.split(",") if args.ways else list(ways)
        self.ways = {name: ways[name] for name in named}
        known = [*family("coverage"), *family("puzzles")]
        self.items = {
            "known": _split(known, args.known),
            "open": _split([i for i in read_prompts(args.prompts) if _asks(i, args.asks)], args.open)
            if args.prompts
            else {"development": [], "held out": []},
        }
        if args.only:
            self.items = {args.only: self.items[args.only]}
        self.folder, self.seeds = Path(args.out), args.seeds
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "trials.jsonl"
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.done: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}
        self.pipeline = BenchPipeline()

    def settings(self, way: str, kind: str) -> list[dict[str, Any]]:
        return list(self.ways[way][kind])

    def of_kind(self, kind: str) -> list[str]:
        """The ways that are tried on such prompts."""
        return [way for way, given in self.ways.items() if kind in given]

    def is_chosen(self, kind: str) -> bool:
        """Whether there is anything to choose."""
        return any(len(self.settings(way, kind)) > 1 for way in self.of_kind(kind))

    def run(self) -> None:
        """What lacks: the development prompts, then seed by seed the chosen settings on the others."""
        kinds = [kind for kind in self.items if self.items[kind]["held out"]]
        for kind in kinds:
            for way in self.of_kind(kind):
                for setting in range(len(self.settings(way, kind)) * self.is_chosen(kind)):
                    self._do(Job(kind, way, setting, 0, "development"))
        for seed in range(self.seeds):
            for kind in kinds:
                chosen = self.choose(kind)
                for way in self.of_kind(kind):
                    self._do(Job(kind, way, chosen[way], seed, "held out"))

    def _do(self, job: Job) -> None:
        items = [item for item in self.items[job.kind][job.part] if job.key(item) not in self.done]
        if not items:
            return
        began, tokens = time.monotonic(), 0
        for item, record in self._answers(job, items):
            self.done[job.key(item)] = record
            append_line(self.file, json.dumps(record, ensure_ascii=False))
            tokens += int(record["scores"]["tokens"])
        spent = time.monotonic() - began
        print(f"{job.kind} {job.way} {job.setting} seed {job.seed} {job.part}: {len(items)} items, {spent:.0f} s, "
              f"{tokens / spent:.0f} tokens/s", flush=True)  # fmt: skip

    def _answers(self, job: Job, items: list[Item]) -> Iterator[tuple[Item, dict[str, Any]]]:
        setting = dict(self.settings(job.way, job.kind)[job.setting])
        thinker = get_thinker(setting.pop("thinker", self.ways[job.way].get("thinker", job.way)))
        asked = TrialRequest(items[0], N, SEED_STEP * job.seed, TOKENS[job.kind])
        how = equal_budget(thinker, {"landing": LANDING[job.kind], **thinker.repetition(asked.seed), **setting}, asked)
        request = self.pipeline.request(thinker, N, seed=asked.seed, **how)
        by_id = {item.id: item for item in items}
        records = [Record(i, Prompt.from_user(item.prompt), {"id": item.id}) for i, item in enumerate(items)]
        rows = ROWS * self.ways[job.way].get("texts_a_row", 1)
        self.pipeline.asked_embedder = False
        made = think_many(
            self.pipeline, thinker, request, records, measure=job.kind == "open", ordered=False, rows=rows
        )
        for record, thoughts in made:
            item = by_id[record.fields["id"]]
            if "error" in thoughts.run:
                raise SystemExit(f"{job}: {item.id}: {thoughts.run['error']}")
            raw = {"key": job.key(item), "set": thoughts.to_dict()}
            scores = score(raw, item, N)
            texts = [[t.text, t.finish] for t in thoughts]
            chose = self.pipeline.asked_embedder
            yield item, finite_json({"key": raw["key"], "scores": scores, "texts": texts, "chose_by_embedder": chose})

    def values(self, kind: str, way: str, setting: int, part: str, name: str, seeds: int) -> st.Floats:
        """(items,) of one score, seeds averaged."""
        jobs = [Job(kind, way, setting, seed, part) for seed in range(seeds)]
        return np.array(
            [np.mean([self.done[job.key(item)]["scores"][name] for job in jobs]) for item in self.items[kind][part]]
        )

    def choose(self, kind: str) -> dict[str, int]:
        """Of each way the setting with the most different answers on development prompts, among those of at least
        sampling's best quality; where none is, that of the best quality. Sampling itself: the most different."""
        if not self.is_chosen(kind):
            return dict.fromkeys(self.of_kind(kind), 0)
        table = {
            way: [
                {
                    name: float(self.values(kind, way, i, "development", name, 1).mean())
                    for name in (*QUALITY[kind], DIVERSITY[kind])
                }
                for i in range(len(self.settings(way, kind)))
            ]
            for way in self.of_kind(kind)
        }
        best = {name: max(row[name] for row in table[BASELINE]) - SLACK[kind] for name in QUALITY[kind]}
        chosen = {}
        for way, rows in table.items():
            good = [i for i, row in enumerate(rows) if way == BASELINE or all(row[q] >= best[q] for q in best)]
            lacks = [sum(max(0.0, best[q] - row[q]) for q in best) for row in rows]
            chosen[way] = max(good, key=lambda i: rows[i][DIVERSITY[kind]]) if good else int(np.argmin(lacks))
        return chosen

    def finished_seeds(self, kind: str, chosen: dict[str, int]) -> int:
        """How many seeds everyone has done on all held-out items."""
        count = 0
        while count < self.seeds and all(
            Job(kind, way, chosen[way], count, "held out").key(item) in self.done
            for way in self.of_kind(kind)
            for item in self.items[kind]["held out"]
        ):
            count += 1
        return count

    def report(self) -> str:
        lines: list[str] = []
        for kind in self.items:
            if self.items[kind]["held out"]:
                lines += self._report(kind)
        facts = environment()
        lines += [f"{facts['machine']['processor']}, {facts['versions']}, commit {facts['commit']}"]
        return "\n".join(lines)

    def _report(self, kind: str) -> list[str]:
        chosen = self.choose(kind)
        seeds = self.finished_seeds(kind, chosen)
        items = self.items[kind]
        counts = (len(items["held out"]), len(items["development"]), seeds)
        head = "{}: {} held-out prompts, settings chosen on {}, {} seeds".format(kind, *counts)
        if not seeds:
            return [head + ": no seed is done", ""]
        rng = np.random.default_rng(31)
        at = {
            way: {name: self.values(kind, way, chosen[way], "held out", name, seeds) for name in COLUMNS[kind]}
            for way in self.of_kind(kind)
        }
        base = at[BASELINE]
        main, others = DIVERSITY[kind], [way for way in self.of_kind(kind) if way != BASELINE]
        ratios = {way: st.ratio_of_means(at[way][main], base[main], rng) for way in others}
        differences = {(way, q): st.mean_difference(at[way][q], base[q], rng) for way in others for q in QUALITY[kind]}
        p = st.holm([ratios[way].p for way in others] + [differences[key].p for key in differences])
        adjusted = dict(zip([*others, *differences], p, strict=True))
        out = [head, ""]
        cells = ["way", "setting", *COLUMNS[kind].values(), f"{COLUMNS[kind][main]}, ratio (95%)"]
        cells += [f"{COLUMNS[kind][q]}, difference (95%)" for q in QUALITY[kind]]
        out += ["| " + " | ".join(cells) + " |", "|---" * len(cells) + "|"]
        for way in self.of_kind(kind):
            setting = self.settings(way, kind)[chosen[way]]
            row = [way, ", ".join(f"{k} {v}" for k, v in setting.items())]
            row += [
                f"{at[way][name].mean():.3f}" if name != "tokens" else f"{at[way][name].mean():.0f}"
                for name in COLUMNS[kind]
            ]
            if way != BASELINE:
                row.append(_told(ratios[way], adjusted[way], 2))
                row += [_told(differences[way, q], adjusted[way, q], 3) for q in QUALITY[kind]]
            out.append("| " + " | ".join(row) + " |")
        chose = sorted({key.split("|")[1] for key, r in self.done.items() if r["chose_by_embedder"]})
        return [*out, f"chose by the embedder: {', '.join(chose) or 'nobody'}", ""]


def _told(interval: st.Interval, p: float, digits: int) -> str:
    text = f"{interval.value:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"
    return f"**{text}**" if p < 0.05 else text


def _asks(item: Item, kind: str | None) -> bool:
    return kind is None or kind_of_answer(item.prompt) == kind


def _split(items: list[Item], sizes: str) -> dict[str, list[Item]]:
    """Development and held-out items, drawn by the bench's own split. sizes: "12,36"."""
    first, second = (int(size) for size in sizes.split(","))
    development, held_out = split_items(items, first / len(items))
    return {"development": list(development)[:first], "held out": list(held_out)[:second]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", help="JSON Lines with open prompts (NoveltyBench's file)")
    parser.add_argument("--out", required=True, help="folder of what is done")
    parser.add_argument("--settings", default=str(Path(__file__).with_name("settings.json")))
    parser.add_argument("--ways", help="some of the settings' ways, by commas; the first is the baseline")
    parser.add_argument("--known", default="14,47", help="development and held-out tasks with known answers")
    parser.add_argument("--open", default="10,30", help="development and held-out open prompts")
    parser.add_argument("--only", choices=("known", "open"), help="one kind of prompts alone")
    parser.add_argument("--asks", help="open prompts that ask for a name, phrase, sentence, one or long alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="print the table of what is done, and stop")
    args = parser.parse_args()
    study = Study(args)
    if not args.report:
        study.run()
    table = study.report()
    write_whole(study.folder / "table.md", table + "\n")
    print(table)


if __name__ == "__main__":
    main()
