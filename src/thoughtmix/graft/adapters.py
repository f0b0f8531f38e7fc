"""A graft's thoughts as LoRA adapters for engines that serve many of them, written when a thought is first asked for.

A route is drawn from a thought's seed and the learned odds, so that the base model's weights are not needed for it: the
graft is put on a model without any (torch's meta device). Thoughts with equal routes share an adapter; adapters stay in
the user's cache. What LoRA cannot say is left out as in `export_lora`: noise is at its mean, 0.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from thoughtmix.core.errors import ModelError
from thoughtmix.core.files import published
from thoughtmix.engine.row_state import AdapterRows
from thoughtmix.graft.adapter import Graft, require_graft
from thoughtmix.graft.config import MoTConfig
from thoughtmix.graft.export import linear_names, write_lora
from thoughtmix.mixture.state import BranchState
from thoughtmix.models.cache import cache_dir, digest, explained
from thoughtmix.models.hardware import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig

KEPT = 1024
"""Adapters of one graft that stay in the cache; older ones that nobody has used for a day go."""
_DAY = 24 * 3600
_WEIGHTS = "adapter_model.safetensors"


class ThoughtAdapters:
    """The adapters of a graft's thoughts.

    Args:
        folder: The graft's, as `save_graft` wrote it.
        config: Of its base model.
    """

    def __init__(self, folder: Path, config: PretrainedConfig) -> None:
        self._folder, self._config = folder, config
        with explained():
            mark = digest(folder / _WEIGHTS) + digest(folder / "adapter_config.json")
        self.home = cache_dir() / "adapters" / hashlib.sha256(mark.encode()).hexdigest()[:16]

    @cached_property
    def _placed(self) -> tuple[Graft, list[str]]:
        """The graft, on a model without weights, and the names of the maps beside which it lies."""
        base = _on_nothing(self._folder, self._config)
        graft = require_graft(base)
        return graft, linear_names(base, graft)

    @property
    def graft(self) -> Graft:
        """Raises `ModelError`, `InputError`."""
        return self._placed[0]

    @property
    def rank(self) -> int:
        """Of every adapter."""
        return self.graft.config.r * self.graft.config.branches_max

    @property
    def said(self) -> dict[str, Any]:
        """What differs from the thoughts as our own loop makes them; for `ThoughtSet.run`."""
        c = self.graft.config
        return {
            **({"noise": f"{c.noise}, left at its mean 0"} if c.noise != "none" else {}),
            **({"combiner": f"{c.combiner}, at the route's weights"} if c.combiner != "router" else {}),
            **({"router": "the odds without a prompt"} if c.router == "prompt" else {}),
        }

    def rows(self, seeds: Sequence[int], creativity: Sequence[float]) -> AdapterRows:
        """The rows of these thoughts; at creativity 0 the model as it is.

        Raises:
            InputError: The branches lie beside whole blocks.
            CacheError: The cache cannot be written.
        """
        graft = self.graft
        state = BranchState.create(seeds, creativity)
        graft.sample_routes(state)
        weight = state.cache["weight"].float()  # (n, l, k)
        ways = [
            {
                "branches": [[k for k, w in enumerate(layer) if w > 0] for layer in layers],
                "weights": [[round(w, 4) for w in layer if w > 0] for layer in layers],
            }
            for layers in weight.tolist()
        ]
        with explained():
            folders = [
                self._written(row * factor) if factor > 0 else None
                for row, factor in zip(weight, map(float, creativity), strict=True)
            ]
            neutral = self._written(torch.zeros_like(weight[0]))
            self._forget({folder for folder in (*folders, neutral) if folder is not None})
        return AdapterRows(folders, neutral, self.rank, ways)

    def _written(self, weight: Tensor) -> Path:
        """The adapter of a route; weight (l, k)."""
        name = hashlib.sha256(weight.contiguous().numpy().tobytes()).hexdigest()[:16]
        folder = self.home / name
        if not (folder / _WEIGHTS).is_file():
            with published(folder) as work:
                write_lora(work, *self._placed, weight)
        os.utime(folder)
        return folder

    def _forget(self, used: set[Path]) -> None:
        kept = sorted((one.stat().st_mtime, one) for one in self.home.iterdir() if one.is_dir())
        for when, folder in kept[: max(0, len(kept) - KEPT)]:
            if folder not in used and time.time() - when > _DAY:
                shutil.rmtree(folder, ignore_errors=True)


def _on_nothing(folder: Path, config: PretrainedConfig) -> Any:
    """The base model without weights, and the graft of a folder on it, with its own. Raises `ModelError`."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from thoughtmix.models.adapter import peft_warnings

    ours: Any = MoTConfig.from_pretrained(str(folder))
    ours.inference_mode = True
    with quiet(), peft_warnings():
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(config)
        get_peft_model(base, ours)
    weights = load_file(folder / _WEIGHTS)
    for name, parameter in list(base.named_parameters()):
        if ".mot_" not in name:
            continue
        key = f"base_model.model.{name.removesuffix('.default')}"
        if key not in weights or weights[key].shape != parameter.shape:
            raise ModelError(f"The adapter {folder} does not fit its base model ({key}).", "Save it again.")
        owner = base.get_submodule(name.rpartition(".")[0])
        owner["default"] = nn.Parameter(weights[key], requires_grad=False)
    return base
