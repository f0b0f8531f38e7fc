"""How many rows a batch may have: what the memory holds, and what still makes it quicker; and memory as needed."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from thoughtmix.models import LanguageModel

MOST_ROWS = {"cpu": 64, "cuda": 512}
"""From here on a step takes as much longer as it has more rows (docs/LOG.md for the CPU)."""
_SHARE = 0.5
"""Of the free memory, for keys and values: the rest is for what steps compute with."""


def kv_bytes_per_token(lm: LanguageModel) -> int:
    """Bytes of a token's keys and values, in float32."""
    return 4 * lm.kv_numbers


def kv_tokens_that_fit(lm: LanguageModel) -> int:
    """Tokens whose keys and values a share of the memory that is free now would hold; at least 1."""
    return max(1, int(free_bytes(str(lm.device)) * _SHARE) // kv_bytes_per_token(lm))


def rows_that_fit(lm: LanguageModel, tokens: int) -> int:
    """Rows of so many own tokens each that a batch should have: as many as pay, and as the memory holds."""
    most = MOST_ROWS.get(lm.device.type, MOST_ROWS["cpu"])
    return max(1, min(most, kv_tokens_that_fit(lm) // max(1, tokens)))


def free_bytes(device: str) -> int:
    """Of a device's memory; of the machine's, what is free and what this process's group (cgroup v2) may still take."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil  # accelerate needs it, too

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        most, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        return min(free, max(0, int(most) - int(used)))
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return free


def untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros on the CPU that take no memory before something is written, and then page by page.

    Numpy and glibc ask the system for pages of 2 MiB, where it has them. A bucket of the KV cache has room for many
    rows, and a row's tokens are a few KiB in each of many places: its first would clear hundreds of MiB.
    """
    import torch

    count = math.prod(shape)
    if not count:
        return torch.zeros(shape, dtype=dtype)
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):  # not Linux: numpy asks for nothing of the kind there
        import numpy as np

        return torch.from_numpy(np.zeros(count * dtype.itemsize, np.uint8)).view(dtype).view(shape)
    pages = mmap.mmap(-1, count * dtype.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # goes with its last tensor
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
