"""What `/metrics` shows, one registry an app."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from thoughtmix.engine.scheduler import Tick

_QUICK = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_SLOW = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        name = "thoughtmix"
        self.requests = Counter(
            f"{name}_requests", "Answers by endpoint and status.", ["path", "status"], registry=registry
        )
        self.tokens = Counter(f"{name}_tokens", "Tokens read and drawn.", ["kind"], registry=registry)
        self.steps = Counter(f"{name}_steps", "Decoding steps.", registry=registry)
        self.rows = Gauge(f"{name}_rows", "Rows in the last decoding step.", registry=registry)
        self.waiting = Gauge(f"{name}_waiting", "Decodes that wait for room in the batch.", registry=registry)
        self.accepted = Gauge(f"{name}_accepted", "Requests accepted and not yet answered.", registry=registry)
        self.cancelled = Counter(f"{name}_cancelled", "Requests whose client left.", registry=registry)
        self.first = Histogram(
            f"{name}_first_token_seconds", "From acceptance to the first token.", buckets=_SLOW, registry=registry
        )
        self.seconds = Histogram(
            f"{name}_request_seconds", "From acceptance to the answer's end.", buckets=_SLOW, registry=registry
        )
        self.step = Histogram(f"{name}_step_seconds", "Of a decoding step.", buckets=_QUICK, registry=registry)
        self.read = Histogram(
            f"{name}_read_seconds", "Of reading prompts between two steps.", buckets=_QUICK, registry=registry
        )
        self.beside = Histogram(
            f"{name}_beside_seconds", "Of a turn of work beside the batch.", buckets=_QUICK, registry=registry
        )

    def record_step(self, tick: Tick) -> None:
        """After every turn of the scheduler."""
        self.rows.set(tick.rows)
        self.waiting.set(tick.waiting)
        if tick.tokens:
            self.steps.inc()
            self.tokens.labels("drawn").inc(tick.tokens)
            self.step.observe(tick.step_seconds)
        if tick.read:
            self.tokens.labels("read").inc(tick.read)
            self.read.observe(tick.read_seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
