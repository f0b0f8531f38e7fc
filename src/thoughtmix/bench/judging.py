"""Who says how good the answers to open prompts are, and which of them say the same: loaded once in each worker.

Quality comes from a reward model, or a judge (likelihood, rubric, or pairs against the model's own likeliest answer);
without either it is what needs no judge (`metrics.soundness`). Sameness comes from the run's embedder, from words, or
from a classifier or a second embedder. What chose the answers must not measure them: see `bench.pipeline`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtmix.core.errors import ModelError
from thoughtmix.metrics.answers import equivalence_classes, novelty_classes, reward_quality
from thoughtmix.metrics.embedding import pairwise_distances

if TYPE_CHECKING:
    from thoughtmix.bench.config import Models
    from thoughtmix.bench.tasks import Item
    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.metrics.verdict import VerdictJudge
    from thoughtmix.models.classifier import Reward
    from thoughtmix.pipeline import Pipeline

EMBEDDER, WORDS, AUTO = "embedder", "words", "auto"
Classes = Callable[[Sequence[str]], list[int]]


class Scorers:
    """What measures the sets of one worker. Each model is loaded when it is first needed."""

    def __init__(self, models: Models, pipeline: Pipeline, max_new_tokens: int, threshold: float) -> None:
        self.models, self.pipeline = models, pipeline
        self.max_new_tokens, self.threshold = max_new_tokens, threshold
        self._references: dict[str, str] = {}

    def measured(self, made: ThoughtSet, item: Item) -> dict[str, Any]:
        """The part of a trial's record that a set of thoughts makes: `set`, and for open prompts `classes` and
        `rewards` where models give them.

        Only open prompts need embeddings and a judge: the answers of the others are checked.

        Raises:
            ModelError: The judge gives no verdict on any of the thoughts.
        """
        from thoughtmix.metrics import measure

        if item.kind != "open":
            return {"set": measure(made).to_dict()}
        by, more = self.models.judged_by, dict[str, Any]()
        likelihood = self.pipeline.judge if by == "likelihood" else None
        made = measure(made, embedder=self.pipeline.embedder, judge=likelihood)
        metrics, run = dict(made.metrics), dict(made.run)
        if by == "rubric":
            metrics |= self._graded(item, made.texts)
        elif by == "pairs":
            metrics |= self._compared(item, made.texts)
        if by in {"rubric", "pairs"}:
            run["judge"] = self.judge.name
        if self.reward is not None:
            rewards = self.reward(item.prompt, made.texts)
            metrics |= {
                "reward": float(rewards.mean()),
                "reward_quality": float(reward_quality(rewards, self.reward.grades).mean()),
            }
            run["reward"] = self.reward.name
            more |= {"rewards": [round(float(r), 6) for r in rewards], "grades": list(self.reward.grades)}
        if self.classes is not None:
            more["classes"] = self.classes(made.texts)
        metrics = {name: round(float(value), 6) for name, value in metrics.items()}
        return {"set": dataclasses.replace(made, metrics=metrics, run=run).to_dict(), **more}

    @cached_property
    def judge(self) -> VerdictJudge:
        """Who gives verdicts."""
        from thoughtmix.metrics.verdict import LocalJudge
        from thoughtmix.models.judge import EndpointJudge

        judge = self.pipeline.judge
        assert judge is not None  # `Models` has checked
        return judge if isinstance(judge, EndpointJudge) else LocalJudge(judge)

    @cached_property
    def reward(self) -> Reward | None:
        from thoughtmix.models.classifier import load_reward

        how = self.models
        return None if how.reward is None else load_reward(how.reward, how.device, how.dtype)

    @cached_property
    def classes(self) -> Classes | None:
        """A classifier of pairs, or a second embedder, whichever the name is; None: no model tells what is the same."""
        from thoughtmix.models import load_embedder
        from thoughtmix.models.classifier import NOVELTY_BENCH, is_classifier, load_sameness

        name = self.models.equivalence
        if name in {AUTO, EMBEDDER, WORDS}:
            return None
        if name == NOVELTY_BENCH or is_classifier(name):
            classifier = load_sameness(name, self.models.device)
            return lambda texts: novelty_classes(texts, same=classifier.same)
        embedder = load_embedder(name, self.models.device)
        return lambda texts: novelty_classes(texts, pairwise_distances(embedder.encode(texts)), self.threshold)

    def _graded(self, item: Item, texts: Sequence[str]) -> dict[str, float]:
        from thoughtmix.metrics.verdict import grade

        said = self._said(grade(self.judge, item.prompt, texts), item)
        return {"judge_yes": float(np.mean(said)), "judge_silent": 1 - len(said) / len(texts)}

    def _compared(self, item: Item, texts: Sequence[str]) -> dict[str, float]:
        """Against the model's likeliest answer, which is the same for every system."""
        from thoughtmix.metrics.verdict import compare

        if item.prompt not in self._references:
            greedy = self.pipeline(
                item.prompt, 1, "sampling", temperature=0.0, max_new_tokens=self.max_new_tokens, measure=False
            )
            self._references[item.prompt] = greedy[0].text
        reference = self._references[item.prompt]
        said = self._said(compare(self.judge, item.prompt, [(text, reference) for text in texts]), item)
        ties = sum(value == 0.5 for value in said) / len(said)
        return {"judge_wins": float(np.mean(said)), "judge_ties": ties, "judge_silent": 1 - len(said) / len(texts)}

    def _said(self, verdicts: Sequence[float | None], item: Item) -> list[float]:
        said = [value for value in verdicts if value is not None]
        if not said:
            raise ModelError(
                f"{self.judge.name} gave no verdict on any answer to {item.id}.", "Name another judge (--judge)."
            )
        return said


def word_classes(texts: Sequence[str]) -> list[int]:
    """The class of each text by words alone (`alike_in_words`), for what an embedder may have chosen."""
    from thoughtmix.metrics.answers import alike_in_words

    return equivalence_classes(len(texts), alike_in_words(texts))
