"""What it costs to get different thoughts out of a model: five ways, priced side by side, from its config alone."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.cost import memory
from thoughtmix.cost.graft import BRANCHES, RANK, Graft
from thoughtmix.cost.hardware import DEFAULT, Kind, kind
from thoughtmix.cost.memory import Memory
from thoughtmix.cost.size import Size

SCHEMA, VERSION = "thoughtmix/cost", 1
PER_PARAMETER = 20
"""Tokens an active parameter of pretraining: compute-optimal after Hoffmann et al. 2022."""
TUNE_TOKENS = 2**18
"""Of tuning: 512 prompts, each answered under 8 styles in 64 tokens."""
TUNE_SEQUENCE = 256
"""Tokens of a tuning or calibration text: prompt, style and answer."""
CALIBRATION_TOKENS = 64 * 9 * 64
"""64 prompts, plain and under 8 styles, 64 tokens each."""
TEACHER_ROWS = 32
"""Answers that the teacher writes at once."""
DECODING = 0.5
"""Of the utilisation in training, the part that is reached when writing token by token. Measured on two CPU cores:
264 to 330 tokens a second of SmolLM2-135M at 32 rows (README.md), where 1.0 would be 540."""
THOUGHTS = 8

WAYS = ("pretraining", "full fine-tuning", "graft tuning", "calibration", "no training")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. None: the default, which depends on model or machine.

    tokens: of pretraining. tune_tokens: of both tunings. sequence: tokens a sequence of pretraining and in use;
    tune_sequence: of tuning and calibration. batch: sequences of `sequence` at once on one machine, or as many tokens
    of shorter ones. gpus: machines to spread over; None: as few as hold it. mfu: part of the peak that is reached.
    price: US dollars an hour for one. tflops, memory_gb: of one machine. checkpointing: recompute activations instead
    of keeping them; None: only where they do not fit. master: keep float32 weights beside 16-bit ones. thoughts:
    decoded at once when the model is used.
    """

    gpu: str = DEFAULT
    tokens: float | None = None
    tune_tokens: float = TUNE_TOKENS
    sequence: int | None = None
    tune_sequence: int | None = None
    batch: int = 1
    gpus: int | None = None
    mfu: float | None = None
    price: float | None = None
    tflops: float | None = None
    memory_gb: float | None = None
    branches: int = BRANCHES
    rank: int = RANK
    thoughts: int = THOUGHTS
    checkpointing: bool | None = None
    master: bool = True

    def check(self, context: int | None) -> None:
        """Raises `InputError`."""
        for name in ("tokens", "tune_tokens", "sequence", "tune_sequence", "batch", "gpus", "mfu", "tflops",
                     "memory_gb", "branches", "rank", "thoughts"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(
                    f"{name.replace('_', ' ')} is {value}.", f"Pass more than 0 (--{name.replace('_', '-')})."
                )
        if self.mfu is not None and self.mfu > 1:
            raise InputError(f"mfu is {self.mfu}.", "Pass a part of the peak, 0 to 1 (--mfu 0.4).")
        if self.price is not None and not 0 <= self.price < float("inf"):
            raise InputError(f"price is {self.price}.", "Pass US dollars an hour (--price 2.5).")
        for name in ("sequence", "tune_sequence"):
            value = getattr(self, name)
            if context is not None and value is not None and value > context:
                option = f"--{name.replace('_', '-')} {context}"
                raise InputError(f"{name.replace('_', ' ')} is {value}, over the model's {context}.", f"Pass {option}.")

    def machine(self) -> Kind:
        """The kind of machine with what was overridden. Raises `UnknownName`."""
        asked = {"tflops": self.tflops, "memory": self.memory_gb, "utilisation": self.mfu, "price": self.price}
        changed: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        return dataclasses.replace(kind(self.gpu), **changed)


@dataclass(frozen=True, slots=True)
class Way:
    """One way. trainable: parameters. tokens: that it is trained on or reads. flops: of that, recomputing included;
    teacher_flops: of writing the teacher's answers. memory: bytes. machines_needed: the fewest that hold it, None when
    no number does. machines: those it is spread over. gpu_hours, teacher_hours, money (US dollars), hours (by the
    clock, on those machines). checkpointing: whether activations are recomputed. refused: why it cannot be done."""

    name: str
    trainable: int = 0
    tokens: float = 0.0
    flops: float = 0.0
    teacher_flops: float = 0.0
    memory: Memory = field(default_factory=Memory)
    machines_needed: int | None = 1
    machines: int = 1
    gpu_hours: float = 0.0
    teacher_hours: float = 0.0
    hours: float = 0.0
    money: float = 0.0
    checkpointing: bool = False
    refused: str = ""

    @property
    def fits(self) -> bool:
        return self.machines_needed is not None and self.machines_needed <= self.machines


@dataclass(frozen=True, slots=True)
class Cost:
    """The answer: the model's size, the machine and its assumptions, the five ways in the order of `WAYS`."""

    model: str
    size: Size
    graft: Graft
    graft_parameters: int
    request: Request
    machine: Kind
    sequence: int
    tune_sequence: int
    ways: tuple[Way, ...]

    def way(self, name: str) -> Way:
        return next(way for way in self.ways if way.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; sizes in bytes, times in hours, money in US dollars."""
        size = self.size
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "model": self.model,
            "parameters": {
                "total": size.total,
                "active": size.active,
                "graft": self.graft_parameters,
                "graft_share": self.graft_parameters / size.total,
            },
            "forward_flops_per_token": size.forward(self.sequence),
            "layers": len(size.blocks),
            "encoder_decoder": size.pairs,
            "machine": {**dataclasses.asdict(self.machine), "dated": self.machine.dated.isoformat()},
            "assumptions": {
                **dataclasses.asdict(self.request),
                "sequence": self.sequence,
                "tune_sequence": self.tune_sequence,
            },
            "ways": [_plain(way) for way in self.ways],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)


def estimate(model: Any = None, *, title: str = "", request: Request | None = None, **asked: Any) -> Cost:
    """Price the five ways.

    model: a name as `thoughtmix cost` takes (None: the default model), a transformers configuration, or a `Size`.
    asked: fields of `Request`, or of the `request` given. No weights are read or made.
    Raises `InputError` for settings that make no sense, `ModelError` for a model that cannot be read or counted.
    """
    request = dataclasses.replace(request or Request(), **asked)
    request.check(None)
    machine = request.machine()
    if isinstance(model, Size):
        size = model
    else:
        from thoughtmix.cost.read import build, read
        from thoughtmix.cost.size import measure

        config, found = read(model) if model is None or isinstance(model, str) else (model, type(model).__name__)
        title = title or found
        size = measure(build(config, title), title)
    request.check(size.context)
    sequence = request.sequence or min(size.context or 2048, 2048)
    short = request.tune_sequence or min(sequence, TUNE_SEQUENCE)
    graft = Graft(request.branches, request.rank)
    price = _Pricer(size, graft, request, machine, sequence, short)
    ways = (price.pretraining(), price.full(), price.grafted(), price.calibration(), price.none())
    return Cost(title, size, graft, graft.parameters(size), request, machine, sequence, short, ways)


class _Pricer:
    def __init__(self, size: Size, graft: Graft, request: Request, machine: Kind, sequence: int, short: int) -> None:
        self.size, self.graft, self.request, self.machine = size, graft, request, machine
        self.sequence, self.short = sequence, short
        self.added = graft.parameters(size)
        self.held = request.batch * sequence  # tokens at once on one machine

    def pretraining(self) -> Way:
        tokens = self.request.tokens or float(PER_PARAMETER * self.size.active)
        return self._trained(WAYS[0], tokens, self.size.total, 0, 3.0, self.sequence)

    def full(self) -> Way:
        return self._trained(WAYS[1], self.request.tune_tokens, self.size.total, 0, 3.0, self.short)

    def grafted(self) -> Way:
        if not self.added:
            return self._refused(WAYS[2])
        passes = self.graft.tuning(self.size, self.short) / self.size.forward(self.short)
        way = self._trained(WAYS[2], self.request.tune_tokens, self.added, self.size.total, passes, self.short)
        flops, hours = self._teacher(way.tokens)
        return dataclasses.replace(
            way,
            teacher_flops=flops,
            teacher_hours=hours,
            gpu_hours=way.gpu_hours + hours,
            hours=way.hours + hours / way.machines,
            money=way.money + hours * self.machine.price,
        )

    def calibration(self) -> Way:
        if not self.added:
            return self._refused(WAYS[3])
        used = memory.reading(self.size, self.machine, self.size.total + self.added, self.held)
        return self._priced(
            Way(WAYS[3], tokens=CALIBRATION_TOKENS, flops=CALIBRATION_TOKENS * self.size.forward(self.short)), used
        )

    def none(self) -> Way:
        half = self.sequence / 2  # a prompt of half the sequence, answers of the other half
        return self._priced(
            Way(WAYS[4]),
            memory.decoding(self.size, self.machine, self.size.total, half, half, self.request.thoughts),
        )

    def _trained(self, name: str, tokens: float, trained: int, frozen: int, passes: float, length: int) -> Way:
        """passes: FLOPs a token in forward passes over sequences of `length`."""

        def used(checkpointing: bool) -> Memory:
            return memory.training(self.size, self.machine, trained, frozen, self.held, master=self.request.master,
                                   checkpointing=checkpointing)  # fmt: skip

        again = self.request.checkpointing
        if again is None:
            again = used(False).machines(self.machine) is None
        flops = tokens * (passes + (1 if again else 0)) * self.size.forward(length)
        return self._priced(Way(name, trainable=trained, tokens=tokens, flops=flops, checkpointing=again), used(again))

    def _priced(self, way: Way, used: Memory) -> Way:
        needed = used.machines(self.machine)
        machines = self.request.gpus or needed or 1
        hours = way.flops / (self.machine.tflops * 1e12 * self.machine.utilisation) / 3600
        return dataclasses.replace(
            way,
            memory=used,
            machines_needed=needed,
            machines=machines,
            gpu_hours=hours,
            hours=hours / machines,
            money=hours * self.machine.price,
        )

    def _refused(self, name: str) -> Way:
        return Way(name, machines_needed=None, refused="no feed-forward block to put branches beside")

    def _teacher(self, tokens: float) -> tuple[float, float]:
        """(FLOPs, machine hours) of the model writing `tokens` of answers, many rows at once. A step takes as long as
        its products or as reading all weights (so many rows reach every expert) and the cache, whichever is longer."""
        behind = self.short / 2  # tokens before one, on average
        flops = 2 * (self.size.maps + self.size.scores(behind))
        moved = self.machine.bytes * (self.size.total + TEACHER_ROWS * self.size.cache(behind))
        step = max(TEACHER_ROWS * flops / (self.machine.tflops * 1e12), moved / (self.machine.bandwidth * 1e9))
        steps = tokens / TEACHER_ROWS
        return tokens * flops, steps * step / (self.machine.utilisation * DECODING) / 3600


def _plain(way: Way) -> dict[str, Any]:
    body = dataclasses.asdict(way)
    body["memory"]["total"] = way.memory.total
    return {**body, "fits": way.fits}
