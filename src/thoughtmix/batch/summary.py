"""What a batch comes to: its metrics over all prompts, in one pass and a few numbers of memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunningMean:
    """Mean and spread of numbers that are seen one by one (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def margin(self) -> float | None:
        """Half the width of a 95% interval of the mean (Student's t); None for fewer than two."""
        if self.count < 2:
            return None
        from scipy.stats import t

        deviation = math.sqrt(self._squares / (self.count - 1))
        return float(t.ppf(0.975, self.count - 1)) * deviation / math.sqrt(self.count)


@dataclass
class BatchSummary:
    """Of a whole file; the unit is the prompt."""

    prompts: int = 0
    failed: int = 0
    thoughts: int = 0
    tokens: int = 0
    metrics: dict[str, RunningMean] = field(default_factory=dict)

    def add(self, line: Mapping[str, Any]) -> None:
        """A line of answers."""
        self.prompts += 1
        self.failed += bool(line.get("error"))
        self.thoughts += len(line["thoughts"])
        self.tokens += tokens_of(line)
        for name, value in line["metrics"].items():
            self.metrics.setdefault(name, RunningMean()).add(float(value))

    def to_dict(self) -> dict[str, Any]:
        """As JSON: of each metric the mean over prompts, and half the width of its 95% interval."""
        return {
            "prompts": self.prompts,
            "failed": self.failed,
            "thoughts": self.thoughts,
            "tokens": self.tokens,
            "metrics": {
                name: {
                    "mean": round(value.mean, 6),
                    "margin": None if value.margin is None else round(value.margin, 6),
                    "prompts": value.count,
                }
                for name, value in self.metrics.items()
            },
        }

    def text(self) -> str:
        """For people, a line each."""
        failed = f", {self.failed} failed" if self.failed else ""
        lines = [f"{self.prompts:,} prompts{failed}, {self.thoughts:,} thoughts, {self.tokens:,} tokens"]
        if self.metrics:
            lines.append("mean over prompts, and half its 95% interval:")
        for name, value in self.metrics.items():
            margin = "" if value.margin is None else f" ± {value.margin:.3f}"
            lines.append(f"  {name:<14} {value.mean:.3f}{margin}")
        return "\n".join(lines)


def tokens_of(line: Mapping[str, Any]) -> int:
    """Tokens that were written for a line; of an endpoint by its own count."""
    drawn = line["run"].get("tokens")
    return int(drawn) if isinstance(drawn, (int, float)) else sum(len(t["token_ids"]) for t in line["thoughts"])
