"""The handle on a model's routing: what is forced, biased, disturbed or excluded, for all rows or for each."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import InputError
from thoughtmix.engine.rng import ROUTE, generator
from thoughtmix.experts.families import layers_to_hook
from thoughtmix.experts.hooks import attach, detach, refresh
from thoughtmix.experts.layer_control import LayerControl, layer_control
from thoughtmix.experts.profile import ROUTER, Profile


class _Followed(threading.local):
    """Which control row each batch row follows, in this thread: nothing said (None), said to be none (off), or rows."""

    rows: Tensor | None = None
    off: bool = False


class ExpertController:
    """Steers the routing of a mixture-of-experts model while it is attached.

        with ExpertController(model) as controller:
            controller.force([0, 3], weights=[0.7, 0.3])     # everywhere
            controller.set([Profile(...), Profile(...)])     # or: row 0 by one profile, row 1 by another
            controller.perturb(1.0, seeds=[4, 5])            # seeded noise on the router's logits, held per row
            model.generate(...)

    Leaving takes everything off: the model is bit for bit as it was. Several controllers add up: biases and noise are
    summed, exclusions united, and the last attached wins where two force. Run backward before leaving.

    Args:
        model: A model of transformers with mixture-of-experts layers. Set and attach before torch.compile.
        layers: Numbers of the layers to steer (see `find_moe_layers`); None for all.
        rows: How many rows are steered apart; 1 is for any batch, all alike. A forward must then have so many rows, or
            a multiple, of which neighbours share one (what `generate` makes of num_return_sequences), unless `using`
            says otherwise.
        scoped: Steer only forwards inside `using`, of the thread that entered it, so that others may use the model.

    Raises:
        InputError: The model has no mixture-of-experts layers.
        ModelError: A layer cannot be controlled; the message names it.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[int] | None = None, *, rows: int = 1, scoped: bool = False
    ) -> None:
        if rows < 1:
            raise InputError(f"rows is {rows}.", "Pass 1 or more.")
        self._every, self.layers = layers_to_hook(model, layers)
        self._scoped, self._attached = scoped, False
        self._followed = _Followed()
        self._neighbours: dict[tuple[int, torch.device], Tensor] = {}
        self._set((ROUTER,) * rows, None, 0)

    # --- attached or not ---

    def attach(self) -> Self:
        """Start steering; what `with` does on entry."""
        if not self._attached:
            for layer in self.layers:
                attach(layer, controllers=[self])
            self._attached = True
        return self

    def detach(self) -> None:
        """Stop steering; what `with` does on exit. What was set is kept for the next time."""
        for layer in self.layers:
            detach(layer, self)
        self._attached = False

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    def force_expert_selection(
        self,
        experts: Sequence[int] | int,
        weights: Sequence[float] | str = "router",
        layers: Sequence[int] | None = None,
    ) -> Self:
        """`force` for all rows, attached at once; `clear_hooks` ends it.

        `force_expert_selection(layer, ids)`, with a layer's number first, is taken as the original prototype means it:
        these experts in that layer, and in others what was set there.
        """
        if isinstance(experts, int):
            if isinstance(weights, str) or layers is not None:
                raise InputError(f"Layer {experts} was given without experts.", "Pass (layer, [expert, ...]).")
            return self.force([int(i) for i in weights], layers=[experts]).attach()
        return self.force(experts, weights, layers).attach()

    def clear_hooks(self) -> None:
        """Forget everything that was set, and detach."""
        self.reset()
        self.detach()

    # --- what is set ---

    @property
    def rows(self) -> int:
        """How many control rows there are; 1 holds for any batch."""
        return len(self._profiles)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        return self._profiles

    def reset(self) -> Self:
        """The model's own routing again, still attached."""
        return self._set((ROUTER,) * self.rows, None, 0)

    def set(self, profiles: Profile | Sequence[Profile]) -> Self:
        """Replace all that was set by these profiles: one for all rows, or one a row."""
        many = (profiles,) if isinstance(profiles, Profile) else tuple(profiles)
        if not many:
            raise InputError("No profile was given.", "Pass at least one (Profile() is the model's own routing).")
        return self._set(many, None, 0)

    def force(
        self,
        experts: Sequence[int],
        weights: Sequence[float] | str = "router",
        layers: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Self:
        """Let these experts run in place of the router's choice, any number of them.

        Args:
            experts: Their numbers.
            weights: One for each expert, taken as they are (on Llama 4 they scale the expert's input, as its router
                does); or "router", by the router's scores among them, or "equal", both of which sum to what the router
                gave its own choice for the token.
            layers: Numbers of the layers; None for every one that the controller has.
            rows: Numbers of the control rows; None for all.
        """
        given: Any = list(experts)
        if not isinstance(weights, str):
            if len(list(weights)) != len(given):
                raise InputError(f"{len(list(weights))} weights for {len(given)} experts.", "Pass one an expert.")
            if len(set(given)) != len(given):
                raise InputError("An expert is named twice.", "Name each once.")
            given = dict(zip(given, map(float, weights), strict=True))
        more = dict.fromkeys(self._numbers(layers), given)
        kind = weights if isinstance(weights, str) else "router"
        return self._change(rows, lambda p: dataclasses.replace(p, force={**p.force, **more}, weights=kind))

    def bias(
        self, bias: Mapping[int, float], layers: Sequence[int] | None = None, rows: Sequence[int] | None = None
    ) -> Self:
        """Add nats to the router's logits of these experts; the family's own rule then chooses and weighs."""
        more = {number: dict(bias) for number in self._numbers(layers)}
        return self._change(rows, lambda p: dataclasses.replace(p, bias={**p.bias, **more}))

    def exclude(
        self, experts: Sequence[int], layers: Sequence[int] | None = None, rows: Sequence[int] | None = None
    ) -> Self:
        """Keep these experts from running (or, where groups leave no other, give them weight 0)."""
        more = {number: list(experts) for number in self._numbers(layers)}
        return self._change(rows, lambda p: dataclasses.replace(p, exclude={**p.exclude, **more}))

    def perturb(self, creativity: float | Sequence[float], seeds: int | Sequence[int] = 0, head: int = 0) -> Self:
        """Add creativity x standard Gumbel noise to the router's logits, drawn for each (seed, layer, expert) and held
        for all tokens. At 1 a softmax router so samples its experts (Gumbel-top-k, Kool et al. 2019).

        Args:
            creativity: The strength; one for all rows, or one for each seed.
            seeds: One for all rows, or one for each row; a row's noise is its seed's alone.
            head: The `head` most likely experts stay, and the others are shuffled below them ("keep the certain head,
                randomise the tail").
        """
        ids = [seeds] if isinstance(seeds, int) else list(seeds)
        if not ids:
            raise InputError("No seed was given.", "Pass seeds=0, or one a row.")
        strengths = [float(creativity)] * len(ids) if isinstance(creativity, (int, float)) else list(creativity)
        if len(strengths) != len(ids):
            raise InputError(
                f"creativity has {len(strengths)} values for {len(ids)} seeds.", "Pass one, or one a seed."
            )
        if any(not 0 <= c < float("inf") for c in strengths):
            raise InputError(f"creativity is {creativity}.", "Pass 0 (no noise) or more.")
        noise = self._noise(strengths, ids)
        if len(noise) == 1 or self.rows == 1:
            n = max(len(noise), self.rows)
            return self._set(self._profiles * (n // self.rows), noise.expand(n, -1, -1), head)
        if len(noise) != self.rows:
            raise InputError(f"{len(noise)} seeds for {self.rows} rows.", "Pass one, or one a row.")
        return self._set(self._profiles, noise, head)

    # --- which rows ---

    @contextmanager
    def using(self, rows: Sequence[int] | Tensor | None) -> Iterator[None]:
        """Inside, in this thread: batch row i follows control row rows[i]; None: nothing is steered."""
        given = None if rows is None else torch.as_tensor(rows, dtype=torch.long)
        if given is not None and (given.ndim != 1 or bool(((given < 0) | (given >= self.rows)).any())):
            raise InputError(f"rows must be numbers from 0 to {self.rows - 1}.", "Pass one a batch row.")
        followed = self._followed
        before = followed.rows, followed.off
        followed.rows, followed.off = given, given is None
        try:
            yield
        finally:
            followed.rows, followed.off = before

    def steers(self, layer: int) -> bool:
        """For the hooks: whether anything is set at a layer."""
        return layer in self._controls

    def control(self, layer: int, batch: int) -> tuple[LayerControl, Tensor | None] | None:
        """For the hooks: see `hooks.Controller`."""
        control = self._controls.get(layer)
        if control is None:
            return None
        rows = self._followed.rows
        if self._followed.off or (rows is None and self._scoped):
            return None
        if rows is not None:
            if len(rows) != batch:
                raise InputError(f"using() named {len(rows)} rows; the batch has {batch}.", "Name one a row.")
            return control, rows.to(control.layer.device)
        if self.rows == 1:
            return control, None
        if batch % self.rows:
            raise InputError(
                f"{self.rows} profiles were set for a batch of {batch} rows.",
                f"Pass {batch} profiles, or one for all, or say which rows follow which: using([...]).",
            )
        where = (batch, control.layer.device)
        if where not in self._neighbours:
            self._neighbours[where] = torch.arange(self.rows, device=where[1]).repeat_interleave(batch // self.rows)
        return control, self._neighbours[where]

    # --- helpers ---

    def _set(self, profiles: tuple[Profile, ...], noise: Tensor | None, head: int) -> Self:
        """Check and compile; on an error all stays as it was."""
        known = {x.number for x in self.layers}
        for p in profiles:
            lost = sorted({*p.force, *p.bias, *p.exclude} - known)
            if lost:
                raise InputError(
                    f"Profile {p.name!r} names layer {lost[0]}, which is not steered here.",
                    f"Known: {', '.join(map(str, sorted(known)))}.",
                )
        controls = {}
        for layer in self.layers:
            mine = None if noise is None else noise[:, layer.number, : layer.num_experts]
            made = layer_control(layer, profiles, mine, head)
            if made is not None:
                controls[layer.number] = made
        self._profiles, self._noises, self._head, self._controls = profiles, noise, head, controls
        self._neighbours.clear()
        for layer in self.layers if self._attached else ():
            refresh(layer)
        return self

    def _change(self, rows: Sequence[int] | None, change: Any) -> Self:
        chosen = set(range(self.rows)) if rows is None else set(rows)
        lost = [r for r in chosen if not 0 <= r < self.rows]
        if lost:
            raise InputError(f"There is no row {lost[0]} of {self.rows}.", "Type ExpertController(model, rows=...).")
        new = tuple(change(p) if i in chosen else p for i, p in enumerate(self._profiles))
        return self._set(new, self._noises, self._head)

    def _numbers(self, layers: Sequence[int] | None) -> list[int]:
        return [x.number for x in self.layers] if layers is None else list(layers)

    def _noise(self, creativity: Sequence[float], seeds: Sequence[int]) -> Tensor:
        """(n, L, e) float32. All layers are drawn, steered or not: a layer's noise does not depend on the others."""
        shape = (len(self._every), max(x.num_experts for x in self._every))
        draws = [
            c * torch.from_numpy(generator(s, ROUTE).gumbel(size=shape)) for c, s in zip(creativity, seeds, strict=True)
        ]
        return torch.stack(draws).float()
