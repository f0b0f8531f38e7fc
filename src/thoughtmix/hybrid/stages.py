"""A pipeline as text, "sampling>select>noise", read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.noise.options import whole

DEFAULT = "sampling>select>noise"
DRAFTS = 8
REFINERS = ("noise", "renoise")
BY: Mapping[str, frozenset[str]] = {
    "likelihood": frozenset({"generator"}),
    "relevance": frozenset({"embedder"}),
    "difference": frozenset({"embedder"}),
    "both": frozenset({"generator", "embedder"}),
}
"""How drafts are selected -> the scorers that this uses, and that must therefore not report."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """generator: a thinker; after it select, noise and renoise in any order. drafts: texts that every stage but the
    last makes; keep: how many a selection leaves. draft: the first draft's seed. by: what a selection goes by."""

    generator: str
    after: tuple[str, ...]
    drafts: int = DRAFTS
    keep: int = DRAFTS // 2
    draft: int = 0
    by: str = "likelihood"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Pipeline:
        """From the thinker's options. Raises `InputError`, `UnknownName`."""
        from thoughtmix.core.registry import thinker_names

        text = options.get("stages", DEFAULT)
        names = [part.strip() for part in text.split(">")] if isinstance(text, str) else []
        generators = [name for name in thinker_names() if name != "hybrid"]
        if not names or not names[0]:
            raise InputError(f"stages is {text!r}.", f'Pass stages="{DEFAULT}".')
        if names[0] not in generators:
            raise UnknownName("first stage", names[0], generators)
        for name in names[1:]:
            if name not in {"select", *REFINERS}:
                raise UnknownName("later stage", name, ("select", *REFINERS))
        drafts = whole(options, "drafts", DRAFTS, 1) or DRAFTS
        keep = whole(options, "keep", max(1, drafts // 2), 1) or 1
        if keep > drafts:
            raise InputError(f"keep is {keep} of {drafts} drafts.", f"Pass keep=1 to {drafts}, or more drafts.")
        by = str(options.get("by", "likelihood"))
        if by not in BY:
            raise UnknownName("way to select", by, BY)
        return cls(names[0], tuple(names[1:]), drafts, keep, whole(options, "draft", 0) or 0, by)

    @property
    def selects(self) -> bool:
        return "select" in self.after

    @property
    def used(self) -> frozenset[str]:
        """Scorers that select, and do not report."""
        return BY[self.by] if self.selects else frozenset()

    def rows(self, n: int) -> int:
        """Texts that are generated in all for n thoughts: with equal budgets, what each may be long."""
        own = self.generator == "noise"  # which drafts once more
        if not self.after:
            return n + own
        made = own + self.drafts + sum(self.drafts for name in self.after[:-1] if name in REFINERS)
        return made + (n if self.after[-1] in REFINERS else 0)
