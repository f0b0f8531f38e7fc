"""What was found out about the default model's quickest path on this machine, remembered in the user's cache.

A path is used because it was tried: the model is laid out as Hugging Face has it, and what the path says is compared
with its forward (`engine.backends.probe`). Both need transformers' modelling code, whose import takes longer than all
else that happens before the first token. So the outcome is kept, with the few numbers that the path takes from the
model's configuration. It counts as long as everything is the same that it depended on (`_circumstances`): the model's
files, the libraries, the path's own sources, the processor, the number of threads. Else, and when the note is damaged,
the path is tried again. Weights are never kept here: they are read from the model's own file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from thoughtmix import kernels
from thoughtmix.core import __version__
from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.core.files import bounded_text, parse_json, write_whole
from thoughtmix.models.cache import cache_dir, digest

Kind = Literal["native", "fp16", "bf16", "bf16-amx", "fp16-avx512", "fp16-avx2"]
_FORMAT = 1
_LIMIT = 2**20  # bytes of a note
_KEPT = 16  # notes of a model
_KERNELS = ("ATEN_", "DNNL_", "FBGEMM_", "KMP_", "MKL_", "ONEDNN_", "OPENBLAS_")
"""Beginnings of environment variables that change which kernels run."""


@dataclass(frozen=True, slots=True)
class FusedFacts:
    """What the fused path takes from a model beside its weights, and what a request must know of it beforehand."""

    kind: Kind
    """How the path packs the weights."""
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    epsilon: float
    """Of the norms."""
    scaling: float
    """Of attention scores."""
    frequencies: tuple[float, ...]
    """(head_width / 2,) of the rotary embedding, in float32."""
    vocabulary: int
    context_length: int | None
    eos_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pristine:
    """The default model as its files have it, before anybody could change it."""

    folder: Path
    facts: FusedFacts
    marks: tuple[tuple[int, int], ...]
    noted: set[tuple[str, int]] = field(default_factory=set, compare=False)
    """What was said of its path: kinds of weights, and by how many threads."""

    @classmethod
    def of(cls, lm: Any, folder: Path) -> Pristine | None:
        """Of a `LanguageModel` that was loaded just now; None where it is built otherwise than Llama."""
        model: Any = lm.model
        if type(model).__name__ != "LlamaForCausalLM":
            return None
        config, attention = model.config, model.model.layers[0].self_attn
        facts = FusedFacts(
            kind="native",  # until the path says how it packs them
            layers=len(model.model.layers),
            heads=int(config.num_attention_heads),
            kv_heads=int(config.num_key_value_heads),
            head_width=int(attention.head_dim),
            epsilon=float(config.rms_norm_eps),
            scaling=float(attention.scaling),
            frequencies=tuple(model.model.rotary_emb.inv_freq.float().tolist()),
            vocabulary=lm.vocabulary,
            context_length=lm.context_length,
            eos_ids=tuple(sorted(lm.eos_ids)),
        )
        return cls(folder, facts, _marks(model))

    def fits(self, model: Any) -> bool:
        """Whether it has the weights that it was loaded with."""
        return _marks(model) == self.marks

    def remember(self, model: Any, kind: Kind) -> None:
        """Note that the path with weights of this kind is right, unless the model was changed since. Once: it is said
        of every call."""
        import torch

        note = (kind, torch.get_num_threads())
        if note not in self.noted and self.fits(model):
            remember(self.folder, dataclasses.replace(self.facts, kind=kind))
            self.noted.add(note)


def _marks(model: Any) -> tuple[tuple[int, int], ...]:
    """These change when a weight is replaced or written in place."""
    return tuple((p.data_ptr(), p._version) for p in model.parameters())


def recall(folder: Path) -> FusedFacts | str:
    """What is known of the model in a ready folder of the cache, on the CPU.

    Returns:
        The facts, or why there are none: "" where the path was not tried yet under these circumstances, else what is
        wrong with the note.
    """
    try:
        place = _place(folder)
        if not place.is_file():
            return ""
        note = parse_json(bounded_text(place, _LIMIT))
        body = {"circumstances": note["circumstances"], "facts": note["facts"]}
        if note["sha256"] != _digest(body) or note["circumstances"] != _circumstances(folder):
            return "damaged"
        facts = note["facts"]
        lists = {name: tuple(facts[name]) for name in ("frequencies", "eos_ids")}
        return FusedFacts(**{**facts, **lists})
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"


def remember(folder: Path, facts: FusedFacts) -> None:
    """Note that the path was tried and is right. Where the cache cannot be written to, it will be tried again. The
    oldest notes go once there are many: several installations may share a cache."""
    with contextlib.suppress(OSError, ThoughtmixError):
        now = _circumstances(folder)
        body = {"circumstances": now, "facts": dataclasses.asdict(facts)}
        place = _place(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps({**body, "sha256": _digest(body)}, indent=1))
        for old in sorted(_notes(folder), key=lambda note: note.stat().st_mtime_ns)[:-_KEPT]:
            old.unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Have the path tried again."""
    with contextlib.suppress(OSError):
        for note in _notes(folder):
            note.unlink(missing_ok=True)


def described(folder: Path) -> str:
    """For `thoughtmix doctor`."""
    facts = recall(folder)
    if isinstance(facts, str):
        return f"the note of it is {facts}; it is tried again at the next use" if facts else "not tried here yet"
    return f"fused, {facts.kind} weights: tried here, not tried again until something changes"


def _notes(folder: Path) -> list[Path]:
    return sorted((cache_dir() / "paths").glob(f"{folder.name}-*.json"))


def _place(folder: Path) -> Path:
    return cache_dir() / "paths" / f"{folder.name}-{_digest(_circumstances(folder))[:16]}.json"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _circumstances(folder: Path) -> dict[str, Any]:
    """All that the outcome depends on."""
    import torch

    return {
        "format": _FORMAT,
        "model": digest(folder / "manifest.json"),  # which has the hash of each of its files
        "thoughtmix": [__version__, _sources()],
        "torch": [torch.__version__, str(torch.version.git_version)],
        "transformers": version("transformers"),
        "processor": [*_processor(), torch.backends.cpu.get_cpu_capability()],
        "kernels": [kernels.best(), kernels.why_not()],
        "threads": torch.get_num_threads(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_KERNELS)},
    }


@functools.cache
def _sources() -> str:
    """A hash of the code that makes and tries the paths: where people work on it, it changes without a new version."""
    whole = hashlib.sha256()
    room = Path(__file__).parents[1]
    of_kernels = [file for file in (room / "kernels").iterdir() if file.is_file()]
    for file in sorted(
        [*(room / "engine").rglob("*.py"), *of_kernels, Path(__file__), room / "models" / "unloaded.py"]
    ):
        whole.update(f"{file.relative_to(room).as_posix()}\n".encode() + file.read_bytes())
    return whole.hexdigest()


@functools.cache
def _processor() -> tuple[str, ...]:
    """Its model and what it can do, as far as the system says."""
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n", 1)[0].splitlines()
    except OSError:
        lines = []
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    found = "; ".join(f"{name} {said[name]}" for name in names if name in said)
    return platform.machine(), found or platform.processor()
