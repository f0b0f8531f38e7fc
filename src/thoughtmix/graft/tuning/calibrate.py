"""Branches without a gradient: what a context changes in the activations, added where the context is not there.

With h the input of a grafted map, W h its output, and means over the answers' tokens: branch k adds
d_k = W (mean h under context k - mean h without). Its first rank reads h along a = mean h / |mean h|^2, so that a h is
1 on average, and writes d_k: a steering vector (Turner et al. 2023; Rimsky et al. 2024) as a map of rank one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import InputError
from thoughtmix.graft.context import grafted, thoughts
from thoughtmix.graft.tuning.prompts import Context

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

PROMPTS, TOKENS = 24, 16


@torch.no_grad()
def calibrate(
    lm: LanguageModel, folder: Path, prompts: Sequence[str], contexts: Sequence[Context], strength: float = 1.0
) -> int:
    """Set the branches of the graft in `folder`, in seconds, and save them. Returns how many answers each was set from.
    Context k sets branch k. strength multiplies what creativity 1 adds. Raises `InputError`."""
    from thoughtmix.graft.tuning.run import save

    graft = grafted(lm.model)
    k = graft.config.num_branches
    if len(contexts) != k:
        raise InputError(f"{len(contexts)} contexts for {k} branches.", f"Graft {len(contexts)} (--branches).")
    if not 0 < strength < float("inf"):
        raise InputError(f"strength is {strength}.", "Pass more than 0 (--strength 1).")
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
    save(lm, folder)
    return len(answers)


def _answers(lm: LanguageModel, prompts: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Each prompt with the base model's own greedy answer."""
    from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest

    greedy = SamplingParams(temperature=0)
    done = LocalEngine(lm).generate([SequenceRequest(tuple(lm.encode(p)), 0, greedy, TOKENS) for p in prompts])
    return [(p, output.token_ids) for p, output in zip(prompts, done.outputs, strict=True)]


def _means(
    lm: LanguageModel, layers: Sequence[Any], answers: Sequence[tuple[str, list[int]]], context: Context | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Of every grafted map, float32 means of its input (f) and output (d) over the answers' tokens and the last of the
    prompt, in the base model, the same answers under a context or none."""
    ins: list[Any] = [0.0] * len(layers)
    outs: list[Any] = [0.0] * len(layers)
    for prompt, ids in answers:
        asked = lm.encode(prompt if context is None else context.messages(prompt))
        with thoughts(lm.model, creativity=0.0), _seen([layer.base_layer for layer in layers]) as seen:
            lm.model(torch.tensor([asked + ids], device=lm.device), use_cache=False)
        for i, (h, y) in enumerate(seen):
            ins[i] = ins[i] + h[0, len(asked) - 1 :].float().mean(0) / len(answers)
            outs[i] = outs[i] + y[0, len(asked) - 1 :].float().mean(0) / len(answers)
    return ins, outs


@contextmanager
def _seen(modules: Sequence[nn.Module]) -> Iterator[list[tuple[Tensor, Tensor]]]:
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
