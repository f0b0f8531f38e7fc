"""Fixed thoughts as plain LoRA adapters, for engines that serve many adapters at once.

The branches of a route are, side by side, one low-rank update of the map they sit beside: with ranks a_1..a_s,
sum_k w_k B_k A_k = [w_1 B_1 | w_2 B_2] [A_1; A_2]. So a thought without noise under combiner="router" is exactly a LoRA
adapter of rank s r. Noise is left at its mean, 0, and the combiner's attention at the route's weights; what that costs
is measured, on the files that were written.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from thoughtmix.core.errors import InputError
from thoughtmix.graft.context import grafted, thoughts
from thoughtmix.graft.files import written
from thoughtmix.graft.layer import MoTLayer
from thoughtmix.graft.rows import Graft
from thoughtmix.mixture.state import Rows

MANIFEST = "export.json"
PROMPTS = (
    "Give me an unusual idea for a birthday party.",
    "Name a use for a brick.",
    "The river was quiet that morning, and",
    "Write the first line of a poem about winter.",
)


@torch.no_grad()
def export_lora(
    model: nn.Module,
    out: str | Path,
    thoughts: int = 8,
    seed: int = 0,
    creativity: float = 1.0,
    prompts: Sequence[Sequence[int]] = (),
    on_progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Write out/thought-0 ... as plain PEFT LoRA adapters, and out/export.json with how near each is to its thought.

    model: a PEFT model with a graft, or the base model that PEFT changed. thought i is that of seed + i at this
    creativity, which reads the prompt itself (read="each"). prompts: token ids to measure on; none: not measured.
    Returns what export.json holds. Raises `InputError`.
    """
    if thoughts < 1:
        raise InputError(f"{thoughts} thoughts cannot be exported.", "Pass 1 or more (--thoughts 8).")
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    graft = grafted(base)
    names = _names(base, graft)
    rows = Rows.of(range(seed, seed + thoughts), creativity, device=base.device)
    if graft.config.router == "prompt":
        on_progress("The router reads the prompt; fixed thoughts follow its odds without one.")
    graft.settle(rows)
    weight = rows.memory["weight"].float()  # (n, l, k)
    with written(out, MANIFEST) as work:
        for i in range(thoughts):
            on_progress(f"thought {i + 1} of {thoughts}")
            _write(work / f"thought-{i}", graft, names, weight[i] * creativity)
        facts: dict[str, Any] = {
            "format": 1,
            "base_model": graft.config.base_model_name_or_path,
            "creativity": creativity,
            "noise": f"{graft.config.noise}, left at its mean 0" if graft.config.noise != "none" else "none",
            "combiner": f"{graft.config.combiner}" + ", at the route's weights" * (graft.config.combiner != "router"),
            "exact": graft.config.noise == "none" and graft.config.combiner == "router",
            "thoughts": [
                {
                    "adapter": f"thought-{i}",
                    "seed": seed + i,
                    "weights": [[round(w, 4) for w in layer] for layer in weight[i].tolist()],
                }
                for i in range(thoughts)
            ],
        }
        if prompts:
            _measure(base, work, facts, prompts, on_progress)
        (work / MANIFEST).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return facts


def _names(base: nn.Module, graft: Graft) -> list[str]:
    """Of the grafted maps, in order."""
    by_layer = {module: name for name, module in base.named_modules() if isinstance(module, MoTLayer)}
    names = [by_layer[layer] for layer in graft.layers]
    for name, layer in zip(names, graft.layers, strict=True):
        if not isinstance(layer.base_layer, (nn.Linear, Conv1D)):
            raise InputError(
                f"The branches of {name} lie beside a whole block ({type(layer.base_layer).__name__}), "
                "and LoRA changes single maps.",
                "Graft linear maps (target_modules=), or decode with thoughtmix.",
            )
    return names


def _write(folder: Path, graft: Graft, names: list[str], weight: Tensor) -> None:
    """weight (l, k), creativity in it."""
    c = graft.config
    rank = c.r * c.branches_max
    tensors = {}
    for name, layer in zip(names, graft.layers, strict=True):
        number = layer.numbers[graft.adapter]
        w = weight[number if len(weight) > 1 else 0]
        best = w.topk(c.branches_max).indices  # unused ones weigh 0: all adapters have one rank
        a = layer.mot_A[graft.adapter][best].flatten(0, 1)  # (s r, f)
        b = (layer.mot_B[graft.adapter][best] * w[best, None, None]).flatten(0, 1).T  # (d, s r)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.float().cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.float().cpu().contiguous()
    targets: Any = c.target_modules  # a set, whatever PEFT's annotation says
    lora = LoraConfig(
        r=rank,
        lora_alpha=rank,  # a scale of 1
        target_modules=targets,
        task_type=c.task_type or "CAUSAL_LM",
        base_model_name_or_path=c.base_model_name_or_path,
        fan_in_fan_out=isinstance(graft.layers[0].base_layer, Conv1D),
        inference_mode=True,
    )
    lora.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def stripped(model: nn.Module) -> Any:
    """A copy of a grafted model without its grafts."""
    bare: Any = copy.deepcopy(model)
    for name, layer in [(n, m) for n, m in bare.named_modules() if isinstance(m, MoTLayer)]:
        for graft in layer.grafts.values():
            graft.close()
        parent, _, child = name.rpartition(".")
        setattr(bare.get_submodule(parent), child, layer.base_layer)
    if hasattr(bare, "peft_config"):
        del bare.peft_config
    return bare


def _measure(
    model: Any,
    work: Path,
    facts: dict[str, Any],
    prompts: Sequence[Sequence[int]],
    on_progress: Callable[[str], object],
) -> None:
    """Add to each thought, over all tokens of the prompts: the mean KL divergence (nats a token) and the largest
    difference of logits between the thought and its adapter, and the KL of the base model, to compare."""
    bare = stripped(model)
    ids = [torch.tensor([list(p)], device=model.device) for p in prompts]
    plain = [bare(x).logits.float() for x in ids]
    peft: Any = None
    for i, entry in enumerate(facts["thoughts"]):
        on_progress(f"measuring thought {i + 1} of {len(facts['thoughts'])}")
        with thoughts(model, facts["creativity"], entry["seed"]):
            want = [model(x).logits.float() for x in ids]
        folder = str(work / entry["adapter"])
        kind: Any = PeftModel
        if peft is None:
            peft = kind.from_pretrained(bare, folder, adapter_name="thought-0")
        else:
            peft.load_adapter(folder, adapter_name=entry["adapter"])
        peft.set_adapter(entry["adapter"])
        got = [peft(x).logits.float() for x in ids]
        entry["kl"] = _mean_kl(want, got)
        entry["kl_of_base"] = _mean_kl(want, plain)
        entry["max_logit_difference"] = max(float((w - g).abs().max()) for w, g in zip(want, got, strict=True))


def _mean_kl(want: list[Tensor], got: list[Tensor]) -> float:
    total, count = 0.0, 0
    for w, g in zip(want, got, strict=True):
        p, q = w.log_softmax(-1), g.log_softmax(-1)
        total += float((p.exp() * (p - q)).sum())
        count += p.shape[0] * p.shape[1]
    return total / count
