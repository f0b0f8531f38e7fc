"""The hooks on one mixture-of-experts layer: where controllers change the routing, and observers read it.

However many are attached, a layer has one set of hooks; controllers are applied in the order in which they came, so
that biases add up and the last one to force wins, and observers see what came of it. The hooks run before those that
others may have (transformers' own recorders are attached late) and are taken off with the last controller or observer.
While nothing is set there are none, so that an idle controller costs nothing. Those on the block also notice when the
inner ones should have run and did not.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import ModelError
from thoughtmix.experts.families import MoELayer
from thoughtmix.experts.layer_control import OWN, EditLogits, LayerControl, run_masked

_REPORT = "Choose another family, or report this model class to thoughtmix."


class Controller(Protocol):
    """What the hooks ask a controller."""

    def steers(self, layer: int) -> bool:
        """Whether anything is set at a layer."""
        ...

    def control(self, layer: int, batch: int) -> tuple[LayerControl, Tensor | None] | None:
        """The change at a layer for a forward of `batch` rows, and the control row of each (None: one for all)."""
        ...


@dataclass(slots=True)
class RoutingRecord:
    """What an observer is shown of one forward of one layer. T = b t tokens, one batch row after the other."""

    layer: MoELayer
    batch: int
    length: int
    logits: Tensor  # (T, e) float32
    index: Tensor  # (T, k)
    weight: Tensor  # (T, k)
    outputs: Tensor | None  # (T, k, d) of the experts that ran, or (T, e, d) of all; before weighing


class Observer(Protocol):
    """What the hooks ask an observer."""

    outputs: str  # "", "selected" or "all"

    def record(self, seen: RoutingRecord) -> None: ...


def attach(layer: MoELayer, *, controllers: Sequence[Controller] = (), observers: Sequence[Observer] = ()) -> None:
    """Put controllers or observers on a layer."""
    with _LOCK:
        hooks = _HOOKED.setdefault(layer.router, LayerHooks(layer))
        # New lists: forwards in other threads may walk the old ones.
        hooks.controllers = [*hooks.controllers, *controllers]
        hooks.observers = [*hooks.observers, *observers]
        hooks.refresh()


def refresh(layer: MoELayer) -> None:
    """A controller on this layer steers otherwise than before."""
    with _LOCK:
        if layer.router in _HOOKED:
            _HOOKED[layer.router].refresh()


def detach(layer: MoELayer, who: Controller | Observer) -> None:
    """Take a controller or observer off a layer; with the last one go the hooks."""
    with _LOCK:
        hooks = _HOOKED.get(layer.router)
        if hooks is None:
            return
        hooks.controllers = [x for x in hooks.controllers if x is not who]
        hooks.observers = [x for x in hooks.observers if x is not who]
        hooks.refresh()
        if not hooks.controllers and not hooks.observers:
            del _HOOKED[layer.router]


@dataclass(slots=True)
class _ForwardCall:
    """One forward of the block, in one thread."""

    batch: int
    length: int
    controls: list[LayerControl]  # by token, in the order in which they apply
    observers: list[Observer]
    wanted: str  # the most that an observer wants of the outputs
    mode: EditLogits | None = None
    logits: Tensor | None = None
    index: Tensor | None = None
    weight: Tensor | None = None
    hidden: Tensor | None = None
    routed: bool = False


@dataclass(eq=False)
class LayerHooks:
    """The hooks of one layer, and who is on it."""

    layer: MoELayer
    controllers: list[Controller] = field(default_factory=list)
    observers: list[Observer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._local = threading.local()
        self._hooks: list[Any] = []
        self._theirs: Any = None  # the forward that somebody else put on the block itself
        self._marker: Any = None

    def refresh(self) -> None:
        """Have hooks when they are needed, and only then."""
        needed = bool(self.observers) or any(c.steers(self.layer.number) for c in self.controllers)
        if needed == bool(self._hooks):
            return
        if not needed:
            self._remove()
            return
        block, router, experts = self.layer.block, self.layer.router, self.layer.experts
        self._hooks = [
            block.register_forward_pre_hook(_eager(self._begin), prepend=True, with_kwargs=True),
            block.register_forward_hook(_eager(self._end), prepend=True, always_call=True),
            router.register_forward_pre_hook(_eager(self._before_router), prepend=True),
            router.register_forward_hook(_eager(self._after_router), prepend=True, always_call=True),
            experts.register_forward_hook(_eager(self._after_experts), prepend=True),
        ]
        if self.layer.family.format in {"index", "onehot"}:
            self._hooks.append(experts.register_forward_pre_hook(_eager(self._before_experts), prepend=True))
        self._mark()

    def _remove(self) -> None:
        for handle in self._hooks:
            handle.remove()
        self._hooks = []
        if self._marker is not None and vars(self.layer.block).get("forward") is self._marker:
            del self.layer.block.forward
            if self._theirs is not None:
                self.layer.block.forward = self._theirs
        self._marker = self._theirs = None

    def _mark(self) -> None:
        """Make code that was compiled without the hooks compile again: torch.compile looks at a module's hooks once,
        and each time at whether it has a forward of its own. It gets the one that it has anyway."""
        block = self.layer.block
        self._theirs = vars(block).get("forward")
        self._marker = block.forward if self._theirs is None else functools.partial(self._theirs)
        block.forward = self._marker

    # --- the hooks, in the order in which they run ---

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._local.current = None
        number = self.layer.number
        if not self.observers and not any(c.steers(number) for c in self.controllers):  # compiled code kept this hook
            return
        hidden = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.is_floating_point()), None)
        if hidden is None or hidden.ndim not in {2, 3}:
            raise ModelError(f"{self.layer.name} is not given hidden states (batch, tokens, width).", _REPORT)
        batch, length = (1, len(hidden)) if hidden.ndim == 2 else hidden.shape[:2]
        active = [c for x in self.controllers if (c := x.control(number, batch)) is not None]
        if hidden.ndim == 2 and any(rows is not None for _, rows in active):
            raise ModelError(f"{self.layer.name} is given tokens without their rows.", "Use one profile for all.")
        controls = [control.by_token(rows, length) for control, rows in active]
        observers = list(self.observers)  # who comes or goes while this runs has no part in it
        if controls or observers:
            wants = {x.outputs for x in observers}
            wanted = "all" if "all" in wants else "selected" if "selected" in wants else ""
            self._local.current = _ForwardCall(batch, length, controls, observers, wanted)

    def _before_router(self, _: nn.Module, args: Any) -> None:
        call = self._current
        if call is not None and any(c.edits_logits for c in call.controls):
            call.mode = EditLogits(self.layer, call.controls)
            call.mode.__enter__()

    def _after_router(self, _: nn.Module, args: Any, out: Any) -> Any:
        call = self._current
        if call is None:
            return None
        mode, call.mode = call.mode, None
        if mode is not None:
            mode.__exit__(None, None, None)
        if out is None:  # the router raised
            return None
        if mode is not None:
            mode.check()
        if call.observers or any(c.forced is not None and not c.forced.plain for c in call.controls):
            call.logits = self.layer.logits(out)
        if self.layer.family.format != "input_scale":
            return None
        scores = out[0]  # (T, e): what each expert's input is multiplied by, 0 for the others
        weight, index = scores.topk(self.layer.top_k, -1)
        index, weight = self._reroute(call, index, weight)
        call.routed = True
        return (torch.zeros_like(scores).scatter_add(1, index, weight), *out[1:])

    def _before_experts(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        call = self._current
        if call is None:
            return None
        hidden, index, weight = self._arguments(args)
        if self.layer.family.format == "onehot":
            chosen = index  # (T, k, e), all 0 where the expert was full
            weight = weight * chosen.sum(-1)
            index = chosen.argmax(-1)
        if len(index) != call.batch * call.length:
            raise ModelError(f"{self.layer.name} routes {len(index)} tokens of {call.batch} x {call.length}.", _REPORT)
        index, weight = self._reroute(call, index, weight)
        call.routed, call.hidden = True, hidden
        if not call.wanted:
            return (hidden, self._as_argument(index), weight, *args[3:])
        # Each (token, expert) pair as a token of its own at weight 1: the experts' own outputs come out, once.
        which = index if call.wanted == "selected" else _all_experts(index, self.layer.num_experts)
        flat = hidden.reshape(-1, hidden.shape[-1]).repeat_interleave(which.shape[1], 0)
        ones = weight.new_ones(len(flat), 1)
        return (flat, self._as_argument(which.reshape(-1, 1)), ones, *args[3:])

    def _after_experts(self, experts: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
        call = self._current
        if call is None or out is None:
            return None
        form = self.layer.family.format
        if form == "mask":
            return self._masked(call, experts, args, out)
        assert call.index is not None and call.weight is not None
        outputs: Tensor | None = None
        result: Tensor | None = None
        tokens = len(call.index)
        if form == "input_scale":
            if call.wanted:
                outputs = out.view(self.layer.num_experts, tokens, -1).transpose(0, 1)  # (T, e, d)
                if call.wanted == "selected":
                    outputs = _take(outputs, call.index)
        elif call.wanted:
            assert call.hidden is not None
            outputs = out.reshape(tokens, -1, out.shape[-1])
            mine = outputs if call.wanted == "selected" else _take(outputs, call.index)
            result = (mine * call.weight[..., None]).sum(1).to(call.hidden.dtype).reshape(call.hidden.shape)
        self._show(call, outputs)
        return result

    def _end(self, _: nn.Module, args: Any, out: Any) -> None:
        call, self._local.current = self._current, None
        if call is not None and out is not None and not call.routed:
            raise ModelError(
                f"{self.layer.name} ran past its controlled router: a kernel bypasses it, or it was compiled before.",
                "Load with use_kernels=False and without MXFP4; set what you want before torch.compile.",
            )

    # --- helpers ---

    @property
    def _current(self) -> _ForwardCall | None:
        return getattr(self._local, "current", None)

    def _reroute(self, call: _ForwardCall, index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        def scores() -> Tensor:
            if call.logits is None:
                raise ModelError(f"{self.layer.name} calls its experts before its router.", _REPORT)
            return self.layer.probabilities(call.logits)

        for control in call.controls:
            index, weight = control.reroute(index, weight, scores)
        call.index, call.weight = index, weight
        return index, weight

    def _arguments(self, args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
        dims = 3 if self.layer.family.format == "onehot" else 2
        if len(args) >= 3 and all(isinstance(a, Tensor) for a in args[:3]):
            hidden, index, weight = args[:3]
            if index.ndim == dims and not index.is_floating_point() and weight.shape == index.shape[:2]:
                return hidden, index, weight
        raise ModelError(f"{self.layer.name} does not call its experts with (hidden, index, weight).", _REPORT)

    def _as_argument(self, index: Tensor) -> Tensor:
        if self.layer.family.format != "onehot":
            return index
        return torch.nn.functional.one_hot(index, self.layer.num_experts)

    def _masked(self, call: _ForwardCall, experts: Any, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
        """NLLB-MoE: its experts read the mask wrongly (see families.py), so what is forced is computed here."""
        hidden, _, probs = args[:3]
        weight, index = probs.topk(self.layer.top_k, -1)
        index, weight = self._reroute(call, index, weight)
        call.routed = True
        if call.wanted:
            raise ModelError(
                f"Outputs of {self.layer.name} mean nothing: {self.layer.family.unheard}.", "Read routing only."
            )
        self._show(call, None)
        forced = [c.forced.mode != OWN for c in call.controls if c.forced is not None]  # (T or 1, 1) each
        if not forced:
            return None
        result = run_masked(experts, hidden, index, weight)
        return torch.where(functools.reduce(torch.logical_or, forced), result, out)

    def _show(self, call: _ForwardCall, outputs: Tensor | None) -> None:
        if not call.observers:
            return
        assert call.logits is not None and call.index is not None and call.weight is not None
        for observer in call.observers:
            shown = outputs if observer.outputs else None
            if observer.outputs == "selected" and call.wanted == "all" and shown is not None:
                shown = _take(shown, call.index)
            record = RoutingRecord(self.layer, call.batch, call.length, call.logits, call.index, call.weight, shown)
            observer.record(record)


_HOOKED: dict[nn.Module, LayerHooks] = {}  # by router, of every layer that somebody is on
_LOCK = threading.Lock()


def _eager(hook: Callable[..., Any]) -> Any:
    """A hook that compiled code calls as it is: what it does depends on who is attached at the time."""
    return torch.compiler.disable(hook)


def _all_experts(index: Tensor, experts: int) -> Tensor:
    return torch.arange(experts, device=index.device).expand(len(index), experts)


def _take(outputs: Tensor, index: Tensor) -> Tensor:
    """(T, e, d) and (T, k) -> (T, k, d)."""
    return outputs.gather(1, index[..., None].expand(-1, -1, outputs.shape[-1]))
