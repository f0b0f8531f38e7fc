"""The experiment in order: train, explore on development prompts, choose, explore on held-out ones, compare.

Everything finished is kept in the folder, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtmix.bench import frontier, record
from thoughtmix.bench import statistics as st
from thoughtmix.core.errors import InputError
from thoughtmix.core.types import write_whole
from thoughtmix.experiment.contenders import contender, shape_of, steps_for
from thoughtmix.experiment.explore import Sets, generate, scored
from thoughtmix.experiment.plan import BASELINE_SETTINGS, LADDER, MIXTURE_SETTINGS, Plan, split_prompts
from thoughtmix.mixture.analysis import analyze_thought_patterns
from thoughtmix.models import load_embedder
from thoughtmix.training.data import read_text, split
from thoughtmix.training.language import tokenizer_of

if TYPE_CHECKING:
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer

SCHEMA, SCHEMA_VERSION = "thoughtmix/experiment", 1
REFERENCE = (-4.0, 1.0)  # of hypervolumes: -4 nats of judge likelihood, one effective text
SETTINGS: Mapping[str, Sequence[Mapping[str, float]]] = {"baseline": BASELINE_SETTINGS, "mixture": MIXTURE_SETTINGS}
LEVELS = (0.25, 0.5, 0.75, 0.9)  # where between the worst and the best quality that both reach
Say = Callable[[str, Any], None]


class Experiment:
    """folder: where everything is kept. say: called with what is being done and, while training, a `Progress`."""

    def __init__(self, plan: Plan, folder: Path, say: Say) -> None:
        self.plan, self.folder, self.say = plan, folder, say
        about = json.loads(json.dumps(dataclasses.asdict(plan)))
        head = folder / "plan.json"
        if head.exists() and json.loads(head.read_text()) != about:
            raise InputError(f"{folder} holds an experiment with other settings.", "Name another folder (--out).")
        self.splits = split(read_text(plan.data), validation=0.1, held_out=0.3)
        self.development, self.held_out = split_prompts(self.splits.validation, plan)
        write_whole_in(head, json.dumps(about, indent=1))
        self.tokenizer = tokenizer_of(self.splits, shape_of(plan))
        self.embedder = load_embedder()
        self.models: dict[str, MixtureOfThoughtsTransformer] = {}
        self.facts: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """The record of it all, as JSON. Raises KeyboardInterrupt when stopped; run it again to go on."""
        began = time.monotonic()
        self.steps = steps_for(self.plan, self.splits, self.tokenizer, self.folder)
        names = [f"{kind}-{s}" for s in range(self.plan.seeds) for kind in ("baseline", "mixture")]
        for number, name in enumerate([*names, "judge", *self.plan.ablations], 1):
            self._train(name, f"training {name} ({number} of {self.plan.trainings})")
        chosen, levels = self._choose()
        curves = {kind: self._curve(kind, self.held_out, chosen[kind]) for kind in SETTINGS}
        rng = np.random.default_rng([self.plan.seed, 41])
        result = {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "plan": dataclasses.asdict(self.plan),
            "environment": record.environment(),
            "steps": self.steps,
            "prompts": {"development": self.development, "held_out": self.held_out},
            "settings": {k: [dict(s) for s in v] for k, v in SETTINGS.items()},
            "chosen": chosen,
            "levels": levels,
            "models": self.facts,
            "losses": self._losses(rng),
            "frontier": self._frontier(curves, chosen, levels, rng),
            "ablations": self._ablations(curves["mixture"], chosen, levels, rng),
            "ladder": self._ladder(),
            "hot_baseline": self._hot_baseline(curves, rng),
            "branches": self._branches(),
            "examples": self._examples(chosen),
        }
        result["seconds"] = round(time.monotonic() - began, 1)
        return _json(result)

    def _train(self, name: str, title: str) -> None:
        self.say(title, None)
        self.models[name], self.facts[name] = contender(
            name, self.plan, self.splits, self.tokenizer, self.steps, self.folder, lambda p: self.say(title, p)
        )

    def _sets(self, name: str, setting: Mapping[str, float], prompts: Sequence[str], seed: int) -> Sets:
        """Thoughts and scores of one model at one setting, from the folder when they are there."""
        part = "development" if prompts is self.development else "held-out"
        words = "-".join(f"{k}{v:g}" for k, v in setting.items())
        path = self.folder / "sets" / f"{name.replace(' ', '-')}-{part}-{words}-{seed}.json"
        if path.exists():
            body = json.loads(path.read_text())
            return Sets(body["texts"], *(np.array(body[k]) for k in ("nll", "vendi", "difference")))
        self.say(f"{name}: {part} prompts at {', '.join(f'{k} {v:g}' for k, v in setting.items())}", None)
        texts = generate(self.models[name], self.tokenizer, prompts, setting, self.plan.n, self.plan.tokens, seed)
        sets = scored(texts, prompts, self.models["judge"], self.tokenizer, self.embedder)
        write_whole_in(path, json.dumps(_json(dataclasses.asdict(sets)), ensure_ascii=False))
        return sets

    def _curve(self, kind: str, prompts: Sequence[str], chosen: Sequence[int], name: str | None = None) -> st.Curve:
        """Of one kind over its settings, seeds averaged (name: of one model instead); the prompt is the unit."""
        models = [name] if name else [f"{kind}-{s}" for s in range(self.plan.seeds)]
        sets = [[self._sets(m, SETTINGS[kind][i], prompts, 1 + j) for i in chosen] for j, m in enumerate(models)]
        quality = np.mean([[-s.nll for s in row] for row in sets], 0).T  # (prompts, settings)
        return st.Curve(quality, np.mean([[s.vendi for s in row] for row in sets], 0).T)

    def _choose(self) -> tuple[dict[str, list[int]], list[float]]:
        """Each one's settings, and the levels of quality to compare at: fixed on development prompts, with the models
        of the first seed."""
        curves = {kind: self._curve(kind, self.development, range(len(s)), f"{kind}-0") for kind, s in SETTINGS.items()}
        chosen = {kind: frontier.choose_settings(c, self.plan.keep, REFERENCE) for kind, c in curves.items()}
        kept = [st.Curve(c.quality[:, chosen[k]], c.diversity[:, chosen[k]]) for k, c in curves.items()]
        low = max(float(c.quality.mean(0).min()) for c in kept)
        high = min(float(c.quality.mean(0).max()) for c in kept)
        return chosen, [low + share * (high - low) for share in LEVELS]

    def _losses(self, rng: np.random.Generator) -> dict[str, Any]:
        """Validation losses of both by seed, and the difference with Student's interval over seeds. marginal: of a
        mixture with modes, over all of them; of others it is the loss as drawn."""
        names = {"drawn": "val_loss", "deterministic": "val_loss_0", "marginal": "val_loss_marginal"}
        out: dict[str, Any] = {}
        for kind in SETTINGS:
            facts = [self.facts[f"{kind}-{s}"] for s in range(self.plan.seeds)]
            out[kind] = {name: [f.get(key, f["val_loss"]) for f in facts] for name, key in names.items()}
        for name in names:
            difference = np.array(out["mixture"][name]) - np.array(out["baseline"][name])
            n = len(difference)
            half = float("nan")
            if n > 1:
                from scipy.stats import t

                half = float(t.ppf(0.975, n - 1)) * float(difference.std(ddof=1)) / n**0.5
            mean = float(difference.mean())
            out[f"difference_{name}"] = {"value": mean, "low": mean - half, "high": mean + half}
        return out

    def _frontier(
        self, curves: Mapping[str, st.Curve], chosen: Mapping[str, Sequence[int]], levels: Sequence[float], rng: Any
    ) -> dict[str, Any]:
        """What `bench.report.frontier_plot` draws, and the comparisons."""
        a, b = curves["mixture"], curves["baseline"]
        found = [("hypervolume ratio", st.hypervolume_ratio(a, b, REFERENCE, rng))]
        found += [(f"Vendi at judge NLL {-level:.2f}", st.difference_at(a, b, level, rng)) for level in levels]
        mixture, baseline = (self._other(kind, chosen[kind]) for kind in ("mixture", "baseline"))
        found += [
            (f"1 - self-BLEU at judge NLL {-level:.2f}", st.difference_at(mixture, baseline, level, rng))
            for level in levels
        ]
        adjusted = st.holm([i.p for _, i in found])
        return {
            "levels": list(levels),
            "bands": {kind: dataclasses.asdict(frontier.band(c, rng)) for kind, c in curves.items()},
            "held_out": {
                kind: [
                    {"setting": s, "quality": float(q), "diversity": float(d)}
                    for s, q, d in zip(chosen[kind], c.quality.mean(0), c.diversity.mean(0), strict=True)
                ]
                for kind, c in curves.items()
            },
            "comparisons": [
                {"measure": name, "interval": dataclasses.asdict(i), "adjusted": float(p)}
                for (name, i), p in zip(found, adjusted, strict=True)
            ],
        }

    def _other(self, kind: str, chosen: Sequence[int]) -> st.Curve:
        """The same frontier with 1 - self-BLEU for diversity; nothing is generated anew."""
        models = [f"{kind}-{s}" for s in range(self.plan.seeds)]
        sets = [[self._sets(m, SETTINGS[kind][i], self.held_out, 1 + j) for i in chosen] for j, m in enumerate(models)]
        return st.Curve(
            np.mean([[-s.nll for s in row] for row in sets], 0).T,
            np.mean([[s.difference for s in row] for row in sets], 0).T,
        )

    def _ablations(
        self, whole: st.Curve, chosen: Mapping[str, list[int]], levels: Sequence[float], rng: Any
    ) -> list[dict[str, Any]]:
        """Each ablation at the mixture's settings: its losses, and its diversity beside the whole mixture of seed 0 at
        the middle level of quality."""
        whole = self._curve("mixture", self.held_out, chosen["mixture"], "mixture-0")
        rows = []
        for name in self.plan.ablations:
            own = self._curve("mixture", self.held_out, chosen["mixture"], name)
            difference = st.difference_at(own, whole, levels[1], rng)
            area = st.hypervolume_ratio(own, whole, REFERENCE, rng)
            rows.append(
                {
                    "name": name,
                    **{k: self.facts[name].get(k) for k in ("val_loss", "val_loss_0", "val_loss_marginal")},
                    "quality": float(own.quality.mean()),
                    "diversity": float(own.diversity.mean()),
                    "difference": dataclasses.asdict(difference),
                    "hypervolume_ratio": dataclasses.asdict(area),
                }
            )
        return rows

    def _ladder(self) -> list[dict[str, float]]:
        """Diversity over creativity at temperature 0, on held-out prompts."""
        out = []
        for c in LADDER:
            sets = [
                self._sets(f"mixture-{s}", {"creativity": c, "temperature": 0.0}, self.held_out, 1 + s)
                for s in range(self.plan.seeds)
            ]
            same = [all(len(set(t)) == 1 for t in s.texts) for s in sets]
            out.append(
                {
                    "creativity": c,
                    "vendi": float(np.mean([s.vendi for s in sets])),
                    "difference": float(np.mean([s.difference for s in sets])),
                    "nll": float(np.mean([s.nll for s in sets])),
                    "identical": float(all(same)),
                }
            )
        return out

    def _hot_baseline(self, curves: Mapping[str, st.Curve], rng: Any) -> dict[str, Any]:
        """The baseline at the plain temperature whose judge NLL on development prompts is nearest to that of the
        mixture's default setting (creativity 1, temperature 0.7), beside it on held-out prompts."""
        own = {"creativity": 1.0, "temperature": 0.7}
        target = float(self._sets("mixture-0", own, self.development, 1).nll.mean())
        low, high = 0.05, 1.5
        for _ in range(5):
            middle = round((low + high) / 2, 3)
            nll = float(self._sets("baseline-0", {"temperature": middle}, self.development, 1).nll.mean())
            low, high = (middle, high) if nll < target else (low, middle)
        temperature = round((low + high) / 2, 3)
        a = self._sets("mixture-0", own, self.held_out, 1)
        b = self._sets("baseline-0", {"temperature": temperature}, self.held_out, 1)
        return {
            "temperature": temperature,
            "nll": [float(a.nll.mean()), float(b.nll.mean())],
            "vendi": [float(a.vendi.mean()), float(b.vendi.mean())],
            "difference": dataclasses.asdict(st.mean_difference(a.vendi, b.vendi, rng)),
        }

    def _branches(self) -> dict[str, Any]:
        """Who serves which text, by label: whether a line is spoken verse, a speaker's name, a question..."""
        lines = [line for line in self.splits.validation.splitlines() if line.strip()]
        kinds = {
            "name": [x for x in lines if x.endswith(":")],
            "question": [x for x in lines if x.endswith("?")],
            "exclamation": [x for x in lines if x.endswith("!")],
            "verse": [x for x in lines if x.endswith(",")],
        }
        texts = {k: v[:40] for k, v in kinds.items() if len(v) >= 5}
        if len(texts) < 2:
            return {}
        found = analyze_thought_patterns(self.models["mixture-0"], self.tokenizer, texts, shuffles=199)
        return {k: v.tolist() if isinstance(v, np.ndarray) else list(v) for k, v in dataclasses.asdict(found).items()}

    def _examples(self, chosen: Mapping[str, list[int]]) -> list[dict[str, Any]]:
        """Of the named prompts, at each one's middle chosen setting: not chosen by taste."""
        out = []
        for p in range(min(5, len(self.held_out))):
            texts = {}
            for kind in SETTINGS:
                setting = sorted(chosen[kind], key=lambda i, k=kind: SETTINGS[k][i]["temperature"])[self.plan.keep // 2]  # type: ignore[misc]
                texts[kind] = self._sets(f"{kind}-0", SETTINGS[kind][setting], self.held_out, 1).texts[p]
            out.append({"prompt": self.held_out[p], "texts": texts})
        return out


def write_whole_in(path: Path, text: str) -> None:
    """`write_whole`, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def _json(value: Any) -> Any:
    """Numbers that JSON can hold: NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    if isinstance(value, np.ndarray):
        return _json(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
