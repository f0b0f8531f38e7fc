"""Branches without a gradient: what a context changes in the activations, added where the context is not there.

With h the input of a grafted map, W h its output, and means over the answers' tokens: branch k adds
d_k = W (mean h under context k - mean h without). Its first rank reads h along a = mean h / |mean h|^2, so that a h is
1 on average, and writes d_k: a steering vector (Turner et al. 2023; Rimsky et al. 2024) as a map of rank one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import InputError
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.graft.adapter import require_graft, thoughts
from thoughtmix.graft.export import save_weights
from thoughtmix.graft.layer import MoTLayer
from thoughtmix.graft.tuning.prompts import PromptContext
from thoughtmix.models import LanguageModel
from thoughtmix.models.encoder_decoder import require_decoder_only

PROMPTS, TOKENS = 24, 16


@torch.no_grad()
def calibrate(
    lm: LanguageModel, folder: Path, prompts: Sequence[str], contexts: Sequence[PromptContext], strength: float = 1.0
) -> int:
    """Set the branches of a graft, in seconds, and save them.

    Args:
        lm: Loaded from the graft in `folder`.
        folder: Of the graft.
        prompts: What is answered; the first ones suffice.
        contexts: Context k sets branch k.
        strength: Multiplies what creativity 1 adds.

    Returns:
        How many answers each branch was set from.

    Raises:
        InputError: There is not one context a branch, or strength is not above 0.
    """
    require_decoder_only(lm.model, "calibration")
    graft = require_graft(lm.model)
    k = graft.config.num_branches
    if len(contexts) != k:
        raise InputError(f"{len(contexts)} contexts for {k} branches.", f"Graft {len(contexts)} (--branches).")
    if not 0 < strength < float("inf"):
        raise InputError(f"strength is {strength}.", "Pass more than 0 (--reach 1).")
    answers = _answers(lm, prompts[:PROMPTS])
    plain = _means(lm, graft.layers, answers, None)
    for number, layer in enumerate(graft.layers):
        a, b = layer.mot_A[graft.adapter], layer.mot_B[graft.adapter]  # (k, r, f), (k, r, d)
        a.zero_()
        b.zero_()
        a[:, 0] = (plain[0][number] / plain[0][number].square().sum()).to(a.dtype)
    for branch, context in enumerate(contexts):
        shown = _means(lm, graft.layers, answers, context)
        for number, layer in enumerate(graft.layers):
            layer.mot_B[graft.adapter][branch, 0] = strength * (shown[1][number] - plain[1][number])
    save_weights(lm, folder)
    return len(answers)


def _answers(lm: LanguageModel, prompts: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Each prompt with the base model's own greedy answer."""
    greedy = SamplingParams(temperature=0)
    done = LocalEngine(lm).generate([SequenceRequest(tuple(lm.encode(p)), 0, greedy, TOKENS) for p in prompts])
    return [(p, output.token_ids) for p, output in zip(prompts, done.outputs, strict=True)]


def _means(
    lm: LanguageModel,
    layers: Sequence[MoTLayer],
    answers: Sequence[tuple[str, list[int]]],
    context: PromptContext | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Of every grafted map, float32 means of its input (f) and output (d) over the answers' tokens and the last of the
    prompt, in the base model, the same answers under a context or none."""
    ins: list[Any] = [0.0] * len(layers)
    outs: list[Any] = [0.0] * len(layers)
    for prompt, ids in answers:
        prompt_ids = lm.encode(prompt if context is None else context.messages(prompt))
        with thoughts(lm.model, creativity=0.0), _record([layer.base_layer for layer in layers]) as recorded:
            lm.model(torch.tensor([prompt_ids + ids], device=lm.device), use_cache=False)
        for i, (h, y) in enumerate(recorded):
            ins[i] = ins[i] + h[0, len(prompt_ids) - 1 :].float().mean(0) / len(answers)
            outs[i] = outs[i] + y[0, len(prompt_ids) - 1 :].float().mean(0) / len(answers)
    return ins, outs


@contextmanager
def _record(modules: Sequence[nn.Module]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(input, output) of each module's next forward, in their order."""
    found: list[Any] = [None] * len(modules)

    def note(i: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[i] = (inputs[0].detach(), (output[0] if isinstance(output, tuple) else output).detach())

        return hook

    handles = [m.register_forward_hook(note(i)) for i, m in enumerate(modules)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
