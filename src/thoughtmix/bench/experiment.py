"""The experiment: a Mixture-of-Thoughts transformer beside a standard one, from a text to a record and its page.

Settings are chosen on development prompts and compared on held-out ones; both models get as many.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from thoughtmix.bench import frontier, record
from thoughtmix.bench import statistics as st
from thoughtmix.bench.experiment_models import ExperimentModels
from thoughtmix.bench.report import comparison, frontier_plot
from thoughtmix.mixture.analysis import analyze_thought_patterns
from thoughtmix.report import experiment as experiment_page

SCHEMA, SCHEMA_VERSION = "thoughtmix/experiment", 1

SETTINGS: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "baseline": (
        *({"temperature": t} for t in (0.1, 0.2, 0.3, 0.5, 0.7)),
        *({"temperature": t, "top_p": 0.9} for t in (0.2, 0.3, 0.5, 0.7, 0.9)),
        *({"temperature": t, "min_p": 0.1} for t in (0.3, 0.4, 0.5, 0.7, 0.9)),
    ),
    "mixture": tuple({"creativity": c, "temperature": t} for c in (1.0, 1.5, 2.0) for t in (0.0, 0.2, 0.4, 0.6, 0.8)),
}
"""What each is explored with: as many settings for both."""

CREATIVITIES = (0.0, 0.5, 1.0, 1.5, 2.0)  # at temperature 0: whatever differs then comes from routes and noise
REFERENCE = (-4.0, 1.0)  # of hypervolumes: -4 nats of judge likelihood, one effective text
_HALVINGS = 5  # of a range of temperatures
LEVELS = (0.25, 0.5, 0.75, 0.9)  # where between the worst and the best quality that both reach


class Experiment(ExperimentModels):
    """What its models write, compared."""

    def planned_sets(self) -> dict[tuple[str, str], int]:
        """As `ExperimentModels.planned_sets`."""
        seeds, keep = self.config.seeds, self.config.keep
        trained = seeds + len(self.config.ablations)
        return {
            ("baseline", "development"): len(SETTINGS["baseline"]) + _HALVINGS,
            ("baseline", "held-out"): seeds * keep + 1,
            ("mixture", "development"): len(SETTINGS["mixture"]) + 1,
            ("mixture", "held-out"): trained * keep + seeds * len(CREATIVITIES) + 1,
        }

    def run(self) -> dict[str, Any]:
        """The record of it all, as JSON. Raises KeyboardInterrupt when stopped; run it again to go on."""
        config = self.config
        self.steps  # noqa: B018 (chosen first: that the minutes do not suffice is said before anything is trained)
        names = [f"{kind}-{s}" for s in range(config.seeds) for kind in SETTINGS]
        for number, name in enumerate([*names, "judge", *config.ablations], 1):
            self.train(name, f"training {name} ({number} of {config.trainings})")
        chosen, levels = self._choose()
        curves = {kind: self._curve(kind, self.held_out, chosen[kind]) for kind in SETTINGS}
        rng = np.random.default_rng([config.seed, 41])
        result = {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "plan": dataclasses.asdict(config),
            "environment": record.environment(),
            "steps": self.steps,
            "prompts": {"development": self.development, "held_out": self.held_out},
            "settings": SETTINGS,
            "chosen": chosen,
            "levels": levels,
            "models": self.facts,
            "losses": self._losses(),
            "frontier": self._frontier(curves, chosen, levels, rng),
            "ablations": self._ablations(chosen["mixture"], levels[1], rng),
            "ladder": [self._at_temperature_0(creativity) for creativity in CREATIVITIES],
            "hot_baseline": self._hot_baseline(rng),
            "branches": self._branches(),
            "examples": self._examples(chosen),
        }
        result["seconds"] = round(time.perf_counter() - self.began, 1)
        return record.finite_json(result)

    def _curve(
        self, kind: str, prompts: Sequence[str], chosen: Sequence[int], model: str = "", diversity: str = "vendi"
    ) -> st.Curve:
        """Of one kind over its settings, seeds averaged (model: of one alone instead); the prompt is the unit."""
        models = [model] if model else [f"{kind}-{s}" for s in range(self.config.seeds)]
        sets = [[self.sets(m, SETTINGS[kind][i], prompts, 1 + j) for i in chosen] for j, m in enumerate(models)]
        quality = np.mean([[-s.nll for s in row] for row in sets], 0).T  # (prompts, settings)
        return st.Curve(quality, np.mean([[getattr(s, diversity) for s in row] for row in sets], 0).T)

    def _choose(self) -> tuple[dict[str, list[int]], list[float]]:
        """Each one's settings, and the levels of quality to compare at: fixed on development prompts, with the models
        of the first seed."""
        curves = {kind: self._curve(kind, self.development, range(len(s)), f"{kind}-0") for kind, s in SETTINGS.items()}
        chosen = {kind: frontier.choose_settings(c, self.config.keep, REFERENCE) for kind, c in curves.items()}
        kept = [c.quality[:, chosen[kind]].mean(0) for kind, c in curves.items()]
        low, high = max(float(q.min()) for q in kept), min(float(q.max()) for q in kept)
        return chosen, [low + share * (high - low) for share in LEVELS]

    def _losses(self) -> dict[str, Any]:
        """Validation losses of both by seed, and the difference with Student's interval over seeds. marginal: of a
        mixture with modes, over all of them; of others it is the loss as drawn."""
        names = {"drawn": "val_loss", "deterministic": "val_loss_0", "marginal": "val_loss_marginal"}
        out: dict[str, Any] = {}
        for kind in SETTINGS:
            facts = [self.facts[f"{kind}-{s}"] for s in range(self.config.seeds)]
            out[kind] = {name: [f.get(key, f["val_loss"]) for f in facts] for name, key in names.items()}
        for name in names:
            difference = np.subtract(out["mixture"][name], out["baseline"][name])
            n, mean, half = len(difference), float(difference.mean()), float("nan")
            if n > 1:
                half = float(student_t.ppf(0.975, n - 1)) * float(difference.std(ddof=1)) / n**0.5
            out[f"difference_{name}"] = {"value": mean, "low": mean - half, "high": mean + half}
        return out

    def _frontier(
        self, curves: Mapping[str, st.Curve], chosen: Mapping[str, list[int]], levels: Sequence[float], rng: Any
    ) -> dict[str, Any]:
        """What `bench.report.frontier_plot` draws, and the comparisons."""
        other = {k: self._curve(k, self.held_out, chosen[k], diversity="difference") for k in SETTINGS}
        found = [("hypervolume ratio", st.hypervolume_ratio(curves["mixture"], curves["baseline"], REFERENCE, rng))]
        for name, c in (("Vendi", curves), ("1 - self-BLEU", other)):
            for level in levels:
                interval = st.difference_at(c["mixture"], c["baseline"], level, rng)
                found.append((f"{name} at judge NLL {-level:.2f}", interval))
        adjusted = st.holm([interval.p for _, interval in found])
        return {
            "levels": levels,
            "bands": {kind: dataclasses.asdict(frontier.band(c, rng)) for kind, c in curves.items()},
            "held_out": {
                kind: [
                    {"setting": s, "quality": q, "diversity": d}
                    for s, q, d in zip(chosen[kind], c.quality.mean(0), c.diversity.mean(0), strict=True)
                ]
                for kind, c in curves.items()
            },
            "comparisons": [
                {"measure": name, "interval": dataclasses.asdict(interval), "adjusted": p}
                for (name, interval), p in zip(found, adjusted, strict=True)
            ],
        }

    def _ablations(self, chosen: Sequence[int], level: float, rng: Any) -> list[dict[str, Any]]:
        """Each ablation at the mixture's settings: its losses, and its diversity beside the whole mixture of seed 0 at
        a level of quality."""
        whole = self._curve("mixture", self.held_out, chosen, "mixture-0")
        rows = []
        for name in self.config.ablations:
            own = self._curve("mixture", self.held_out, chosen, name)
            row = {
                "name": name,
                **{k: self.facts[name].get(k) for k in ("val_loss", "val_loss_0", "val_loss_marginal")},
                "quality": own.quality.mean(),
                "diversity": own.diversity.mean(),
                "difference": dataclasses.asdict(st.difference_at(own, whole, level, rng)),
                "hypervolume_ratio": dataclasses.asdict(st.hypervolume_ratio(own, whole, REFERENCE, rng)),
            }
            rows.append(row)
        return rows

    def _at_temperature_0(self, creativity: float) -> dict[str, float]:
        """The mixture's scores on held-out prompts, seeds averaged; identical: whether all thoughts of a prompt are."""
        setting = {"creativity": creativity, "temperature": 0.0}
        sets = [self.sets(f"mixture-{s}", setting, self.held_out, 1 + s) for s in range(self.config.seeds)]
        scores = {k: float(np.mean([getattr(s, k) for s in sets])) for k in ("vendi", "difference", "nll")}
        identical = all(len(set(texts)) == 1 for s in sets for texts in s.texts)
        return {"creativity": creativity, **scores, "identical": float(identical)}

    def _hot_baseline(self, rng: Any) -> dict[str, Any]:
        """The baseline at the plain temperature whose judge NLL on development prompts is nearest to that of the
        mixture's default setting (creativity 1, temperature 0.7), beside it on held-out prompts."""
        own = {"creativity": 1.0, "temperature": 0.7}
        target = self.sets("mixture-0", own, self.development, 1).nll.mean()
        low, high = 0.05, 1.5
        for _ in range(_HALVINGS):
            middle = round((low + high) / 2, 3)
            nll = self.sets("baseline-0", {"temperature": middle}, self.development, 1).nll.mean()
            low, high = (middle, high) if nll < target else (low, middle)
        temperature = round((low + high) / 2, 3)
        a = self.sets("mixture-0", own, self.held_out, 1)
        b = self.sets("baseline-0", {"temperature": temperature}, self.held_out, 1)
        return {
            "temperature": temperature,
            "nll": [a.nll.mean(), b.nll.mean()],
            "vendi": [a.vendi.mean(), b.vendi.mean()],
            "difference": dataclasses.asdict(st.mean_difference(a.vendi, b.vendi, rng)),
        }

    def _branches(self) -> dict[str, Any]:
        """Who serves which text, by label: whether a line is spoken verse, a speaker's name, a question..."""
        lines = [line for line in self.splits.validation.splitlines() if line.strip()]
        ends = {"name": ":", "question": "?", "exclamation": "!", "verse": ","}
        texts = {label: [line for line in lines if line.endswith(end)][:40] for label, end in ends.items()}
        texts = {label: some for label, some in texts.items() if len(some) >= 5}
        if len(texts) < 2:
            return {}
        model: Any = self.models["mixture-0"].model
        return dataclasses.asdict(analyze_thought_patterns(model, self.tokenizer, texts, shuffles=199))

    def _examples(self, chosen: Mapping[str, list[int]]) -> list[dict[str, Any]]:
        """Of the named prompts, at each one's middle chosen setting: not chosen by taste."""
        texts = {}
        for kind, settings in SETTINGS.items():
            by_temperature = sorted((settings[i] for i in chosen[kind]), key=lambda s: s["temperature"])
            middle = by_temperature[self.config.keep // 2]
            texts[kind] = self.sets(f"{kind}-0", middle, self.held_out, 1).texts
        return [
            {"prompt": prompt, "texts": {kind: texts[kind][p] for kind in SETTINGS}}
            for p, prompt in enumerate(self.held_out[:5])
        ]


def page(result: Mapping[str, Any]) -> str:
    """The record as one self-contained HTML page."""
    rows = [comparison({**row, "thinker": "mixture"}) for row in result["frontier"]["comparisons"]]
    return experiment_page.page(result, frontier_plot(result["frontier"], list(SETTINGS)), rows)
