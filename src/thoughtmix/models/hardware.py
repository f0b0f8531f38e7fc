"""Which device there is, and what it multiplies quickly."""

from __future__ import annotations

import platform

from thoughtmix.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")


def bf16_hardware() -> bool:
    """Whether this CPU multiplies bf16 natively (elsewhere torch emulates it, several times slower)."""
    import torch

    if platform.machine().lower() in {"arm64", "aarch64"}:
        # oneDNN's check asks an ARM CPU for its bf16 instructions; on x86 it is content with AVX-512
        check = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
        return bool(torch.backends.mkldnn.is_available() and check())
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


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


def auto_dtype(device: str) -> str:
    """bfloat16 where the hardware multiplies it, else float32: emulation is several times slower."""
    import torch

    if device.startswith("cuda"):  # is_bf16_supported() alone would count emulation as support
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device.startswith("cpu") and bf16_hardware() else "float32"
