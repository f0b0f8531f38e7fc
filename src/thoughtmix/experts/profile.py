"""A profile: what is changed in the routing of one thought. No torch here: reading a saved one needs none."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text, parse_json, write_whole

SCHEMA = "thoughtmix/experts-profiles"
Weights = Literal["router", "equal"]
_HINT = "Write profiles with: thoughtmix experts map MODEL --profiles FILE"


@dataclass(frozen=True, slots=True)
class Profile:
    """Changes by layer (numbered as `find_moe_layers` does), then by expert.

    Args:
        name: What to call it.
        force: The experts that run, instead of the router's choice: {layer: {expert: weight}} with weights as they
            are, or {layer: [experts]} weighed as `weights` says.
        bias: Nats added to an expert's router logit: {layer: {expert: nats}}.
        exclude: Experts that do not run: {layer: [experts]}.
        weights: "router", by the router's own scores among the forced experts, or "equal"; either way they sum to what
            the router gave its own choice for that token.
    """

    name: str = ""
    force: Mapping[int, Mapping[int, float] | Sequence[int]] = field(default_factory=dict)
    bias: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    exclude: Mapping[int, Sequence[int]] = field(default_factory=dict)
    weights: Weights = "router"

    def __post_init__(self) -> None:
        if self.weights not in {"router", "equal"}:
            raise InputError(f"weights is {self.weights!r}.", "Pass 'router', 'equal', or a weight for each expert.")
        given = [
            w for part in (self.force, self.bias) for x in part.values() if isinstance(x, Mapping) for w in x.values()
        ]
        if any(not isinstance(w, (int, float)) or not math.isfinite(w) for w in given):
            raise InputError(f"Profile {self.name!r} has a weight or bias that is no finite number.", "Pass numbers.")
        if any(len(x) == 0 for x in self.force.values()):
            raise InputError(f"Profile {self.name!r} forces no expert at some layer.", "Leave the layer out.")

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return bool(self.force or self.bias or self.exclude)

    def scaled(self, strength: float) -> Profile:
        """The same with its biases times `strength`."""
        bias = {layer: {e: b * strength for e, b in x.items()} for layer, x in self.bias.items()}
        return Profile(self.name, self.force, bias, self.exclude, self.weights)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the numbers of layers and experts become text there."""
        out: dict[str, Any] = {"name": self.name}
        for name in ("force", "bias", "exclude"):
            part: Mapping[int, Any] = getattr(self, name)
            if part:
                out[name] = {
                    str(layer): {str(e): w for e, w in x.items()} if isinstance(x, Mapping) else list(x)
                    for layer, x in part.items()
                }
        if self.force:
            out["weights"] = self.weights
        return out

    @classmethod
    def from_dict(cls, body: Any) -> Profile:
        """The inverse of `to_dict`. Raises `InputError`."""
        if not isinstance(body, Mapping) or not isinstance(body.get("name"), str):
            raise InputError("A profile is an object with a name.", _HINT)
        unknown = set(body) - {"name", "force", "bias", "exclude", "weights"}
        if unknown:
            raise InputError(f"Profile {body['name']!r} has an unknown part {min(unknown)!r}.", _HINT)
        try:
            parts = {
                name: {
                    int(layer): {int(e): float(w) for e, w in x.items()}
                    if isinstance(x, Mapping)
                    else [int(e) for e in x]
                    for layer, x in dict(body.get(name, {})).items()
                }
                for name in ("force", "bias", "exclude")
            }
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"Profile {body['name']!r} cannot be read: {error}.", _HINT) from None
        return cls(body["name"], weights=body.get("weights", "router"), **parts)  # type: ignore[arg-type]


ROUTER = Profile("router")
"""The model's own routing."""


def all_experts(counts: Sequence[int], name: str = "all") -> Profile:
    """Every expert of every layer runs, weighed by the router's scores. counts: experts a layer."""
    return Profile(name, force={layer: list(range(e)) for layer, e in enumerate(counts)})


def save_profiles(path: str | os.PathLike[str], profiles: Sequence[Profile], about: Mapping[str, Any]) -> None:
    """Write profiles whole, or not at all. about: where they come from (model, prompts, test)."""
    body = {"schema": SCHEMA, "version": 1, "about": dict(about), "profiles": [p.to_dict() for p in profiles]}
    write_whole(path, json.dumps(body, indent=1) + "\n")


def load_profiles(path: str | os.PathLike[str]) -> list[Profile]:
    """Read what `save_profiles` wrote. Raises `InputError`."""
    try:
        body = parse_json(bounded_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read profiles from {path}: {error}.", _HINT) from None
    if not isinstance(body, Mapping) or body.get("schema") != SCHEMA or body.get("version") != 1:
        raise InputError(f"{path} holds no profiles of version 1.", _HINT)
    return [Profile.from_dict(p) for p in body.get("profiles", [])]
