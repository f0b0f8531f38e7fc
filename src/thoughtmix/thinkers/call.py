"""A thinker's options, from what the caller of `Pipeline` gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions, parse_options
from thoughtmix.core.request import SETTINGS
from thoughtmix.thinkers.base import Thinker

_CALL = frozenset({"thinker", "options", "raw", "measure"})  # further names of `Pipeline.__call__`
ELSEWHERE = {
    "select": "select is a method of the result: think(...).select(k), or --select k.",
    "do_sample": "Pass temperature=0 for the likeliest answer.",
}
"""Names that people try and that no spelling is near, with what to type."""
MEANT = {
    **dict.fromkeys(("max_tokens", "max_length", "length", "num_tokens"), "max_new_tokens"),
    **dict.fromkeys(
        ("num_return_sequences", "num_thoughts", "n_thoughts", "num", "count", "samples", "num_samples"), "n"
    ),
    **dict.fromkeys(("temp", "heat"), "temperature"),
    **dict.fromkeys(("random_seed", "random_state"), "seed"),
    **dict.fromkeys(("method", "strategy", "mode"), "thinker"),
    **dict.fromkeys(("stop_sequences", "stop_strings", "stop_words"), "stop"),
    **dict.fromkeys(("response_format", "schema"), "json_schema"),
}
"""What other programs call a setting -> what it is called here."""


def typed_options(
    thinker: Thinker, options: Mapping[str, Any] | ThinkerOptions | None, more: Mapping[str, Any]
) -> ThinkerOptions:
    """A thinker's options from what a caller gave: `options`, and names that are no settings of the call.

    Raises:
        UnknownName: A name that is neither; looked up among all settings and options.
        InputError: A value that does not fit, or one that was given twice.
    """
    if options is not None and not isinstance(options, (Mapping, ThinkerOptions)):
        raise InputError(f"options is {options!r}.", "Pass names with values: options={'width': 6}.")
    if isinstance(options, ThinkerOptions):
        if more or not isinstance(options, thinker.Options):
            raise InputError(
                f"options is a {type(options).__qualname__}, and {', '.join(more) or 'the thinker is another'}.",
                f"Pass all options of {thinker.name} in one place: options=dict(...).",
            )
        return options
    twice = set(more) & set(options or {})
    if twice:
        raise InputError(f"{min(twice)} was given twice.", "Pass it in options, or by its name.")
    for name in set(options or {}).union(more) - {*thinker.Options.model_fields, *thinker.Options.old_names()}:
        if name in ELSEWHERE:
            raise InputError(f"Unknown setting {name!r}.", ELSEWHERE[name])
        if name in MEANT:
            raise InputError(f"Unknown setting {name!r}.", f"Did you mean {MEANT[name]!r}?")
        if name in SETTINGS:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{name} is no option of {thinker.name}.", f"Pass it beside the options: {name}=... ({flag})."
            )
    return parse_options(thinker.Options, {**(options or {}), **more}, thinker.name, [*SETTINGS, *_CALL])
