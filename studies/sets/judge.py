"""Grafts beside plain sampling on questions with known answers of three origins: the bench's held-out tasks (a),
categories of WordNet that no graft practised (b), and questions of another wording and subject (c, questions.toml).

    python studies/sets/judge.py DRAWN.jsonl --wordnet DIR --graft old=DIR --graft new=DIR
        [--seeds 2] [--only a,b] [--temperatures 0.5,0.8,1.1,1.5] [--categories 60] [--dtype bfloat16] [--one]
        [--device cuda] [--draw-only] [--without-sampling] [--pairs new/sampling,new/old] [--told 0.5,0.8]

Draws what DRAWN.jsonl lacks (DRAWN.jsonl.xz is only read), eight thoughts a question and temperature, at most 24 tokens
each, and prints a table: of each system valid and distinct valid answers at each temperature; beside sampling and
beside the grafts named old and plain the ratio of hypervolumes of the mean frontiers, and at each temperature the ratio
of distinct valid answers and the difference in valid ones. Paired over questions, seeds averaged, 95% BCa intervals,
Holm over all rows. Grafts draw with `draws=arithmetic`, as does the system "sampling apart"; plain sampling draws
independently.

A folder with {run} in it is of several trainings: seed s is drawn from number s + 1. The system "NAME one" (--one, or
a graft named so) is the same graft with all eight thoughts of a question through one branch, questions taking turns.
Origin d, which is not drawn unless asked for, are the prompts that training looks at: to choose by.
"""

from __future__ import annotations

import argparse
import json
import lzma
import tomllib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from thoughtmix.asking.draws import arithmetic_offsets
from thoughtmix.bench import statistics as st
from thoughtmix.bench.config import split_items
from thoughtmix.bench.tasks import answer_parser, coverage_tasks
from thoughtmix.bench.tasks.answers import AnswerSet, _answer_lines
from thoughtmix.bench.tasks.items import AnswerParser
from thoughtmix.bench.tasks.puzzles import puzzle_tasks
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.engine.requests import DEFAULT_MIN_P
from thoughtmix.engine.row_state import NO_ROW_STATE
from thoughtmix.graft.adapter import require_graft
from thoughtmix.models import load_model
from thoughtmix.practice.wordnet import SYSTEM, WordNet
from thoughtmix.practice.world import DEVELOPMENT, build_world

N, LONGEST, AT_ONCE = 8, 24, 16
Question = tuple[str, str, AnswerParser]  # origin/name, prompt, parser


def questions(wordnet: Path, categories: int) -> list[Question]:
    _, held_out = split_items([*coverage_tasks(), *puzzle_tasks()], DEVELOPMENT)
    out: list[Question] = [(f"a/{item.id}", item.prompt, answer_parser(item)) for item in held_out]
    world = build_world(WordNet.read(wordnet))
    out += [(f"d/{p.name}", p.ways[0], _parsed(p.answer)) for p in world.validation if p.answer is not None]
    out += [(f"b/{c.name}", c.ways[0], c.parse) for c in world.reported[:categories]]
    text = tomllib.loads((Path(__file__).parent / "questions.toml").read_text(encoding="utf-8"))
    for name, task in text.items():
        answers = _answer_lines(task["answers"])
        out.append((f"c/{name}", task["prompt"], AnswerSet(task["prompt"], (), answers).parse))
    return out


def _parsed(answer: Callable[[str], str | None]) -> Any:
    return lambda text: SimpleNamespace(answer=answer(text), valid=answer(text) is not None)


def draw(
    engine: LocalEngine, graft: bool, apart: bool, one: bool, asked: list[Question], temperature: float, seed: int
) -> Iterator[Any]:
    """(question, eight texts, tokens)"""
    at_once = AT_ONCE if engine.model.device.type == "cpu" else len(asked)
    for at in range(0, len(asked), at_once):
        part = asked[at : at + at_once]
        prompts = [tuple(engine.model.encode(prompt)) for _, prompt, _ in part for _ in range(N)]
        seeds = [seed * 1000 + i for _ in part for i in range(N)]
        offsets = arithmetic_offsets(engine, prompts, seeds, "arithmetic" if apart else "independent", routed=graft)
        sampling = SamplingParams(temperature=temperature, min_p=DEFAULT_MIN_P)
        rows = [
            SequenceRequest(p, s, sampling, LONGEST, offset=o) for p, s, o in zip(prompts, seeds, offsets, strict=True)
        ]
        state = NO_ROW_STATE
        if graft:
            own = require_graft(engine.model.model)
            branches = torch.arange(at, at + len(part)).repeat_interleave(N) % own.config.num_branches
            weights = torch.eye(own.config.num_branches)[branches] if one else None
            state = own.row_state(seeds, [1.0] * len(seeds), engine.model.device, weights)
        outputs = engine.generate(rows, row_state=state).outputs
        for i, question in enumerate(part):
            mine = outputs[i * N : (i + 1) * N]
            yield question, [o.text.strip() for o in mine], sum(len(o.token_ids) for o in mine)


def fill(
    path: Path,
    systems: dict[str, str | None],
    asked: list[Question],
    seeds: int,
    temperatures: list[float],
    dtype: str,
    device: str,
) -> None:
    """Draw what the file lacks."""
    there = {(r["system"], r["id"], r["temperature"], r["seed"]) for r in read(path)}
    for name, folder in systems.items():
        engine = None
        for seed in range(seeds):
            engine = None if folder is not None and "{run}" in folder else engine
            for temperature in temperatures:
                left = [q for q in asked if (name, q[0], temperature, seed) not in there]
                if not left:
                    continue
                source = "default" if folder is None else folder.format(run=seed + 1)
                engine = engine or LocalEngine(load_model(source, dtype=dtype, device=device))
                apart = folder is not None or name.endswith("apart")
                with path.open("a", buffering=1, encoding="utf-8") as stream:
                    for (id, _, parse), texts, tokens in draw(
                        engine, folder is not None, apart, name.endswith(" one"), left, temperature, seed
                    ):
                        found = [parse(text) for text in texts]
                        right = [a.answer for a in found if a.valid]
                        row = {"system": name, "id": id, "temperature": temperature, "seed": seed, "tokens": tokens}
                        row |= {"valid": len(right) / N, "coverage": len(set(right)) / N, "texts": texts}
                        stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    text = (lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def curve(rows: list[dict[str, Any]], system: str, ids: list[str], seeds: int, temperatures: list[float]) -> st.Curve:
    found = {(r["id"], r["temperature"], r["seed"]): r for r in rows if r["system"] == system}
    each = [
        [[found[i, t, s][name] for t in temperatures for s in range(seeds)] for i in ids]
        for name in ("valid", "coverage")
    ]
    q, d = (np.array(x).reshape(len(ids), len(temperatures), seeds).mean(-1) for x in each)
    return st.Curve(q, d)


def at_temperature(a: st.Curve, b: st.Curve, i: int, rng: np.random.Generator) -> tuple[st.Interval, st.Interval]:
    """Distinct valid answers of a over those of b, and valid ones of a less those of b, at temperature i."""

    def ratio(w: Any) -> Any:
        top, under = (w @ c.diversity[:, i] for c in (a, b))
        return np.divide(top, under, out=np.full_like(top, np.nan), where=under > 0)

    def difference(w: Any) -> Any:
        return w @ (a.quality - b.quality)[:, i]

    n = len(a.quality)
    return st.bootstrap(ratio, n, rng, null=1.0), st.bootstrap(difference, n, rng, null=0.0)


def table(
    rows: list[dict[str, Any]],
    names: list[str],
    asked: list[Question],
    seeds: int,
    at: list[float],
    pairs: Collection[str] = (),
    told: Collection[float] = (),
) -> None:
    """pairs: the comparisons to print, "NEW/BASE"; (): all. told: temperatures at which they are told; (): all."""
    compared: list[tuple[str, st.Interval]] = []
    for origin in ("d", "a", "b", "c", "bc"):
        ids = [q[0] for q in asked if q[0][0] in origin]
        if not ids:
            continue
        curves = {name: curve(rows, name, ids, seeds, at) for name in names}
        print(f"\n{origin}: {len(ids)} questions; valid, distinct valid of eight at T {at}")
        for name, c in curves.items():
            cells = "  ".join(f"{q:.3f} {d:.3f}" for q, d in zip(c.quality.mean(0), c.diversity.mean(0), strict=True))
            tokens = np.mean([r["tokens"] for r in rows if r["system"] == name and r["id"][0] in origin])
            print(f"  {name:16} {cells}   {tokens:.0f} tokens a set")
        against = [names[0], *[n for n in names if n in {"old", "plain"} or n.endswith(" one")]]
        for base in against:
            for name in names:
                if name == base or (base in {"old", "plain"} and name.split()[0] in {"sampling", "old", "plain"}):
                    continue
                if base.endswith(" one") and base != f"{name} one":
                    continue
                if pairs and f"{name}/{base}" not in pairs:
                    continue
                rng = np.random.default_rng(5)
                volume = st.hypervolume_ratio(curves[name], curves[base], (0.0, 0.0), rng)
                compared.append((f"{origin} {name}/{base} hypervolume", volume))
                for i, t in enumerate(at):
                    if told and t not in told:
                        continue
                    ratio, more = at_temperature(curves[name], curves[base], i, rng)
                    compared.append((f"{origin} {name}/{base} distinct at T {t}", ratio))
                    compared.append((f"{origin} {name}-{base} valid at T {t}", more))
    adjusted = st.holm([i.p for _, i in compared])
    print()
    for (what, i), p in zip(compared, adjusted, strict=True):
        print(f"  {what:48} {i.value:.3f} ({i.low:.3f} to {i.high:.3f})  p {i.p:.4f}, Holm {p:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("drawn", type=Path)
    parser.add_argument("--wordnet", type=Path, default=SYSTEM)
    parser.add_argument("--graft", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--temperatures", default="0.5,0.8,1.1,1.5")
    parser.add_argument("--categories", type=int, default=60)
    parser.add_argument("--only", default="a,b,c")
    parser.add_argument("--apart", action="store_true", help="also sampling with draws=arithmetic")
    parser.add_argument("--dtype", default="auto", help="of all models; bfloat16 is quick where the CPU multiplies it")
    parser.add_argument("--one", action="store_true", help="also each graft with one branch for all thoughts of a set")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", default="", help="comparisons to print, NEW/BASE with commas between; all")
    parser.add_argument("--told", default="", help="temperatures at which they are printed; all")
    parser.add_argument("--draw-only", action="store_true", help="print no table")
    parser.add_argument("--without-sampling", action="store_true", help="another process draws it")
    given = parser.parse_args()
    systems: dict[str, str | None] = {
        **({} if given.without_sampling else {"sampling": None}),
        **({"sampling apart": None} if given.apart else {}),
    }
    systems |= dict(entry.split("=", 1) for entry in given.graft)
    if given.one:
        systems |= {f"{name} one": folder for name, folder in systems.items() if folder is not None}
    asked = [q for q in questions(given.wordnet, given.categories) if q[0][0] in given.only]
    at = [float(t) for t in given.temperatures.split(",")]
    fill(given.drawn, systems, asked, given.seeds, at, given.dtype, given.device)
    if not given.draw_only:
        told = [float(t) for t in given.told.split(",") if t]
        pairs = [pair for pair in given.pairs.split(",") if pair]
        table(read(given.drawn), list(systems), asked, given.seeds, at, pairs, told)


if __name__ == "__main__":
    main()
