"""What this machine multiplies quickly."""

from __future__ import annotations


def bf16_hardware() -> bool:
    """Whether this CPU multiplies bf16 natively (elsewhere torch emulates it, several times slower)."""
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)
