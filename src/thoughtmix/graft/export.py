"""A graft on disk: an adapter in PEFT's form; and fixed thoughts as plain LoRA, for engines that serve many of them.

The branches of a route are, side by side, one low-rank update of the map they sit beside: with ranks a_1..a_s,
sum_k w_k B_k A_k = [w_1 B_1 | w_2 B_2] [A_1; A_2]. So a thought without noise under combiner="router" is exactly a LoRA
adapter of rank s r. Noise is left at its mean, 0, and the combiner's attention at the route's weights; what that costs
is measured, on the files that were written.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import published, writing, written
from thoughtmix.graft.adapter import Graft, require_graft, thoughts
from thoughtmix.graft.layer import MoTLayer
from thoughtmix.mixture.state import BranchState

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

MANIFEST = "export.json"
PROMPTS = (
    "Give me an unusual idea for a birthday party.",
    "Name a use for a brick.",
    "The river was quiet that morning, and",
    "Write the first line of a poem about winter.",
)


def base_model_name(lm: LanguageModel, name: str | None) -> str:
    """What a graft of this model, which was asked for by `name`, says it is for: the default model's name, a hub id, or
    where the folder is."""
    if lm.is_default:
        return lm.name
    return str(Path(name).expanduser().resolve()) if name and Path(name).expanduser().is_dir() else str(name)


def save_graft(peft: Any, folder: str | Path, base: str, half: bool = False) -> None:
    """Write a grafted model's adapters into a folder, in PEFT's form, for `load_model` and stock PEFT. Asks no hub.

    Args:
        peft: The PEFT model.
        folder: A new or empty one, or an earlier graft's, which is replaced.
        base: See `base_model_name`.
        half: Keep numbers in 16 bits; they are float32 again when loaded.

    Raises:
        InputError: The folder holds other things, or cannot be written.
    """
    for config in peft.peft_config.values():
        config.base_model_name_or_path = base
    with replaced_folder(folder) as work:
        peft.save_pretrained(work, save_embedding_layers=False)
        for file in work.rglob("*.safetensors") if half else ():
            tensors = {
                name: tensor.half() if tensor.is_floating_point() else tensor
                for name, tensor in load_file(file).items()
            }
            save_file(tensors, file, metadata={"format": "pt"})


def check_replaceable(folder: Path, mark: str = "adapter_config.json") -> None:
    """Raises `InputError` where `replaced_folder` would not write."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file()):
        raise InputError(f"{folder} holds other things.", "Name a new folder.")


@contextmanager
def replaced_folder(folder: str | Path, mark: str = "adapter_config.json") -> Iterator[Path]:
    """A folder to write into, which then takes the place of `folder`. Only an earlier one, which holds `mark`, or an
    empty one is replaced. Raises `InputError`."""
    target = Path(folder).expanduser()
    check_replaceable(target, mark)
    with writing(target), published(target) as work:
        yield work


def save_weights(lm: LanguageModel, folder: Path) -> None:
    """The weights of the graft that `lm` was loaded with into its folder, in float16, complete before the old ones are
    replaced."""
    named = {name: p for name, p in lm.model.named_parameters() if ".mot_" in name}
    half = {  # by the names that PEFT gives them
        f"base_model.model.{name.removesuffix('.default')}": p.detach().to("cpu", torch.float16).contiguous()
        for name, p in named.items()
    }
    with written(folder / "adapter_model.safetensors") as part:
        save_file(half, part, metadata={"format": "pt"})


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

    Args:
        model: A PEFT model with a graft, or the base model that PEFT changed.
        out: A new or empty folder, or that of an earlier export, which is replaced.
        thoughts: How many.
        seed: Thought i is that of seed + i, which reads the prompt itself (read="each").
        creativity: Of all thoughts.
        prompts: Token ids to measure on; none: not measured.
        on_progress: Is told what is being done.

    Returns:
        What export.json holds.

    Raises:
        InputError: There is no graft at work or no thought to export, branches lie beside whole blocks, or the folder
            cannot be written.
    """
    if thoughts < 1:
        raise InputError(f"{thoughts} thoughts cannot be exported.", "Pass 1 or more (-n 8).")
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    graft = require_graft(base)
    names = linear_names(base, graft)
    state = BranchState.create(range(seed, seed + thoughts), creativity, device=base.device)
    if graft.config.router == "prompt":
        on_progress("The router reads the prompt; fixed thoughts follow its odds without one.")
    graft.sample_routes(state)
    weight = state.cache["weight"].float()  # (n, l, k)
    with replaced_folder(out, MANIFEST) as work:
        for i in range(thoughts):
            on_progress(f"thought {i + 1} of {thoughts}")
            write_lora(work / f"thought-{i}", graft, names, weight[i] * creativity)
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


def linear_names(base: nn.Module, graft: Graft) -> list[str]:
    """Of the grafted maps, in order. Raises `InputError` where they are no maps."""
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


def write_lora(folder: Path, graft: Graft, names: list[str], weight: Tensor) -> None:
    """A thought's adapter as PEFT has it. weight: (l, k) of its branches, creativity in it."""
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


def without_grafts(model: nn.Module) -> Any:
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
    bare = without_grafts(model)
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
