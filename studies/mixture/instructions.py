"""Do modes trained by set likelihood give more right and different answers? On short instructions, from scratch.

    python studies/mixture/instructions.py --wordnet /usr/share/wordnet --out out/instructions --steps 2000 --seeds 3

Contenders, all on the same corpus (instruction_corpus.py), with as many active parameters and as many answers a step:

baseline  the standard transformer
longer    the same, for `LONGER` times the steps: as much processor time as the dearest mixture
set       all eight modes tried, the different answers of an instruction given to different modes
late      the same, after a first half of the steps without modes
still     the model of late at creativity 0, without its modes, sampled as the baseline is
batch     the recipe's way: four of eight modes tried for each answer, shared out over the whole batch
free      all eight modes tried, each answer to its best, without a balance
sampled   a mode drawn from p(z | answer, instruction): the mixture's likelihood and nothing else

Every contender writes eight answers to each instruction at 15 settings; five are chosen on development instructions
with the models of seed 0. Quality: the share of right answers. Diversity: distinct right answers, of eight. What is
finished is kept in --out, so the same command goes on, and then prints the tables. Intervals: over instructions, seeds
averaged; and each seed's own value.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from instruction_corpus import PARTS, Instruction, build_corpus, summary

from thoughtmix.bench import frontier
from thoughtmix.bench import statistics as st
from thoughtmix.core.files import write_whole
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.engine.row_state import NO_ROW_STATE, RowState
from thoughtmix.mixture import RECIPE
from thoughtmix.mixture.state import BranchRowState
from thoughtmix.models import LanguageModel, load_model
from thoughtmix.training.answers import AnsweredPrompt, AnswerTask
from thoughtmix.training.checkpoint import digest, save_model
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import bpe_tokenizer
from thoughtmix.training.language import Shape, active_parameters, build_model, encode
from thoughtmix.training.modes import ModeSearch
from thoughtmix.training.trainer import train_and_save

N = 8  # answers to an instruction, and modes
LONGER = 3
VOCABULARY = 768
BATCH = 32
RATE = 3e-3
SEED_STEP = 10_000
END = "\n"

SEARCHES: Mapping[str, ModeSearch | None] = {
    "baseline": None,
    "longer": None,
    "set": ModeSearch("best", candidates=0, lookahead=0, plain=0.25),
    "late": ModeSearch("best", candidates=0, lookahead=0, plain=0.25),
    "batch": ModeSearch("best", candidates=4, lookahead=0, plain=0.5, balance="batch"),
    "free": ModeSearch("best", candidates=0, lookahead=0, plain=0.25, balance="none"),
    "sampled": ModeSearch("sampled", lookahead=0, plain=0.25),
}

SETTINGS: Mapping[bool, tuple[Mapping[str, float], ...]] = {
    False: (
        *({"temperature": t} for t in (0.2, 0.4, 0.7, 1.0, 1.3)),
        *({"temperature": t, "top_p": 0.9} for t in (0.7, 1.0, 1.3, 1.6, 2.0)),
        *({"temperature": t, "min_p": 0.1} for t in (0.7, 1.0, 1.3, 1.7, 2.2)),
    ),
    True: (
        *({"creativity": 0.0, "temperature": t} for t in (0.4, 0.7)),
        *({"creativity": 0.5, "temperature": t} for t in (0.0, 0.3, 0.6)),
        *({"creativity": 0.75, "temperature": t} for t in (0.0, 0.4)),
        *({"creativity": 1.0, "temperature": t} for t in (0.0, 0.3, 0.5, 0.7, 1.0)),
        *({"creativity": 1.0, "temperature": t, "min_p": 0.1} for t in (0.7, 1.0, 1.4)),
    ),
}
"""By whether there are modes; as many settings for all."""
STANDARD = ("baseline", "longer", "still")
DEFAULT = ("baseline", "late", "still", "longer")


def settings_of(name: str) -> tuple[Mapping[str, float], ...]:
    """What a contender is explored with."""
    found = SETTINGS[name not in STANDARD]
    return tuple({"creativity": 0.0, **s} for s in found) if name == "still" else found


REFERENCE = (0.0, 0.0)
KEEP = 5
LEVELS = (0.9, 0.8, 0.7, 0.6)  # right answers, at which different ones are compared


class Study:
    """The corpus, the models and what they answer."""

    def __init__(self, wordnet: Path, out: Path, steps: int, shape: Shape, held_out: int, development: int) -> None:
        self.out, self.steps, self.shape = out, steps, shape
        self.corpus = build_corpus(wordnet, held_out, development)
        lines = "".join(END.join((i.prompt, *i.answers, "")) for i in self.corpus["training"])
        self.tokenizer = bpe_tokenizer(lines, VOCABULARY)
        self.digest = digest(lines)
        self.training = [self._answered(i, i.answers) for i in self.corpus["training"]]
        self.validation = [self._answered(i, _quantiles(i)) for i in self.corpus["development"]]

    def _answered(self, i: Instruction, answers: Sequence[str]) -> AnsweredPrompt:
        ids = [tuple(encode(self.tokenizer, text + END).tolist()) for text in (i.prompt, *answers)]
        return AnsweredPrompt(ids[0], tuple(ids[1:]), i.weights[: len(answers)])

    def train(self, name: str, seed: int) -> tuple[LanguageModel, dict[str, Any]]:
        """The model of a contender and its facts, from the folder when it is there."""
        name = "late" if name == "still" else name
        place = self.out / "models" / f"{name}-{seed}"
        path, search = place / "facts.json", SEARCHES[name]
        if not path.exists():
            steps = self.steps * (LONGER if name == "longer" else 1)
            if search and name == "late":
                search = dataclasses.replace(search, plain_steps=steps // 2)
            task = AnswerTask(self.training, self.validation, N, search, tail=1, seed=seed)
            config = TrainConfig(
                steps, None, BATCH, RATE, min(100, steps // 10), evaluate_every=500, save_every=250, seed=seed
            )
            kind = "mixture" if search else "baseline"
            model = build_model(kind, self.tokenizer, self.shape, seed, **{**RECIPE, "modes": N, "tail": 1})
            about = {"kind": kind, "data": self.digest, **(dataclasses.asdict(search) if search else {})}
            began = time.process_time()
            save = partial(save_model, model, self.tokenizer)
            resume = (place / "training" / "state.pt").exists()
            done = train_and_save(name, model, task, config, place, save, resume, None, about)
            if done.interrupted:
                raise KeyboardInterrupt
            facts = {
                "steps": done.steps,
                "processor_seconds": round(time.process_time() - began, 1),
                "resumed": resume,
                "active": active_parameters(model.config),
                "parameters": sum(p.numel() for p in model.parameters()),
                **task.evaluate(model),
                "evaluations": [e for e in done.log if "val_loss" in e],
            }
            write_whole(path, json.dumps(facts))
            print(f"{name}-{seed}: {facts['processor_seconds']} processor seconds", file=sys.stderr, flush=True)
        return load_model(str(place), dtype="float32"), json.loads(path.read_text())

    def scores(
        self, name: str, seed: int, lm: LanguageModel, setting: Mapping[str, float], part: str
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(instructions,) share of right answers of N, and of distinct right ones; texts are kept in the folder."""
        words = "-".join(f"{k}{v:g}" for k, v in setting.items())
        path = self.out / "answers" / f"{name}-{seed}-{part}-{words}.json"
        found = self.corpus[part]
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(self._answers(lm, setting, found, 1 + seed), ensure_ascii=False))
        texts = json.loads(path.read_text())
        right = [[a for a in map(i.right, mine) if a] for i, mine in zip(found, texts, strict=True)]
        return np.array([len(r) / N for r in right]), np.array([len(set(r)) / N for r in right])

    def _answers(
        self, lm: LanguageModel, setting: Mapping[str, float], found: Sequence[Instruction], seed: int
    ) -> list[list[str]]:
        own: dict[str, Any] = {key: value for key, value in setting.items() if key != "creativity"}
        end = frozenset(encode(self.tokenizer, END).tolist())
        sequences = [
            SequenceRequest(
                tuple(encode(self.tokenizer, i.prompt + END).tolist()),
                seed + p * SEED_STEP + n,
                SamplingParams(**own),
                12,
                end_ids=end,
            )
            for p, i in enumerate(found)
            for n in range(N)
        ]
        row_state: RowState = NO_ROW_STATE
        if lm.model.config.num_branches > 1:
            creativity = [setting["creativity"]] * len(sequences)
            row_state = BranchRowState([s.seed for s in sequences], creativity, lm.device, lm.model.config.tail)
        done = LocalEngine(lm, weights="native").generate(sequences, row_state=row_state)
        if done.interrupted:
            raise KeyboardInterrupt
        texts = [output.text.strip() for output in done.outputs]
        return [texts[p * N : (p + 1) * N] for p in range(len(found))]


def _quantiles(i: Instruction) -> list[str]:
    """N answers as they are distributed, without a draw."""
    shares = np.cumsum(i.weights) / np.sum(i.weights)
    return [i.answers[int(np.searchsorted(shares, (n + 0.5) / N))] for n in range(N)]


def run(study: Study, names: Sequence[str], seeds: int) -> None:
    """All that is not there yet, then the tables."""
    print(summary(study.corpus))
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    curves: dict[tuple[str, str], list[st.Curve]] = {}
    for seed in range(seeds):
        for name in names:
            lm, fact = study.train(name, seed)
            facts[name].append(fact)
            settings = settings_of(name)
            if seed == 0:
                development = [study.scores(name, 0, lm, s, "development") for s in settings]
                curve = st.Curve(*(np.stack(side, 1) for side in zip(*development, strict=True)))
                chosen = frontier.choose_settings(curve, KEEP, REFERENCE)
                write_whole(study.out / f"chosen-{name}.json", json.dumps(chosen))
            chosen = json.loads((study.out / f"chosen-{name}.json").read_text())
            for part in PARTS[1:]:
                scores = [study.scores(name, seed, lm, settings[i], part) for i in chosen]
                curves.setdefault((name, part), []).append(
                    st.Curve(*(np.stack(side, 1) for side in zip(*scores, strict=True)))
                )
    tell_losses(facts)
    for name in names:
        pairs = zip(*(curves[name, part] for part in PARTS[1:]), strict=True)
        curves[name, "both"] = [
            st.Curve(np.concatenate([a.quality, b.quality]), np.concatenate([a.diversity, b.diversity]))
            for a, b in pairs
        ]
    for part in (*PARTS[1:], "both"):
        tell(part, {name: curves[name, part] for name in names}, study)


def tell_losses(facts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    print("\nvalidation, nats a token, mean of seeds (and each):")
    names = {"drawn": "val_loss", "all modes": "val_loss_marginal", "best mode": "val_loss_best", "plain": "val_loss_0"}
    for name, mine in facts.items():
        said = []
        for label, key in {**names, "nats of a mode": "val_information"}.items():
            if key in mine[0]:
                values = [f[key] for f in mine]
                said.append(f"{label} {np.mean(values):.3f} ({', '.join(f'{v:.3f}' for v in values)})")
        seconds = np.mean([f["processor_seconds"] for f in mine if not f["resumed"]] or [float("nan")])
        print(f"  {name}: {'; '.join(said)}; {seconds:.0f} processor seconds, {mine[0]['active']} active parameters")


def tell(part: str, curves: Mapping[str, Sequence[st.Curve]], study: Study) -> None:
    """The table of one part."""
    print(f"\n{part}: right of {N}, distinct right of {N}, each at its settings")
    rng = np.random.default_rng(41)
    mean = {
        name: st.Curve(np.mean([c.quality for c in mine], 0), np.mean([c.diversity for c in mine], 0))
        for name, mine in curves.items()
    }
    for name, curve in mean.items():
        chosen = json.loads((study.out / f"chosen-{name}.json").read_text())
        settings = settings_of(name)
        points = sorted(zip(curve.quality.mean(0), curve.diversity.mean(0), chosen, strict=True), reverse=True)
        words = [f"{q:.3f} {d:.3f} ({', '.join(f'{k} {v:g}' for k, v in settings[i].items())})" for q, d, i in points]
        print(f"  {name}: {'; '.join(words)}")
    for other, name in itertools.product(STANDARD, curves):
        if other in curves and name != other:
            compare(name, other, curves, mean, rng)


def compare(
    name: str,
    other: str,
    curves: Mapping[str, Sequence[st.Curve]],
    mean: Mapping[str, st.Curve],
    rng: np.random.Generator,
) -> None:
    """Hypervolume, and distinct right answers where as many are right, of one contender beside another."""
    areas = [
        [st.hypervolume(c.quality.mean(0), c.diversity.mean(0), REFERENCE) for c in curves[which]]
        for which in (name, other)
    ]
    own = [float(a / b) if b else float("nan") for a, b in zip(*areas, strict=True)]
    i = st.hypervolume_ratio(mean[name], mean[other], REFERENCE, rng)
    seeds = ", ".join(f"{v:.3f}" for v in own)
    print(f"  {name} beside {other}: hypervolume {i.value:.3f} ({i.low:.3f} to {i.high:.3f}; seeds {seeds})")
    for level in LEVELS:
        d = st.difference_at(mean[name], mean[other], level, rng)
        b = float(st.diversity_at(mean[other].quality.mean(0), mean[other].diversity.mean(0), [level])[0])
        if np.isfinite(d.value):
            print(f"    distinct at {level:g} right: {b:.3f} {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})")


def main() -> None:
    torch.set_num_threads(1)  # of models this small more threads are no quicker
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument(
        "--contenders", default=",".join(DEFAULT), help=f"with commas between, of {', '.join(SEARCHES)}, still"
    )
    parser.add_argument("--held-out", type=int, default=64, help="instructions of each of the two kinds")
    parser.add_argument("--development", type=int, default=48)
    a = parser.parse_args()
    shape = Shape(a.layers, a.width, max(1, a.width // 32), 64, VOCABULARY)
    study = Study(a.wordnet, a.out, a.steps, shape, a.held_out, a.development)
    run(study, a.contenders.split(","), a.seeds)


if __name__ == "__main__":
    main()
