"""What one server takes on. Beyond it requests are refused with a reason, never half-served."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.core.options import ThinkerOptions, parse_options, renamed, served_schema
from thoughtmix.thinkers.base import Thinker, Work


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's limits, each of them over 0."""

    body: int = 1 << 20
    """Bytes of a request."""
    thoughts: int = 64
    """n of a request."""
    tokens: int = 8192
    """n x max_tokens of a request."""
    texts: int = 256
    """Of a map or a selection."""
    rows: int = 64
    """In a decoding step."""
    memory: int = 2048
    """MiB of keys and values that requests may come to hold. Those that name no length wait for room and are ended, of
    length, where it is short; such as cannot join the batch have as much again."""
    queue: int = 64
    """Requests accepted and not yet answered."""
    seconds: float = 300.0
    """Of a request, waiting included."""
    grace: float = 30.0
    """Seconds that accepted requests have after SIGTERM."""
    chunk: int = 128
    """Prompt tokens read between two steps."""
    work: int = 65536
    """Tokens that go through the model for a request: read or drawn, drafts and scoring included."""
    side_work: int = 524288
    """The same of the mask predictor and the embedder, once a pass."""
    default_tokens: int = 8192
    """Most of a thought where a request names no max_tokens."""
    connections: int = 512
    """Open at once, as far as the process has descriptors for them; one more closes the one idle longest."""
    connections_per_address: int = 128
    """The same of one address (IPv6: of a /64)."""
    header_seconds: float = 10.0
    """For a request's headers to come."""
    body_seconds: float = 30.0
    """For the rest of it."""
    idle_seconds: float = 30.0
    """That a connection waits for its next request, and a stream for its client to read on."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not 0 < value < float("inf"):
                raise InputError(
                    f"The limit {f.name} is {value}.", f"Pass more than 0 (--{f.name.replace('_', '-')} {f.default})."
                )


HELD = 16
"""Accepted requests may together cost so many times what a single one may."""


def within(work: Work, limits: Limits) -> bool:
    """Whether one request may cost so much."""
    return work.tokens <= limits.work and work.side <= limits.side_work


def check_work(work: Work, limits: Limits) -> None:
    """Raises `Refused` (400) for what costs more than one request may, and says which bound it is."""
    from thoughtmix.serve.errors import Refused

    for most, bound, where in (
        (work.tokens, limits.work, "the model (--work)"),
        (work.side, limits.side_work, "the mask predictor or the embedder (--side-work)"),
    ):
        if most > bound:
            message = f"The request may put {most} tokens through {where}, the limit is {bound}. Ask for less."
            raise Refused(400, message, code="too_much_work")


_CHOICES = re.compile(r"\w+(\|\w+)+")
"""A pattern of words to choose from."""


def offered_schema(thinker: Thinker, limits: Limits) -> dict[str, Any]:
    """JSON schema of the options that a request may set, with the server's limits as `maximum`."""
    schema = served_schema(thinker.Options)
    for body in schema["properties"].values():
        pattern = body.pop("served_pattern", "")  # the server's business,
        if _CHOICES.fullmatch(pattern):
            body["enum"] = pattern.split("|")  # unless it is a choice
        bound = body.pop("served_max", None)
        if bound is not None:
            body["maximum"] = min(getattr(limits, bound), body.get("maximum", float("inf")))
    return schema


def served_options(thinker: Thinker, given: Mapping[str, Any], limits: Limits) -> ThinkerOptions:
    """The thinker's options of a request.

    Raises:
        UnknownName: A name that is no option.
        Refused: 400 for an option that is not declared safe for requests, or a value beyond the server's limits.
        InputError: A value of another type or beyond the option's own bounds.
    """
    from thoughtmix.serve.errors import Refused  # web packages: the command line reads limits without them

    if not given:
        return parse_options(thinker.Options, given, thinker.name)
    offered = served_schema(thinker.Options)["properties"]
    given = renamed(thinker.Options, given)
    for name in given:
        if name not in thinker.Options.model_fields:
            raise UnknownName(f"option of thinker {thinker.name!r}:", name[:80], offered)
        if name not in offered:
            known = f"Offered: {', '.join(offered)}." if offered else "This thinker offers none."
            raise Refused(400, f"The option {name} is not for requests. {known}", param="options")
    options = parse_options(thinker.Options, given, thinker.name)
    for name in given:
        value, rules = getattr(options, name), offered[name]
        if "served_pattern" in rules and value is not None:
            for text in (value,) if isinstance(value, str) else value:
                if re.fullmatch(rules["served_pattern"], text) is None:
                    raise Refused(400, f"{name} is {text[:40]!r}: that is not for requests.", param="options")
        if "served_max" in rules and value is not None and value > (most := getattr(limits, rules["served_max"])):
            raise Refused(400, f"{name} is {value}, this server takes up to {most}.", param="options")
    return options
