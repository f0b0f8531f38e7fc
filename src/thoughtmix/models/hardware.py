"""The machine: which device there is, what it multiplies quickly, and loading onto it without side effects."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Iterator
from typing import Any

from thoughtmix.core.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")
LARGE = 3 * 2**30
"""Bytes of a checkpoint from which float32 and its packed copy would crowd the memory of an ordinary machine."""
_QUIET = threading.RLock()  # the switches are global: two threads would restore each other's


def bf16_hardware() -> bool:
    """Whether this CPU multiplies bf16 natively (elsewhere torch emulates it, several times slower)."""
    import torch

    if platform.machine().lower() in {"arm64", "aarch64"}:
        # oneDNN's check asks an ARM CPU for its bf16 instructions; on x86 it is content with AVX-512
        check = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
        return bool(torch.backends.mkldnn.is_available() and check())
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def packs() -> bool:
    """Whether this torch and CPU have FBGEMM's packed 16-bit products (x86 builds do)."""
    import torch

    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(
        torch.ops.quantized, "linear_dynamic_fp16"
    )


def packs_bf16() -> bool:
    """Whether this torch and CPU multiply bfloat16 by weights that oneDNN packed (x86 with AVX512-bf16 or AMX)."""
    import torch

    if not torch.backends.mkldnn.is_available() or platform.machine().lower() in {"arm64", "aarch64"}:
        return False
    return bf16_hardware() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def usable_device(name: str) -> str:
    """`name` once it is known to work; auto: cuda if there is one, else cpu. Raises `InputError`."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")[:120]
        raise InputError(f"Device {name!r} cannot be used: {reason}.", "Pass --device cpu.") from None
    if place.type == "meta":
        raise InputError("Device 'meta' holds no numbers.", "Pass --device cpu.")
    return name


def auto_dtype(device: str, size: int | None = 0) -> str:
    """bfloat16 where the hardware multiplies it, else float32: emulation is several times slower.

    On x86 CPUs float32 all the same, unless the checkpoint is large or its size (bytes) not known: with weights packed
    in 16 bits that is quicker than bfloat16 (docs/LOG.md), and a thought is the same whatever stands beside it.
    """
    import torch

    if device.startswith("cuda"):  # is_bf16_supported() alone would count emulation as support
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if not device.startswith("cpu") or not bf16_hardware():
        return "float32"
    return "float32" if packs() and size is not None and size < LARGE else "bfloat16"


@contextlib.contextmanager
def quiet(*, downloads: bool = False) -> Iterator[None]:
    """Silence transformers and the hub client; put their switches and torch's random state back afterwards.

    Building a model initialises weights, which draws from torch's global generator even when they are
    overwritten at once. `downloads` leaves the hub client's download bars as they were.
    """
    import huggingface_hub.utils
    import torch
    from transformers.utils import logging as transformers_logging

    hub: Any = huggingface_hub.utils
    log: Any = transformers_logging
    with _QUIET, torch.random.fork_rng(devices=[]):
        level, hub_level = log.get_verbosity(), hub.logging.get_verbosity()
        bars, hub_bars = log.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
        log.set_verbosity_error()
        hub.logging.set_verbosity_error()
        log.disable_progress_bar()  # and the hub's with them
        if downloads and hub_bars:
            hub.enable_progress_bars()
        try:
            yield
        finally:
            log.set_verbosity(level)
            hub.logging.set_verbosity(hub_level)
            if bars:
                log.enable_progress_bar()
            (hub.enable_progress_bars if hub_bars else hub.disable_progress_bars)()
