"""Decoding of Llama-like models by C functions of our own, on x86-64.

A decoding step is bound by reading weights and by the number of separate operations. Here it is one call: all layers,
in a team of threads that meets after each stage (norm, product, attention, ...), from embedded tokens to logits.

    kernels.h         what the files share, and how numbers lie
    avx2.h            AVX-512's instructions by AVX2's
    team.c            threads that wait for work
    pack.c            weights as they are kept
    product.c         products on the matrix unit
    product_vector.c  products without one
    settle.h          what becomes of a product's sums
    attention.c       rotary embedding, keys and values, what a row gathers of its own keys
    prompt.c          what many rows gather of the same keys, on the matrix unit
    prompt_vector.c   the same without one
    forward.c         the layers, and whether this processor can
    sampling.c        draws: truncations, the token, and what its probability was

They are compiled once a level, and the best that the processor has is used: `amx` (a matrix unit for bfloat16: inputs
and weights of products are bfloat16, queries and keys of a prompt the sum of two such numbers), `avx512` and `avx2`
(inputs are float32, weights IEEE half). All sums, the residual stream, norms, softmax and logits, and keys and values
as they are kept, are float32. THOUGHTMIX_KERNELS=avx2 asks for a lower level, or for none.

**Batch invariance** (law 5) holds by construction: every number is one fixed sequence of operations on its row's own
numbers, whatever the number of rows, of threads, and who stands beside it.

Weights that lie on a grid of 16 or 255 values a block of 32, as those read from 4- and 8-bit files do, are kept in 5 or
8.5 bits and become the same numbers again in registers: nothing but the reading differs (`GRID4`, `GRID8`).

The libraries are compiled where thoughtmix is installed (build.py); without them, or on another processor, models
decode by torch's own products.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int64, c_void_p
from typing import Any

from thoughtmix.kernels.build import HERE, LEVELS, VECTOR_LEVELS, name, sources_digest

_BUILD = "python -m thoughtmix.kernels.build"
PLAIN, GRID4, GRID8 = range(3)
TILE_BYTES = {PLAIN: 1024, GRID4: 320, GRID8: 544}
"""Of 16 outputs by 32 inputs."""
TILE, BLOCK = 16, 32
MOST_HEADS, MOST_WIDTH = 16, 256
"""Query heads a key/value head, and numbers a head, for which attention has room."""
_UNFIT = {
    1: "this processor has no {}",
    2: "this processor has no bfloat16 matrix unit (AMX)",
    3: "the system does not let programs use the processor's matrix unit (AMX)",
}


class Matrix(Structure):
    _fields_ = [
        ("kind", c_int64),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("data", c_void_p),
        ("bias", c_void_p),
        ("idle", c_void_p),
    ]


class Layer(Structure):
    _fields_ = [
        *((name, Matrix) for name in ("qkv", "out", "gated", "down", "lora_a", "lora_b")),
        *((name, c_void_p) for name in ("norm", "norm_mlp", "q_norm", "k_norm")),
        ("lora", c_int64),
    ]


class Model(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("layers", "width", "inner", "heads", "kv_heads", "head_width")),
        ("epsilon", c_float),
        ("scale", c_float),
        ("layer", POINTER(Layer)),
        ("head", Matrix),
        ("norm", c_void_p),
        ("cosine", c_void_p),
        ("sine", c_void_p),
    ]


class Segment(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("first", "rows", "prompt", "reads", "tokens", "known")),
        ("prompt_keys", c_void_p),
        ("prompt_values", c_void_p),
        ("prompt_stride", c_int64),
        ("own_keys", c_void_p),
        ("own_values", c_void_p),
        ("own_row", c_int64),
        ("own_head", c_int64),
        ("known_keys", c_void_p),
        ("known_values", c_void_p),
        ("known_stride", c_int64),
    ]


class Batch(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("rows", "segments", "picked", "moves", "scales", "ranks", "together")),
        ("embedded", c_void_p),
        ("positions", c_void_p),
        ("segment", POINTER(Segment)),
        ("pick", c_void_p),
        ("logits", c_void_p),
        ("hidden", c_void_p),
        ("lora_scale", c_void_p),
        ("lora_shift", c_void_p),
        ("memory", c_void_p),
    ]


class Draw(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("rows", "columns", "width")),
        *((name, c_void_p) for name in ("logits", "whole", "uniform")),
        *((name, c_void_p) for name in ("temperature", "top_k", "top_p", "min_p", "top_nsigma")),
        *((name, c_void_p) for name in ("ids", "logprobs", "share", "rest", "tops", "weights")),
    ]


@functools.cache
def _loaded(level: str) -> tuple[Any, str]:
    """A level's library, or None and why there is none."""
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "AMD64"}:
        return None, "they are for Linux on x86-64"
    file = HERE / name(level)
    if not file.exists():
        return None, f"they were not compiled when thoughtmix was installed ({_BUILD} says why)"
    try:
        library = ctypes.CDLL(str(file))
        library.thoughtmix_sources.restype = c_char_p
        if library.thoughtmix_sources() != sources_digest().encode():
            return None, f"they were compiled from other sources (type {_BUILD})"
        library.thoughtmix_unfit.restype = c_int
        reason = library.thoughtmix_unfit()
        if reason:
            return None, _UNFIT[reason].format("AVX2" if level == "avx2" else "AVX-512")
        library.thoughtmix_memory.restype = c_int64
        library.thoughtmix_memory.argtypes = [POINTER(Model), POINTER(Batch), c_int]
        library.thoughtmix_forward.restype = None
        library.thoughtmix_forward.argtypes = [POINTER(Model), POINTER(Batch), c_int64, c_int64, c_int]
        library.thoughtmix_pack.restype = c_int
        library.thoughtmix_pack.argtypes = [POINTER(Matrix), c_void_p, c_int64, c_int64, c_int64, c_int64, c_int]
        library.thoughtmix_draw.restype = c_int
        library.thoughtmix_draw.argtypes = [POINTER(Draw), c_int]
        library.thoughtmix_large_pages.restype = None
        library.thoughtmix_large_pages.argtypes = [c_void_p, c_int64]
    except (OSError, AttributeError) as error:  # of another machine or another version of thoughtmix
        return None, f"{file.name} cannot be loaded: {error}"
    return library, ""


def allowed() -> tuple[str, ...]:
    """The levels that THOUGHTMIX_KERNELS leaves, best first: all, one and those below it, or (`none`) none."""
    asked = os.environ.get("THOUGHTMIX_KERNELS", "")
    return LEVELS[LEVELS.index(asked) :] if asked in LEVELS else () if asked == "none" else LEVELS


def why_not(level: str | None = None) -> str:
    """Why models do not decode by these functions here; "" where they do.

    Args:
        level: The one that is asked for; None: any.
    """
    if not allowed() or (level and level not in allowed()):
        return "THOUGHTMIX_KERNELS forbids them"
    reasons = [_loaded(each)[1] for each in ([level] if level else allowed())]
    return reasons[-1] if all(reasons) else ""


def best(levels: tuple[str, ...] = LEVELS) -> str:
    """The best of these levels that runs here; "" where none does."""
    return next((level for level in levels if level in allowed() and not _loaded(level)[1]), "")


def library(level: str | None = None) -> Any:
    """The C functions of a level, or of the best; None where `why_not`. A call lets go of the interpreter's lock."""
    level = best() if level is None else level
    return _loaded(level)[0] if level else None


__all__ = [
    "LEVELS",
    "VECTOR_LEVELS",
    "Batch",
    "Draw",
    "Layer",
    "Matrix",
    "Model",
    "Segment",
    "allowed",
    "best",
    "library",
    "why_not",
]
