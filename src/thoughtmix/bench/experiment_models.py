"""The models of an experiment, kept in its folder: trained alike, explored with many settings, judged by one of them.

A Mixture-of-Thoughts transformer stands beside a standard one, on as many tokens with as many active parameters. What
is finished is read back, so that the same experiment goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thoughtmix.bench.experiment_time import EVALUATIONS, TIMED, WINDOWS, Costs, fitting_steps
from thoughtmix.bench.record import finite_json
from thoughtmix.core.errors import InputError, ThoughtmixError
from thoughtmix.core.files import bounded_text, parse_json, write_whole
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.engine.row_state import NO_ROW_STATE, RowState
from thoughtmix.metrics import judge_nll, self_bleu, vendi
from thoughtmix.mixture import RECIPE
from thoughtmix.mixture.state import BranchRowState
from thoughtmix.models import LanguageModel, load_embedder, load_model
from thoughtmix.models.language import wrap_model
from thoughtmix.training.checkpoint import digest
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import Splits, read_text, split
from thoughtmix.training.language import Architecture, Shape, active_parameters, encode, tokenizer_of, train_language
from thoughtmix.training.modes import ModeSearch
from thoughtmix.training.task import LanguageTask
from thoughtmix.training.trainer import TrainingProgress, TrainingResult

PROMPTS = ("ROMEO:", "To be or not to be", "Once upon a time", "The meaning of life", "In the beginning")

ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "no modes": {"modes": 0},  # a mixture of experts, top-2 for each token
    "no combiner": {"combiner": "weights"},
    "held noise": {"noise": "held"},
    "drawn routes": {"routing": "gumbel"},  # Gumbel noise on the router's logits, held for the thought
    "diversity loss": {"diversity_weight": 0.01},
    # Drawn for the thought before the text is known, with held noise and the signals for entropy and diversity.
    "blind routes": {
        "follow": False,
        "modes": 0,
        "routing": "gumbel",
        "noise": "held",
        "branches_max": 3,
        "entropy_weight": 0.01,
        "diversity_weight": 0.01,
    },
}
"""What is trained anew: name -> the fields of the mixture that are changed."""

SEED_STEP = 10_000  # between the seeds of two prompts: no thought of one shares its stream with one of another

OnStep = Callable[[TrainingProgress], None]
Say = Callable[[str, TrainingProgress | None], None]
"""Told what is being done and, while training, how far it is."""


@dataclass(frozen=True, slots=True)
class ExperimentConfig:
    """What an experiment runs, all of it fixed before anything is trained. Raises `InputError` for what cannot be."""

    data: str
    minutes: float = 10.0  # that all of it takes on this machine
    steps: int | None = None  # of every training, whatever the minutes say
    seeds: int = 1  # trainings of each of the two models
    n: int = 8  # thoughts a prompt
    tokens: int = 100  # a thought
    context: int = 64
    batch_size: int = 12
    layers: int = 4
    width: int = 128
    heads: int = 4
    branches: int = 8
    development: int = 8  # prompts to choose settings on
    held_out: int = 16  # prompts to report on
    keep: int = 5  # settings of each that are reported
    seed: int = 0  # of the intervals
    ablations: tuple[str, ...] = tuple(ABLATIONS)
    learning_rate: float = 1e-3
    mixture: Mapping[str, Any] = field(default_factory=lambda: dict(RECIPE))
    """Further fields of `MixtureOfThoughtsConfig`."""
    search: ModeSearch = field(default_factory=ModeSearch)
    """How its modes learn a window."""

    def __post_init__(self) -> None:
        for name in ("minutes", "seeds", "tokens", "context", "batch_size"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}.", f"Pass more than 0 (--{name.replace('_', '-')}).")
        if self.n < 2:
            raise InputError(f"n is {self.n}; diversity needs two thoughts.", "Pass 2 or more (-n 8).")
        if self.development < 2 or self.held_out < 2:
            raise InputError("There must be 2 prompts of each kind.", "Pass --prompts 24 or so.")
        unknown = set(self.ablations) - set(ABLATIONS)
        if unknown:
            raise InputError(f"Unknown ablation {sorted(unknown)[0]!r}.", f"Known: {', '.join(ABLATIONS)}.")

    @property
    def shape(self) -> Shape:
        return Shape(self.layers, self.width, self.heads, self.context)

    @property
    def trainings(self) -> int:
        """Models to train: both contenders for each seed, the judge, the ablations."""
        return 2 * self.seeds + 1 + len(self.ablations)


def split_prompts(text: str, config: ExperimentConfig) -> tuple[list[str], list[str]]:
    """(development, held-out) prompts: beginnings of lines of a text that no model was trained on, evenly spread; the
    named prompts are held out. Raises `InputError` when there are too few lines."""
    lines = [line for line in text.splitlines() if len(line.split()) >= 4]
    wanted = config.development + config.held_out - len(PROMPTS)
    if len(lines) < wanted:
        raise InputError(
            f"The validation text has {len(lines)} lines to take prompts from, not {wanted}.", "Pass more text."
        )
    begun = [" ".join(lines[int((i + 0.5) * len(lines) / wanted)].split()[:3]) for i in range(wanted)]
    chosen = range(0, wanted, max(1, wanted // config.development))[: config.development]
    held_out = [*PROMPTS, *(p for i, p in enumerate(begun) if i not in chosen)]
    return [begun[i] for i in chosen], held_out[: max(config.held_out, len(PROMPTS))]


@dataclass(frozen=True, slots=True)
class Sets:
    """The thoughts of each prompt, and each prompt's scores."""

    texts: list[list[str]]  # (prompts, n)
    nll: NDArray[np.float64]  # (prompts,) under the judge, nats a token, LOWER is better
    vendi: NDArray[np.float64]  # (prompts,)
    difference: NDArray[np.float64]  # (prompts,) 1 - self-BLEU


def read_kept(path: Path, *names: str) -> dict[str, Any]:
    """What an experiment wrote into its folder, with everything by these names. Raises `ThoughtmixError`."""
    try:
        body = parse_json(bounded_text(path))
        if isinstance(body, dict) and all(name in body for name in names):
            return body
    except (OSError, ValueError):
        pass
    raise _damaged(path)


def _damaged(path: Path) -> ThoughtmixError:
    return ThoughtmixError(f"{path} is damaged.", f"Type: rm {shlex.quote(str(path))}, then the same again.")


class ExperimentModels:
    """What is trained, and what it writes. Raises `InputError` when the folder holds an experiment with other settings.

    models and facts: of what `train` was called for.
    """

    def __init__(self, config: ExperimentConfig, folder: Path, say: Say) -> None:
        self.began = time.perf_counter()
        self.config, self.folder, self.say = config, folder, say
        text = read_text(config.data)
        about = self._unchanged(text)
        self.splits = split(text, validation=0.1, held_out=0.3)
        self.development, self.held_out = split_prompts(self.splits.validation, config)
        (folder / "sets").mkdir(parents=True, exist_ok=True)
        write_whole(folder / "plan.json", json.dumps(about, indent=1))
        self.tokenizer = tokenizer_of(self.splits, config.shape)
        self.embedder = load_embedder()
        self.models: dict[str, LanguageModel] = {}
        self.facts: dict[str, dict[str, Any]] = {}

    def _unchanged(self, text: str) -> dict[str, Any]:
        """What this experiment is, by name, its text by its hash. Raises `InputError` where the folder's was another:
        until its steps are chosen, the minutes may change."""
        now: dict[str, Any] = finite_json({**dataclasses.asdict(self.config), "data": digest(text)})
        head = self.folder / "plan.json"
        if head.exists():
            before = read_kept(head, *now)
            for name, value in now.items():
                if before[name] != value and (name != "minutes" or (self.folder / "steps.json").exists()):
                    raise InputError(
                        f"{self.folder} holds an experiment with other settings: {name} was {before[name]!r:.60}, is "
                        f"{value!r:.60}.",
                        "Name another folder (--out), or pass what it was.",
                    )
        return now

    def planned_sets(self) -> Mapping[tuple[str, str], int]:
        """How many sets of texts there will be at most: (kind of model, development or held-out) -> count."""
        return {}

    @cached_property
    def steps(self) -> int:
        """Of every training: as many as fit into the minutes beside all else, by what a step and a text take here;
        decided once for a folder. Raises `InputError` where even the fewest do not."""
        config, path = self.config, self.folder / "steps.json"
        if config.steps is not None:
            return config.steps
        if path.exists():
            return int(read_kept(path, "steps")["steps"])
        self.say("timing a few steps and texts", None)
        costs = {kind: self._costs(kind) for kind in ("mixture", "baseline")}
        self.models.clear()
        trainings = {"baseline": config.seeds + 1, "mixture": config.seeds + len(config.ablations)}  # and the judge
        spent = time.perf_counter() - self.began
        steps = fitting_steps(config.minutes, trainings, costs, self.planned_sets(), spent)
        write_whole(path, json.dumps({"steps": steps, "seconds": {k: dataclasses.asdict(c) for k, c in costs.items()}}))
        return steps

    def _costs(self, kind: Architecture) -> Costs:
        """Seconds of a model's training and of its texts, timed on one that has hardly been trained."""
        clock: list[float] = []

        def timed(work: Callable[[], object]) -> float:
            began = time.perf_counter()
            work()
            return time.perf_counter() - began

        few = TrainConfig(steps=TIMED, batch_size=self.config.batch_size, evaluate_every=10**6, save_every=10**6)
        model, done = self._fit(kind, self.splits, few, None, 1, lambda _: clock.append(time.perf_counter()))
        if done.interrupted:
            raise KeyboardInterrupt
        each = (clock[-2] - clock[1]) / (TIMED - 3)  # the first warms up, the last evaluates
        task = self._task(self.splits)
        share = min(1.0, WINDOWS / len(task.starts))
        evaluation = timed(lambda: task.evaluate(model, share))
        self.models[kind] = wrap_model(model, self.tokenizer, kind)
        self.models.setdefault("judge", self.models[kind])
        setting = {"creativity": 1.0, "temperature": 0.7} if kind == "mixture" else {"temperature": 0.7}

        def texts(prompts: Sequence[str]) -> float:
            return timed(lambda: self._made_sets(kind, setting, prompts, 1))

        first = texts(self.development[:1])  # tries the decoding paths
        one, some = texts(self.development), texts(self.held_out)
        return Costs(each, evaluation, evaluation / share, first, one, some)

    def _task(self, splits: Splits) -> LanguageTask:
        """Looks at many windows of validation, or at all if they are fewer."""
        tokens, validation = encode(self.tokenizer, splits.train), encode(self.tokenizer, splits.validation)
        return LanguageTask(tokens, validation, self.config.context, windows=256)

    def train(self, name: str, title: str) -> None:
        """Train a model into its folder, or load what is there: mixture-S, baseline-S (seed S), judge, an ablation."""
        self.say(title, None)
        place = self.folder / "models" / name.replace(" ", "-")
        path = place / "facts.json"
        if not path.exists():
            facts = self._train_anew(name, place, lambda progress: self.say(title, progress))
            write_whole(path, json.dumps(facts))
        self.facts[name] = read_kept(path, "steps", "tokens", "val_loss", "val_loss_0", "log")
        self.models[name] = load_model(str(place), dtype="float32")

    def _train_anew(self, name: str, place: Path, on_step: OnStep) -> dict[str, Any]:
        """The facts of a training."""
        config, splits, steps = self.config, self.splits, self.steps
        kind, _, number = name.partition("-")
        architecture: Architecture = "baseline" if kind in ("judge", "baseline") else "mixture"
        seed = int(number or 0)
        if name == "judge":  # another text, another seed: it must not share the contenders' memories
            splits, seed = Splits(splits.held_out, splits.validation, ""), 1000
        every, warmup = max(1, steps // EVALUATIONS), min(100, steps // 10 + 1)
        how = TrainConfig(
            steps,
            None,
            config.batch_size,
            config.learning_rate,
            warmup,
            evaluate_every=every,
            save_every=every,
            seed=seed,
        )
        model, done = self._fit(architecture, splits, how, place, WINDOWS, on_step, **ABLATIONS.get(name, {}))
        if done.interrupted:
            raise KeyboardInterrupt
        return {
            "kind": architecture,
            "seed": seed,
            "steps": done.steps,
            "tokens": done.steps * config.batch_size * config.context,
            "seconds": round(done.seconds, 1),
            "parameters": sum(p.numel() for p in model.parameters()),
            "active": active_parameters(model.config),
            **self._task(splits).evaluate(model),
            "log": [e for i, e in enumerate(done.log) if i % max(1, len(done.log) // 200) == 0 or "val_loss" in e],
        }

    def _fit(
        self,
        kind: Architecture,
        splits: Splits,
        how: TrainConfig,
        place: Path | None,
        windows: int,
        on_step: OnStep,
        **changed: Any,
    ) -> tuple[Any, TrainingResult]:
        config = self.config
        room = max(1024, 4 * config.context, 2 * config.tokens)  # for a prompt and a thought
        fields = {"num_branches": config.branches, "max_position_embeddings": room, **config.mixture, **changed}
        options = {"windows": windows, "on_step": on_step, "tokenizer": self.tokenizer, "search": config.search}
        resume = place is not None and (place / "training" / "state.pt").exists()
        model, _, done = train_language(kind, splits, config.shape, how, place, resume=resume, **options, **fields)
        return model, done

    def generate(
        self, name: str, setting: Mapping[str, float], prompts: Sequence[str], seed: int
    ) -> tuple[list[list[str]], NDArray[np.float32]]:
        """The model's texts (prompts, n), all written in one batch, and their embeddings (prompts, n, width).

        setting: temperature, top_p, min_p, and creativity for a mixture.
        """
        lm, n = self.models[name], self.config.n
        own: dict[str, Any] = {key: value for key, value in setting.items() if key != "creativity"}
        sampling = SamplingParams(**own)
        sequences = [
            SequenceRequest(tuple(lm.encode(prompt)), seed + p * SEED_STEP + i, sampling, self.config.tokens)
            for p, prompt in enumerate(prompts)
            for i in range(n)
        ]
        row_state: RowState = NO_ROW_STATE
        if lm.model.config.num_branches > 1:
            creativity = [setting.get("creativity", 1.0)] * len(sequences)
            row_state = BranchRowState([s.seed for s in sequences], creativity, lm.device, lm.model.config.tail)
        done = LocalEngine(lm, weights="native").generate(sequences, row_state=row_state)
        if done.interrupted:
            raise KeyboardInterrupt
        texts = [output.text for output in done.outputs]
        vectors = self.embedder.encode(texts).reshape(len(prompts), n, -1)
        return [texts[p * n : (p + 1) * n] for p in range(len(prompts))], vectors

    def sets(self, name: str, setting: Mapping[str, float], prompts: Sequence[str], seed: int) -> Sets:
        """Thoughts and scores of one model at one setting, from the folder when they are there."""
        part = "development" if prompts is self.development else "held-out"
        words = "-".join(f"{k}{v:g}" for k, v in setting.items())
        path = self.folder / "sets" / f"{name.replace(' ', '-')}-{part}-{words}-{seed}.json"
        if path.exists():
            body = read_kept(path, "texts", "nll", "vendi", "difference")
            if {len(body[k]) for k in ("texts", "nll", "vendi", "difference")} != {len(prompts)}:
                raise _damaged(path)
            return Sets(body["texts"], *(np.array(body[k], float) for k in ("nll", "vendi", "difference")))
        self.say(f"{name}: {part} prompts at {', '.join(f'{k} {v:g}' for k, v in setting.items())}", None)
        sets = self._made_sets(name, setting, prompts, seed)
        write_whole(path, json.dumps(finite_json(dataclasses.asdict(sets)), ensure_ascii=False))
        return sets

    def _made_sets(self, name: str, setting: Mapping[str, float], prompts: Sequence[str], seed: int) -> Sets:
        texts, vectors = self.generate(name, setting, prompts, seed)
        nll = [self._judge_nll(prompt, mine) for prompt, mine in zip(prompts, texts, strict=True)]
        difference = [1 - self_bleu(mine) for mine in texts]
        return Sets(texts, np.array(nll), np.array([vendi(v) for v in vectors]), np.array(difference))

    def _judge_nll(self, prompt: str, texts: Sequence[str]) -> float:
        """The mean over all tokens, so that a short text counts less than a long one."""
        tokens = [len(encode(self.tokenizer, text)) for text in texts]
        return float(judge_nll(prompt, texts, self.models["judge"]) @ tokens) / max(1, sum(tokens))
