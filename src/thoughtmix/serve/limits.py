"""What one server takes on. Beyond it requests are refused with a reason, never half-served."""

from __future__ import annotations

from dataclasses import dataclass, fields

from thoughtmix.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Limits:
    """body: bytes of a request. thoughts: n of a request. tokens: n x max_tokens of a request. texts: of a map or a
    selection. rows: in a decoding step. memory: MiB of keys and values that all accepted requests may come to hold.
    queue: requests accepted and not yet answered. seconds: of a request, waiting included. grace: seconds that accepted
    requests have after SIGTERM. chunk: prompt tokens read between two steps. default_tokens: where a request names no
    max_tokens."""

    body: int = 1 << 20
    thoughts: int = 64
    tokens: int = 8192
    texts: int = 256
    rows: int = 64
    memory: int = 2048
    queue: int = 64
    seconds: float = 300.0
    grace: float = 30.0
    chunk: int = 128
    default_tokens: int = 256

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not 0 < value < float("inf"):
                raise InputError(
                    f"The limit {f.name} is {value}.", f"Pass more than 0 (--{f.name.replace('_', '-')} {f.default})."
                )
