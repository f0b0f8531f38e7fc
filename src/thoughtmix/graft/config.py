"""What can be chosen about a graft, and the versions of its saved form."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.config import PeftConfig

from thoughtmix.core.errors import InputError

FORMAT_VERSION = 1  # of adapter_config.json and of the tensors' names; raise it and extend `migrated` when one changes
ROUTES = ("model", "layer")
ROUTERS = ("prior", "prompt")
DRAWS = ("stratified", "independent")
NOISES = ("held", "fresh", "none")
COMBINERS = ("router", "attention")


class MoTPeftType(str, enum.Enum):  # noqa: UP042  a StrEnum prints otherwise, and PEFT takes its types apart as text
    MOT = "MOT"


@dataclass
class MoTConfig(PeftConfig):
    """A graft: beside the last linear map of each feed-forward block (or beside a whole block), K low-rank branches.

    y = W h + c * sum_k w_k B_k (A_k h + sigma eps_k), with creativity c (0: the model as it was), the weights w of the
    thought's route, and noise eps of the thought's own. B is 0 at first. The fields of `PeftConfig`, and:

    Args:
        target_modules: Last linear maps of feed-forward blocks, or whole blocks (mixtures of experts): names, endings
            of names, or one regular expression. None: found by structure.
        exclude_modules: What to leave out.
        layers: Numbers of the blocks to graft, where they are found by structure; None: all.
        modules_to_save: Other modules to train and save whole.
        num_branches: K.
        r: Rank of a branch.
        branches_min: Fewest branches that a thought goes through; the number is drawn per thought.
        branches_max: Most of them.
        route: model (one for the whole model and thought) or layer (each layer draws its own).
        router: prior (learned odds) or prompt (they depend on the prompt, too).
        draw: stratified (the first branches of neighbouring seeds are spread evenly over the odds) or independent.
        noise: held (one draw per thought, layer and branch), fresh (one per token too) or none.
        noise_scale: Its standard deviation at first, in the units of A_k h; learned within 0.5 to 1.5 of it.
        combiner: router (branches weigh what the route says) or attention (each token shifts that).
        tail: Tokens at the end of a prompt that each thought reads itself where the rest is read once for all (the turn
            of a chat template, say), so that branches have a say in the first token, too.
        creativity_default: Of a forward for which none is named.
        init_seed: Of the random A.
        format_version: Of the saved form.

    Raises:
        InputError: A value does not fit.
    """

    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    layers: list[int] | None = None
    modules_to_save: list[str] | None = None
    num_branches: int = 8
    r: int = 8
    branches_min: int = 1
    branches_max: int = 2
    route: str = "model"
    router: str = "prior"
    draw: str = "stratified"
    noise: str = "held"
    noise_scale: float = 0.1
    combiner: str = "router"
    tail: int = 5
    creativity_default: float = 1.0
    init_seed: int = 0
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = MoTPeftType.MOT
        self.base_model_name_or_path = _local_base(self.base_model_name_or_path)
        self.target_modules = _set_of(self.target_modules)
        self.exclude_modules = _set_of(self.exclude_modules)
        self._check()

    def _check(self) -> None:
        for name, allowed in (
            ("route", ROUTES),
            ("router", ROUTERS),
            ("draw", DRAWS),
            ("noise", NOISES),
            ("combiner", COMBINERS),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}.", f"Pass one of {', '.join(allowed)}.")
        if not 1 <= self.branches_min <= self.branches_max <= self.num_branches:
            raise InputError(
                f"{self.branches_min} to {self.branches_max} of {self.num_branches} branches cannot be drawn.",
                "Pass 1 <= branches_min <= branches_max <= num_branches.",
            )
        if self.r < 1:
            raise InputError(f"r is {self.r}.", "Pass 1 or more.")
        if self.tail < 0:
            raise InputError(f"tail is {self.tail}.", "Pass 0 or more.")
        for name in ("noise_scale", "creativity_default"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}.", "Pass 0 or more.")

    @classmethod
    def check_kwargs(cls, **kwargs: Any) -> dict[str, Any]:
        """PEFT's own place for looking at what a file said before a config is made of it."""
        return migrated(super().check_kwargs(**kwargs))


def migrated(saved: dict[str, Any]) -> dict[str, Any]:
    """What an older version wrote, as this one would have. Raises `InputError` for what a newer one wrote."""
    version = saved.get("format_version", FORMAT_VERSION)
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise InputError(
            f"This graft is of format {version}; this thoughtmix reads 1 to {FORMAT_VERSION}.",
            "Type: pip install --upgrade thoughtmix",
        )
    return {**saved, "format_version": FORMAT_VERSION}


def _local_base(base: str | None) -> str | None:
    """The default model, which no hub has, as a folder of the user's cache: stock PEFT loads a graft's base model by
    what its configuration says."""
    from thoughtmix.models.packaged import default_folder, names_default

    if base is None or not names_default(base) or Path(base).is_dir():
        return base
    folder = default_folder()
    return base if folder is None else str(folder)


def _set_of(names: Any) -> Any:
    """PEFT works with sets of names, and with one regular expression."""
    return set(names) if isinstance(names, (list, tuple, set)) else names
