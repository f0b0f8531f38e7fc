"""Which of a thinker's own options a request may use, and how far: nobody names the server's files or models from
outside, and no option multiplies what a request may cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thoughtmix.core.errors import UnknownName
from thoughtmix.core.thinker import Thinker
from thoughtmix.serve.errors import Refused
from thoughtmix.serve.limits import Limits

_OURS = frozenset({("noise", "file"), ("hybrid", "file"), ("hybrid", "judge"), ("hybrid", "mask_model")})
"""(thinker, option) that name a file or a model."""
_MAY_NAME_A_FILE = frozenset({("experts", "profiles")})
_ROWS = frozenset({("hybrid", "drafts"), ("search", "width"), ("search", "batch"), ("diffusion", "branches")})
_TOKENS = frozenset({("search", "tokens"), ("diffusion", "steps")})


def offered(kind: Thinker) -> dict[str, str]:
    """The options that requests may use, with their help."""
    return {name: told for name, told in kind.options.items() if (kind.name, name) not in _OURS}


def check_options(kind: Thinker, options: Mapping[str, Any], limits: Limits) -> None:
    """Raises `UnknownName`, or `Refused` (400)."""
    for name, value in options.items():
        if name not in kind.options:
            raise UnknownName(f"option of thinker {kind.name!r}:", name[:80], offered(kind))
        at = (kind.name, name)
        if at in _OURS or (at in _MAY_NAME_A_FILE and ".json" in str(value)):
            raise Refused(400, f"{name} names a file or a model: the server's are not for requests.", param="options")
        most = limits.thoughts if at in _ROWS else limits.tokens if at in _TOKENS else None
        if most is not None and _number(value) > most:
            raise Refused(400, f"{name} is {str(value)[:40]}, this server takes up to {most}.", param="options")


def _number(value: Any) -> float:
    """What the thinker will read, or 0: it says itself what is wrong with anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
