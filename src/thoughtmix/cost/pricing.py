"""What it costs to get different thoughts out of a model: five ways, priced side by side, from its config alone."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.cost import hardware
from thoughtmix.cost.hardware import DEFAULT, Machine, Memory, get_machine
from thoughtmix.cost.size import BRANCHES, RANK, Graft, Size

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
264 to 330 tokens a second of SmolLM2-135M at 32 rows (docs/results/speed.md), where 1.0 would be 540."""


def _setting(default: Any, about: str, *flags: str, otherwise: str | None = None, positive: bool = True) -> Any:
    """A field of `CostRequest`: its help and spellings on the command line, what happens without it where the default
    is None, and whether it must be more than 0."""
    said = {"help": about, "flags": flags, "otherwise": otherwise, "positive": positive}
    return field(default=default, metadata=said)


def _flag(setting: dataclasses.Field[Any]) -> str:
    """The long one of a setting."""
    long = [flag for flag in setting.metadata["flags"] if flag.startswith("--")]
    return long[0] if long else f"--{setting.name.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class CostRequest:
    """What is asked; the command line has an option for each field, with the same help. None is the default, which
    depends on the model or the machine."""

    tokens: float | None = _setting(
        None, "Tokens of pretraining, such as 2e12.", "--pretrain-tokens", otherwise="20 an active parameter"
    )
    tune_tokens: float = _setting(TUNE_TOKENS, "Tokens of full fine-tuning and of graft tuning.")
    gpu: str = _setting(DEFAULT, "A kind of GPU, or a CPU: --list names them.", positive=False)
    gpus: int | None = _setting(None, "Spread over so many.", otherwise="as few as hold it")
    mfu: float | None = _setting(None, "Part of the peak that is reached.", otherwise="of the kind")
    price: float | None = _setting(None, "US dollars an hour for one.", otherwise="of the kind", positive=False)
    tflops: float | None = _setting(None, "Peak of one, 10^12 FLOP/s.", otherwise="of the kind")
    memory_gb: float | None = _setting(None, "Memory of one.", otherwise="of the kind")
    sequence: int | None = _setting(
        None, "Tokens of a window.", "--context", otherwise="2048, or the model's most if that is less"
    )
    tune_sequence: int | None = _setting(
        None, "Tokens of a text of tuning and calibration.", "--tune-context", otherwise="256, or the same limit"
    )
    batch: int = _setting(1, "Sequences at once on one machine.", "--batch-size")  # as many tokens of shorter ones
    branches: int = _setting(BRANCHES, "Thought branches a layer.")
    rank: int = _setting(RANK, "Of a branch.")
    thoughts: int = _setting(8, "Thoughts decoded at once when the model is used.", "-n", "--n")
    checkpointing: bool | None = _setting(
        None,
        "Recompute activations.",
        "--checkpointing/--no-checkpointing",
        otherwise="if they do not fit",
        positive=False,
    )
    master: bool = _setting(
        True,
        "Float32 copies beside 16-bit weights.",
        "--master-weights/--no-master-weights",
        positive=False,
    )

    def check(self, context: int | None = None) -> None:
        """Refuse settings that make no sense, for a model of `context` tokens. Raises `InputError`."""
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.metadata["positive"] and value is not None and not 0 < value < float("inf"):
                raise InputError(f"{f.name.replace('_', ' ')} is {value}.", f"Pass more than 0 ({_flag(f)}).")
        if self.mfu is not None and self.mfu > 1:
            raise InputError(f"mfu is {self.mfu}.", "Pass a part of the peak, 0 to 1 (--mfu 0.4).")
        if self.price is not None and not 0 <= self.price < float("inf"):
            raise InputError(f"price is {self.price}.", "Pass US dollars an hour (--price 2.5).")
        for f in dataclasses.fields(self):
            value = getattr(self, f.name) if f.name in {"sequence", "tune_sequence"} else None
            if context is not None and value is not None and value > context:
                said = f"{f.name.replace('_', ' ')} is {value}, over the model's {context}."
                raise InputError(said, f"Pass {_flag(f)} {context}.")

    def machine(self) -> Machine:
        """The machine, with what was overridden. Raises `UnknownName`."""
        given = {"tflops": self.tflops, "memory": self.memory_gb, "utilisation": self.mfu, "price": self.price}
        changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(get_machine(self.gpu), **changed)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get different thoughts, and what it takes."""

    name: str
    trainable: int = 0  # parameters
    tokens: float = 0.0  # that it is trained on, or reads
    flops: float = 0.0  # of that, recomputing included
    teacher_flops: float = 0.0  # of writing the teacher's answers
    memory: Memory = field(default_factory=Memory)
    machines_needed: int | None = 1  # the fewest that hold it; None when no number does
    machines: int = 1  # those it is spread over
    gpu_hours: float = 0.0
    teacher_hours: float = 0.0
    hours: float = 0.0  # by the clock, on those machines
    money: float = 0.0  # US dollars
    checkpointing: bool = False  # whether activations are recomputed
    refused: str = ""  # why it cannot be done

    @property
    def fits(self) -> bool:
        """Whether the machines hold it."""
        return self.machines_needed is not None and self.machines_needed <= self.machines

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        memory = {**dataclasses.asdict(self.memory), "total": self.memory.total}
        return {**dataclasses.asdict(self), "memory": memory, "fits": self.fits}


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The answer: the model's size, the machine and its assumptions, and the five ways, the dearest first."""

    model: str
    size: Size
    graft: Graft
    graft_parameters: int
    request: CostRequest
    machine: Machine
    sequence: int
    tune_sequence: int
    ways: tuple[Way, ...]

    def way(self, name: str) -> Way:
        """One of: pretraining, full fine-tuning, graft tuning, calibration, no training."""
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
            "encoder_decoder": size.encoder_decoder,
            "machine": self.machine.to_dict(),
            "assumptions": {
                **dataclasses.asdict(self.request),
                "sequence": self.sequence,
                "tune_sequence": self.tune_sequence,
            },
            "ways": [way.to_dict() for way in self.ways],
        }

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2)


def estimate(
    model: Any = None, *, title: str = "", request: CostRequest | None = None, **settings: Any
) -> CostEstimate:
    """Price the five ways. No weights are read or made.

    Args:
        model: A name as `thoughtmix cost` takes (None for the default model), a transformers configuration, or a
            `Size`.
        title: What to call it; by default its own name.
        request: What is asked.
        settings: Fields of `CostRequest`, or of the `request` given.

    Raises:
        InputError: A setting makes no sense.
        ModelError: The model cannot be read or counted.
    """
    request = dataclasses.replace(request or CostRequest(), **settings)
    request.check()
    machine = request.machine()
    if isinstance(model, Size):
        size = model
    else:
        from thoughtmix.cost.measure import build_on_meta, find_config, measure

        named = model is None or isinstance(model, str)
        config, found = find_config(model) if named else (model, type(model).__name__)
        title = title or found
        size = measure(build_on_meta(config, title), title)
    request.check(size.context)
    sequence = request.sequence or min(size.context or 2048, 2048)
    tune_sequence = request.tune_sequence or min(sequence, TUNE_SEQUENCE)
    graft = Graft(request.branches, request.rank)
    pricer = _Pricer(size, graft, request, machine, sequence, tune_sequence)
    return CostEstimate(
        title, size, graft, graft.parameters(size), request, machine, sequence, tune_sequence, pricer.ways()
    )


class _Pricer:
    def __init__(
        self, size: Size, graft: Graft, request: CostRequest, machine: Machine, sequence: int, tune_sequence: int
    ) -> None:
        self.size, self.graft, self.request, self.machine = size, graft, request, machine
        self.sequence, self.tune_sequence = sequence, tune_sequence
        self.graft_parameters = graft.parameters(size)
        self.held = request.batch * sequence  # tokens at once on one machine

    def ways(self) -> tuple[Way, ...]:
        total, tune_tokens = self.size.total, self.request.tune_tokens
        tokens = self.request.tokens or float(PER_PARAMETER * self.size.active)
        return (
            self._trained("pretraining", tokens, total, 0, 3.0, self.sequence),
            self._trained("full fine-tuning", tune_tokens, total, 0, 3.0, self.tune_sequence),
            self._graft_tuning(),
            self._calibration(),
            self._no_training(),
        )

    def _graft_tuning(self) -> Way:
        name, length = "graft tuning", self.tune_sequence
        if not self.graft_parameters:
            return _without_graft(name)
        passes = self.graft.tuning(self.size, length) / self.size.forward(length)
        way = self._trained(name, self.request.tune_tokens, self.graft_parameters, self.size.total, passes, length)
        flops, hours = self._teacher(way.tokens)
        return dataclasses.replace(
            way,
            teacher_flops=flops,
            teacher_hours=hours,
            gpu_hours=way.gpu_hours + hours,
            hours=way.hours + hours / way.machines,
            money=way.money + hours * self.machine.price,
        )

    def _calibration(self) -> Way:
        name, tokens = "calibration", CALIBRATION_TOKENS
        if not self.graft_parameters:
            return _without_graft(name)
        memory = hardware.inference(self.size, self.machine, self.size.total + self.graft_parameters, self.held)
        return self._priced(Way(name, tokens=tokens, flops=tokens * self.size.forward(self.tune_sequence)), memory)

    def _no_training(self) -> Way:
        half = self.sequence / 2  # a prompt of half the sequence, answers of the other half
        memory = hardware.decoding(self.size, self.machine, self.size.total, half, half, self.request.thoughts)
        return self._priced(Way("no training"), memory)

    def _trained(self, name: str, tokens: float, trained: int, frozen: int, passes: float, length: int) -> Way:
        """passes: FLOPs a token in forward passes over sequences of `length`."""
        checkpointing, master = self.request.checkpointing, self.request.master
        args = (self.size, self.machine, trained, frozen, self.held)
        if checkpointing is None:
            kept = hardware.training(*args, master=master, checkpointing=False)
            checkpointing = kept.machines_needed(self.machine) is None
        flops = tokens * (passes + checkpointing) * self.size.forward(length)
        way = Way(name, trainable=trained, tokens=tokens, flops=flops, checkpointing=checkpointing)
        return self._priced(way, hardware.training(*args, master=master, checkpointing=checkpointing))

    def _priced(self, way: Way, memory: Memory) -> Way:
        needed = memory.machines_needed(self.machine)
        machines = self.request.gpus or needed or 1
        hours = way.flops / (self.machine.tflops * 1e12 * self.machine.utilisation) / 3600
        return dataclasses.replace(
            way,
            memory=memory,
            machines_needed=needed,
            machines=machines,
            gpu_hours=hours,
            hours=hours / machines,
            money=hours * self.machine.price,
        )

    def _teacher(self, tokens: float) -> tuple[float, float]:
        """(FLOPs, machine hours) of the model writing `tokens` of answers, many rows at once. A step takes as long as
        its products or as reading all weights (so many rows reach every expert) and the cache, whichever is longer."""
        context = self.tune_sequence / 2  # tokens before one, on average
        flops = self.size.forward(context)
        moved = self.machine.bytes * (self.size.total + TEACHER_ROWS * self.size.cache(context))
        step = max(TEACHER_ROWS * flops / (self.machine.tflops * 1e12), moved / (self.machine.bandwidth * 1e9))
        steps = tokens / TEACHER_ROWS
        return tokens * flops, steps * step / (self.machine.utilisation * DECODING) / 3600


def _without_graft(name: str) -> Way:
    return Way(name, machines_needed=None, refused="no feed-forward block to put branches beside")
