"""Loading vLLM: whether it is here, what `vllm.LLM` is given, and nothing else of this process being changed by it."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from thoughtmix.core.errors import InputError, ModelError, ThoughtmixError, UnknownName
from thoughtmix.engine.stepping import StepThread

OWN_LOOP = "Type --engine local."
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The limits on ranks of adapters that vLLM knows."""
INSTALL = "Type: pip install vllm (in an environment of its own: docs/engines.md), or leave out --engine."
_SET_HERE = {"model": "--model", "tokenizer": "--model", "max_lora_rank": "a graft alone"}
_ADAPTERS = 16
"""Adapters that rows of one step may have."""
_CPU_CACHE = 4 * 2**30
"""Bytes of keys and values on a CPU at most, where none are named; a quarter of the free memory if that is less."""
_CPU_BLOCK = 32
"""Tokens of a shared piece of prompts there: the smallest that its attention is fast with."""
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # OMP_NUM_THREADS counts, and this process is not pinned to cores
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}
"""Unless they are set."""


def installed() -> str | None:
    """vLLM's version, if it is installed."""
    from importlib import metadata

    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """ "tensor_parallel_size=2" -> {"tensor_parallel_size": 2}: values are JSON, or else texts. Raises `InputError`."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, given, value = pair.partition("=")
        if not given or not name.strip():
            raise InputError(f"--engine-option is {pair!r}.", "Pass key=value: --engine-option max_model_len=4096")
        try:
            out[name.strip().replace("-", "_")] = json.loads(value)
        except ValueError:
            out[name.strip().replace("-", "_")] = value
    return out


def require_installed() -> None:
    """Raises `InputError` where it is not."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:  # a folder of that name is none
        raise InputError("vLLM is not installed.", INSTALL)


def check_options(options: Mapping[str, Any]) -> None:
    """Raises `InputError` for those that are not the user's to give."""
    for name in set(options) & set(_SET_HERE):
        raise InputError(f"{name} is no option of --engine vllm here.", f"Pass {_SET_HERE[name]}.")


def load(source: str, name: str, options: Mapping[str, Any], rank: int) -> StepThread:
    """vLLM with a model, in a thread of its own.

    Args:
        source: A folder, or a Hugging Face id.
        name: What errors call it.
        options: The user's, for `vllm.LLM`.
        rank: Of adapters that it must have room for; 0: of none.

    Raises:
        InputError: vLLM has no such option, or serves no adapters of that rank.
        ModelError: It cannot load the model.
    """
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        given = arguments(source, options, rank)
        return StepThread(lambda: _loaded(given), _untouched_generator)
    except ThoughtmixError:
        raise
    except Exception as error:  # vLLM, pydantic and torch each have errors of their own
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise ModelError(
            f"vLLM cannot load {name}: {reason}.", "Change its --engine-option, or type --engine local."
        ) from error


def arguments(source: str, options: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Of `vllm.LLM`: the user's go before ours. Raises `InputError`, `UnknownName`."""
    import vllm

    known = set(vllm.EngineArgs.__dataclass_fields__)
    for name in options:
        if name not in known:
            raise UnknownName("option of --engine vllm:", name, known)
    ours: dict[str, Any] = {
        "enable_prefix_caching": True,
        "generation_config": "vllm",
        "structured_outputs_config": {"backend": "guidance"},
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }
    if on_cpu():
        ours |= {"block_size": _CPU_BLOCK, "enforce_eager": True}
        if not {"kv_cache_memory_bytes", "gpu_memory_utilization"} & set(options):
            ours |= {"kv_cache_memory_bytes": _cpu_cache(), "max_model_len": -1}
    if rank or options.get("enable_lora"):
        limit = next((known for known in RANKS if known >= rank), None)
        if limit is None:
            raise InputError(f"The adapters have rank {rank}; vLLM serves up to {RANKS[-1]}.", OWN_LOOP)
        ours |= {"enable_lora": True, "max_lora_rank": limit, "max_loras": _ADAPTERS, "max_cpu_loras": 64}
    return {"model": source, **ours, **options}


def on_cpu() -> bool:
    """Whether vLLM computes on CPUs."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _cpu_cache() -> int:
    """Bytes for keys and values."""
    import psutil  # vLLM's

    return int(min(_CPU_CACHE, psutil.virtual_memory().available // 4))


def _loaded(given: Mapping[str, Any]) -> Any:
    """vLLM seeds the global generators: nobody else is to notice."""
    import random

    import numpy as np
    import vllm

    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        return vllm.LLM(**given)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


@contextmanager
def _untouched_generator() -> Iterator[None]:
    """On CPUs vLLM draws from torch's global generator, also for rows that have one of their own."""
    import torch

    before = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)


def free_memory() -> None:
    """What a closed engine held, so that another can be loaded."""
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
