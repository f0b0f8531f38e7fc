"""All ways to several answers beside plain sampling, on equal terms: the table of docs/ways.md.

    python studies/ways/frontier.py --prompts novelty_bench_curated.jsonl --out frontier-out     # run, or go on
    python studies/ways/frontier.py --prompts novelty_bench_curated.jsonl --out frontier-out --report

Eight thoughts a prompt. Settings are in studies/ways/settings.json, two a way and four of plain sampling. A setting is
chosen on development prompts (one seed), and reported on others (three seeds). Seeds are the outer loop: a run that is
stopped reports those that are done by everyone. What is done is kept, a prompt a line, and the same command goes on.
Ways that were seen to lose may be run once (--once), and are told beside the same seed of plain sampling.

Known answers: the tasks of `thoughtmix bench`; valid answers, and distinct valid ones, of 8. Everyone has the same most
tokens in all, 24 a thought (lists and specifications count). Open: the prompts of the file that ask for a sentence or
more, 64 tokens for each text that is written, whatever is then left out: the tokens in all are told. The last third of
a text is for landing. A way stands beside the setting of plain sampling that is as near to the prompt. Different
answers of 8: by an embedder that chose nothing (second.py), at the distance at which plain sampling has as many on
development prompts as by the packaged embedder at 0.3; by that one; and by words. Whole ones, nearness to the prompt by
both embedders, and the share that neither repeats itself nor is a stock phrase. Nobody judges.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import second

from thoughtmix import Pipeline
from thoughtmix.asking.question import kind_of_answer
from thoughtmix.batch.records import SEED_STRIDE
from thoughtmix.bench import statistics as st
from thoughtmix.bench.config import SEED_STEP, split_items
from thoughtmix.bench.record import environment, finite_json
from thoughtmix.bench.scoring import score
from thoughtmix.bench.systems import equal_budget
from thoughtmix.bench.tasks import Item, family, read_prompts
from thoughtmix.bench.trials import TrialRequest
from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.core.files import append_line, write_whole
from thoughtmix.core.request import Prompt
from thoughtmix.engine.concurrent import ConcurrentEngines, concurrent_engines
from thoughtmix.engine.engine import Engine
from thoughtmix.metrics import measure
from thoughtmix.models import Embedder
from thoughtmix.thinkers.registry import get_thinker

N = 8
TOKENS = {"known": 24, "open": 64}
LANDING = {"known": 0.0, "open": 0.33}
DIVERSITY = {"known": "coverage", "open": "distinct_2"}
QUALITY = {"known": ("valid",), "open": ("complete", "relevance_2", "clean")}
CHOOSING = 8
"""Development tasks that are looked at, of those which the split sets apart (18, as for the graft's own table)."""
SLACK = {"known": 0.0, "open": 0.02}
"""How far below sampling's best a chosen setting may be in quality, on development prompts."""
COLUMNS = {
    "known": {"valid": "valid", "coverage": "distinct valid", "tokens": "tokens"},
    "open": {
        "distinct_2": "different (second embedder)",
        "distinct_k": "(packaged embedder)",
        "distinct_words": "(words)",
        "complete": "whole",
        "clean": "clean",
        "relevance_2": "nearness (second)",
        "relevance": "(packaged)",
        "tokens": "tokens",
    },
}
BASELINE = "sampling"
LOOKED_AT = "curated-2,curated-7,curated-11,curated-13,curated-34,curated-40"
"""Open prompts whose answers were read while ways were made: for choosing settings alone."""
ROWS = 640  # in a step, at most: lists take fewer of them than their answers


class _Shown:
    """The embedder for a thinker, in turns with the steps; whether it was asked for."""

    def __init__(self, embedder: Embedder, engines: ConcurrentEngines) -> None:
        self.embedder, self.engines, self.asked = embedder, engines, False
        self.name = embedder.name

    def __call__(self) -> _Shown:
        self.asked = True
        return self

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> Any:
        with self.engines.turns:
            return self.embedder.encode(texts, batch_size)


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
        named = args.ways.split(";") if args.ways else list(ways)
        self.ways = {name: ways[name] for name in named}
        known = [*family("coverage"), *family("puzzles")]
        self.items = {
            "known": (tasks := _split(known, args.known)) | {"development": tasks["development"][:CHOOSING]},
            "open": _split([i for i in read_prompts(args.prompts) if asks(i, args.asks)], args.open, args.development)
            if args.prompts
            else {"development": [], "held out": []},
        }
        if args.only:
            self.items = {args.only: self.items[args.only]}
        self.folder, self.seeds = Path(args.out), args.seeds
        self.once = set(args.once.split(";")) & set(self.ways) if args.once else set[str]()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "trials.jsonl"
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.done: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}
        self.pipeline = Pipeline(weights=args.weights)
        if "open" in self.items and self.items["open"]["held out"]:
            self._score_again()

    def _score_again(self) -> None:
        """Scores by the second embedder, and which distance counts as the same, for all that is done."""
        if not second.is_there():
            raise SystemExit('The second embedder is not here. Type: pip install "thoughtmix[studies]"')
        prompts = {item.id: item.prompt for part in self.items["open"].values() for item in part}
        for key, row in self.done.items():
            kind, _, _, item, _ = key.split("|")
            if kind == "open" and item in prompts and "clean" not in row["scores"]:
                row["scores"] |= second.scores(prompts[item], [text for text, _ in row["texts"]], N)
        base = [
            self.done[key]["scores"]
            for item in self.items["open"]["development"]
            if (key := Job("open", BASELINE, 0, 0, "development").key(item)) in self.done
        ]
        by_first = np.mean([row["distinct_k"] for row in base]) if base else 0.0
        means = {t: np.mean([row[f"distinct_2@{t:g}"] for row in base]) if base else 0.0 for t in second.THRESHOLDS}
        self.threshold = min(means, key=lambda t: abs(means[t] - by_first)) if base else second.THRESHOLDS[0]
        for row in self.done.values():
            if "clean" in row["scores"]:
                row["scores"]["distinct_2"] = row["scores"][f"distinct_2@{self.threshold:g}"]

    def settings(self, way: str, kind: str) -> list[dict[str, Any]]:
        return list(self.ways[way][kind])[: 1 if way in self.once else None]

    def seeds_of(self, way: str, seeds: int) -> int:
        """How many of these seeds a way is run with."""
        return min(seeds, 1) if way in self.once else seeds

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
            if self.is_chosen(kind):
                ways = [way for way in self.of_kind(kind) if kind == "open" or way not in self.once]
                tried = [(way, i) for way in ways for i in range(len(self.settings(way, kind)))]
                self._do([Job(kind, way, i, 0, "development") for way, i in tried])
        for seed in range(self.seeds):
            for kind in kinds:
                if kind == "open":
                    self._score_again()
                tried = [
                    one for one in self.reported(kind, self.choose(kind)) if seed < self.seeds_of(one[0], seed + 1)
                ]
                self._do([Job(kind, way, i, seed, "held out") for way, i in tried])

    def _do(self, jobs: list[Job]) -> None:
        """What of the jobs is not done yet, all ways and prompts in shared steps."""
        items = [(job, i, item) for job in jobs for i, item in enumerate(self.items[job.kind][job.part])]
        todo = sorted((one for one in items if one[0].key(one[2]) not in self.done), key=lambda one: one[1])
        if not todo:
            return
        import peft  # noqa: F401  (with all of transformers, before threads import parts of it beside each other)

        began, tokens = time.monotonic(), 0
        _ = self.pipeline.engine, self.pipeline.embedder
        with concurrent_engines(self.pipeline.engine, N, max(TOKENS.values()), ROWS) as engines:
            for number, (_, record) in enumerate(engines.map(partial(self._one, engines), todo, False), 1):
                self.done[record["key"]] = record
                append_line(self.file, json.dumps(record, ensure_ascii=False))
                tokens += int(record["scores"]["tokens"])
                spent = time.monotonic() - began
                print(
                    f"{number} of {len(todo)}: {record['key']}, {spent:.0f} s, {tokens / spent:.0f} tokens/s",
                    flush=True,
                )

    def _one(self, engines: ConcurrentEngines, engine: Engine, one: tuple[Job, int, Item]) -> dict[str, Any]:
        """One prompt's answers by one way, measured and scored."""
        job, number, item = one
        setting = dict(self.settings(job.way, job.kind)[job.setting])
        thinker = get_thinker(setting.pop("thinker", self.ways[job.way].get("thinker", job.way)))
        asked = TrialRequest(item, N, SEED_STEP * job.seed + number * SEED_STRIDE, TOKENS[job.kind])
        how = {"landing": LANDING[job.kind], **thinker.repetition(asked.seed), **setting}
        how = equal_budget(thinker, how, asked) if job.kind == "known" else {"max_new_tokens": TOKENS["open"], **how}
        shown = _Shown(self.pipeline.embedder, engines)
        request = self.pipeline.request(thinker, N, seed=asked.seed, **how)
        request = dataclasses.replace(request, embedder=shown)
        try:
            made = self.pipeline.run(thinker, Prompt.from_user(item.prompt), request, measure=False, engine=engine)
        except ThoughtmixError as error:
            raise SystemExit(f"{job}: {item.id}: {error}") from None
        chose = shown.asked
        if job.kind == "open":
            with engines.turns:
                made = measure(made, embedder=self.pipeline.embedder)
        raw = {"key": job.key(item), "set": made.to_dict()}
        texts = [[t.text, t.finish] for t in made]
        return finite_json(
            {"key": raw["key"], "scores": score(raw, item, N), "texts": texts, "chose_by_embedder": chose}
        )

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
            if way not in self.once
        }
        best = {name: max(row[name] for row in table[BASELINE]) - SLACK[kind] for name in QUALITY[kind]}
        chosen = dict.fromkeys(self.once & set(self.of_kind(kind)), 0)
        for way, rows in table.items():
            good = [i for i, row in enumerate(rows) if way == BASELINE or all(row[q] >= best[q] for q in best)]
            lacks = [sum(max(0.0, best[q] - row[q]) for q in best) for row in rows]
            chosen[way] = max(good, key=lambda i: rows[i][DIVERSITY[kind]]) if good else int(np.argmin(lacks))
        return chosen

    def reported(self, kind: str, chosen: dict[str, int]) -> list[tuple[str, int]]:
        """Ways with their chosen settings; of plain sampling all, the chosen first."""
        rest = [i for i in range(len(self.settings(BASELINE, kind))) if i != chosen[BASELINE]]
        own = [(BASELINE, i) for i in [chosen[BASELINE], *rest]]
        return own + [(way, chosen[way]) for way in self.of_kind(kind) if way != BASELINE]

    def peer(self, kind: str, way: str, setting: int) -> int:
        """The setting of plain sampling that is as good: of open prompts the one whose nearness to the prompt, on
        development prompts, is the way's; of others the chosen one."""
        if kind == "known" or not self.is_chosen(kind):
            return self.choose(kind)[BASELINE]

        def near(way: str, i: int) -> float:
            return float(self.values(kind, way, i, "development", "relevance_2", 1).mean())

        own = near(way, setting)
        return min(range(len(self.settings(BASELINE, kind))), key=lambda i: abs(near(BASELINE, i) - own))

    def finished_seeds(self, kind: str, chosen: dict[str, int]) -> int:
        """How many seeds everyone has done on all held-out items."""
        count = 0
        while count < self.seeds and all(
            Job(kind, way, i, count, "held out").key(item) in self.done
            for way, i in self.reported(kind, chosen)
            if count < self.seeds_of(way, count + 1)
            for item in self.items[kind]["held out"]
        ):
            count += 1
        return count

    def report(self) -> str:
        lines: list[str] = []
        if "open" in self.items and self.items["open"]["held out"]:
            self._score_again()
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
        names, rows = COLUMNS[kind], self.reported(kind, chosen)

        def told(one: tuple[str, int], name: str, beside: str = "") -> st.Floats:
            """(items,), of the seeds that both were run with."""
            return self.values(kind, *one, "held out", name, self.seeds_of(beside or one[0], seeds))

        main, others = DIVERSITY[kind], [one for one in rows if one[0] != BASELINE]
        peers = {one: (BASELINE, self.peer(kind, *one)) for one in others}
        ratios = {one: st.ratio_of_means(told(one, main), told(peers[one], main, one[0]), rng) for one in others}
        differences = {
            (one, q): st.mean_difference(told(one, q), told(peers[one], q, one[0]), rng)
            for one in others
            for q in QUALITY[kind]
        }
        p = st.holm([ratios[one].p for one in others] + [differences[key].p for key in differences])
        adjusted: dict[Any, float] = dict(zip([*others, *differences], p, strict=True))
        out = [head, ""]
        cells = ["way", "setting", *names.values(), "beside", f"{names[main]}, ratio (95%)"]
        cells += [f"{names[q]}, difference (95%)" for q in QUALITY[kind]]
        out += ["| " + " | ".join(cells) + " |", "|---" * len(cells) + "|"]
        for one in rows:
            row = [one[0] + ", one seed" * (one[0] in self.once), self._said(kind, *one)]
            row += [f"{told(one, name).mean():.{0 if name == 'tokens' else 3}f}" for name in names]
            if one in peers:
                row += [self._said(kind, *peers[one]), _told(ratios[one], adjusted[one], 2)]
                row += [_told(differences[one, q], adjusted[one, q], 3) for q in QUALITY[kind]]
            out.append("| " + " | ".join(row) + " |")
        chose = sorted({key.split("|")[1] for key, r in self.done.items() if r["chose_by_embedder"]})
        said = f"chose by the packaged embedder: {', '.join(chose) or 'nobody'}"
        if kind == "open":
            said += f"; the second one counts answers as the same below {self.threshold:g}"
        return [*out, said, ""]

    def _said(self, kind: str, way: str, setting: int) -> str:
        given = self.settings(way, kind)[setting].items()
        return ", ".join(f"{k} {v}" for k, v in given) or "defaults"


def _told(interval: st.Interval, p: float, digits: int) -> str:
    text = f"{interval.value:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"
    return f"**{text}**" if p < 0.05 else text


def asks(item: Item, kind: str | None) -> bool:
    return kind is None or kind_of_answer(item.prompt) in kind.split(",")


def _split(items: list[Item], sizes: str, named: str | None = None) -> dict[str, list[Item]]:
    """Development and held-out items, drawn by the bench's own split. sizes: "12,36". named: ids of development ones,
    those that somebody has looked at."""
    first, count = (int(size) for size in sizes.split(","))
    ids = [f"open/{name}" for name in named.split(",")] if named else []
    seen = [item for item in items if item.id in ids]
    development, held_out = split_items([item for item in items if item.id not in ids], first / len(items))
    if named:
        return {"development": seen[:first], "held out": [*held_out, *development][:count]}
    return {"development": list(development)[:first], "held out": list(held_out)[:count]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", help="JSON Lines with open prompts (NoveltyBench's file)")
    parser.add_argument("--out", required=True, help="folder of what is done")
    parser.add_argument("--settings", default=str(Path(__file__).with_name("settings.json")))
    parser.add_argument("--ways", help="some of the settings' ways, by semicolons; the first is the baseline")
    parser.add_argument("--once", help="ways, by semicolons, that are run with their first setting and one seed alone")
    parser.add_argument("--known", default="18,43", help="development and held-out tasks with known answers")
    parser.add_argument("--open", default="4,10", help="development and held-out open prompts")
    parser.add_argument(
        "--development", default=LOOKED_AT, help="ids of development open prompts, by commas, in place of drawn ones"
    )
    parser.add_argument("--only", choices=("known", "open"), help="one kind of prompts alone")
    parser.add_argument(
        "--asks",
        default="sentence,long",
        help="open prompts that ask for a name, phrase, sentence, one or long alone, by commas",
    )
    parser.add_argument("--weights", default="auto", help="how weights are multiplied by: auto, native, fp16 or bf16")
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
