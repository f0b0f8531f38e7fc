"""`thoughtmix pull` and `thoughtmix doctor`: what is installed, where the caches are, which device would be used."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from thoughtmix import __version__
from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import Json, option
from thoughtmix.cli.output import print_json
from thoughtmix.cli.reporting import Reporter


@app.command()
@with_options
def pull(
    dtype: Annotated[str | None, option("float32, bfloat16 or float16.", default="what suits this machine")] = None,
    measure: Annotated[bool, option("Fetch what measures thoughts too, the sentence embedder.")] = True,
    *,
    report: Reporter,
) -> None:
    """Fetch the default models, convert them once, and repair damaged ones (180 MB to fetch, 0.8 GB on disk)."""
    from thoughtmix.models import pull as fetch

    with report.work("Fetching the models"):
        found = fetch(dtype, report.step, measure)
    for name, folder in found.items():
        print(f"{name}: {folder}")


@app.command()
@with_options
def doctor(
    verify: Annotated[
        bool, option("Compare every byte of the models in the cache with its checksum.", "--verify")
    ] = False,
    details: Annotated[bool, option("Show every fact and the version of every package.", "--details")] = False,
    json: Json = False,
    *,
    report: Reporter,
) -> int:
    """Check the installation. Exit code 1 when something that is needed is missing or damaged."""
    with report.work("Looking"):
        found = examine(verify=verify)
    if json:
        print_json(found)
    else:
        print(_everything(found) if details else _briefly(found))
        for problem in found["problems"]:
            print(f"problem: {problem}")
        said = "Something is missing or damaged." if found["problems"] else "All is well."
        print(said if found["problems"] else f'{said} Try: thoughtmix think "Name a use for a brick."')
    return 1 if found["problems"] else 0


def _everything(found: dict[str, Any]) -> str:
    lines = []
    for section, rows in found.items():
        if section != "problems":
            lines += [section, *(f"  {key:28} {value}" for key, value in rows.items())]
    return "\n".join(lines)


def _briefly(found: dict[str, Any]) -> str:
    """A line a section, of what people ask about first."""
    system, packages, cache, device = (found.get(name, {}) for name in ("system", "packages", "cache", "device"))
    versions = ", ".join(
        f"{name} {packages[name].split()[0]}" for name in ("torch", "transformers") if name in packages
    )
    models = [f"{key.removeprefix('model ')} {value}" for key, value in cache.items() if key.startswith("model ")]
    runs = [
        device.get("gpu", ""),
        device.get("device", ""),
        device.get("dtype", ""),
        f"{device.get('threads')} threads",
    ]
    lines = {
        "machine": ", ".join(
            str(part) for part in (system.get("processor"), f"{system['cores']} cores", system.get("memory")) if part
        ),
        "software": f"thoughtmix {__version__}, python {system['python']}, {versions}",
        "runs on": ", ".join(part for part in runs if part) if device else "",
        "kernels": device.get("kernels of our own", ""),
        "models": f"{'; '.join(models) or cache.get('default model', '')}",
        "cache": f"{cache['folder']}, {cache['size']}, {cache['free disk']} free",
    }
    return "\n".join(f"{name:9} {line}" for name, line in lines.items() if line)


def examine(*, verify: bool = False) -> dict[str, Any]:
    """Facts by section, and what is wrong with them.

    Args:
        verify: Compare the models in the cache with their checksums.
    """
    problems: list[str] = []
    report: dict[str, Any] = {"system": _system(), "packages": _packages(problems), "engines": _engines()}
    if not problems:
        report["device"] = _device()
    from thoughtmix.models import cache_dir, state
    from thoughtmix.models.packaged import GENERATOR, folder_of
    from thoughtmix.models.tried import described

    kept = state(every_byte=verify)
    parent = next(p for p in (cache_dir(), *cache_dir().parents) if p.exists())
    writable = os.access(parent, os.W_OK)
    report["cache"] = {
        "folder": kept["folder"],
        "size": f"{kept['bytes'] / 1e6:.0f} MB",
        "free disk": f"{shutil.disk_usage(parent).free / 1e9:.1f} GB",
        **{f"package {name}": "there" if there else "not fetched yet" for name, there in kept["wheels"].items()},
        **{
            f"model {name}": "ready" if there else "damaged" if name in kept["damaged"] else "not there"
            for name, there in kept["ready"].items()
        },
    }
    problems += [f"The model {name} is damaged. Type: {remedy}" for name, remedy in kept["damaged"].items()]
    if not writable:
        problems.append(f"{parent} cannot be written. Type: THOUGHTMIX_CACHE=/path thoughtmix doctor")
    if not any(kept["ready"].values()):
        report["cache"]["default model"] = "comes at first use, or type: thoughtmix pull"
    elif "device" in report and kept["ready"][folder_of(GENERATOR).name]:
        report["cache"]["default model's path"] = described(folder_of(GENERATOR))
    report["problems"] = problems
    return report


def _system() -> dict[str, str]:
    facts = {"python": platform.python_version(), "system": platform.platform(), "cores": str(os.cpu_count())}
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text()
        if name := re.search(r"^model name\s*: (.*)$", text, re.M):
            facts["processor"] = name[1]
        flags = set((re.search(r"^flags\s*: (.*)$", text, re.M) or ["", ""])[1].split())
        facts["instructions"] = " ".join(f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB"
    return facts


def _packages(problems: list[str]) -> dict[str, str]:
    """Each requirement of thoughtmix with the version that is there, against its floor."""
    out = {}
    for line in metadata.requires("thoughtmix") or []:
        match = re.match(r"([\w.-]+)>=([\w.]+)$", line)
        if match is None:  # extras
            continue
        name, floor = match.groups()
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = f"missing (at least {floor})"
            problems.append(f"{name} is not installed. Type: pip install '{name}>={floor}'")
            continue
        out[name] = f"{version} (at least {floor})"
        if _numbers(version) < _numbers(floor):
            problems.append(f"{name} {version} is too old. Type: pip install --upgrade '{name}>={floor}'")
    return out


def _engines() -> dict[str, str]:
    """Where thoughts may be written."""
    from thoughtmix.engine.vllm_loading import INSTALL, installed

    version = installed()
    return {
        "local": "always there",
        "endpoint": "always there; -e http://host:port",
        "vllm": f"{version}; --engine vllm" if version else f"not installed. {INSTALL.partition(' (')[0]}",
    }


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _device() -> dict[str, str]:
    import torch

    from thoughtmix.kernels import best, why_not
    from thoughtmix.models.hardware import auto_dtype, bf16_hardware, packs, packs_bf16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts = {"device": device, "dtype": auto_dtype(device), "threads": str(torch.get_num_threads())}
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    else:
        facts["bf16 in hardware"] = "yes" if bf16_hardware() else "no"
        facts["packed fp16 weights"] = "yes" if packs() else "no"
        facts["packed bf16 weights"] = "yes" if packs_bf16() else "no"
        facts["kernels of our own"] = f"no: {why_not()}" if why_not() else f"yes, by {best().upper()}"
    return facts
