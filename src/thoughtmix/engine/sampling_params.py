"""How one sequence draws its tokens. No torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from thoughtmix.core.errors import InputError

_MOST = sys.float_info.max


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one row draws its tokens.

    temperature: 0 is greedy (the truncations are then idle).
    top_k: keep the k likeliest (Fan et al. 2018); 0 is off.
    top_p: keep the smallest set with at least this mass (Holtzman et al. 2020); 1 is off.
    min_p: keep tokens with at least this share of the likeliest one's probability (Nguyen et al. 2024); 0 is off.
    top_nsigma: keep logits within n standard deviations of the largest (Tang et al. 2024); 0 is off.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    top_nsigma: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high, hint in (
            ("temperature", 0.0, _MOST, "Pass 0 (greedy) or more (--temperature 0.8)."),
            ("top_k", 0, _MOST, "Pass 0 (off) or a count (--top-k 50)."),
            ("top_p", 0.0, 1.0, "Pass a share above 0 and up to 1, which is off (--top-p 0.9)."),
            ("min_p", 0.0, 1.0, "Pass a share from 0, which is off, to 1 (--min-p 0.1)."),
            ("top_nsigma", 0.0, _MOST, "Pass 0 (off) or more (--top-nsigma 1)."),
        ):
            value = getattr(self, name)
            whole = isinstance(value, int) or name != "top_k"
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and whole
            if not number or not low <= value <= high or (name == "top_p" and value == 0):
                raise InputError(f"{name} is {value!r}.", hint)
