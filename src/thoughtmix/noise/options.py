"""The thinker's own options, from text or Python values to ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.noise.asking import Way
from thoughtmix.noise.catalogue import Catalogue, check, most_different
from thoughtmix.noise.words import check as check_words

if TYPE_CHECKING:
    from thoughtmix.models import Embedder

ORDERS = ("families", "different")
HELP = {
    "families": "style, angle, constraint, creative (default: all), with commas; their directions take turns",
    "directions": "names with commas (see `thoughtmix noise --list`); poem+critic: both at once",
    "strength": "precise (default), vague or chaotic",
    "language": "en (default) or fr: of the instructions",
    "order": "families (default) take turns, or different: the n most different instructions first",
    "file": "TOML files with directions of your own, with commas",
    "tokens": "share of the idea's words that become holes to fill in; alone, or with directions",
    "mask": "random words (default), or span: stretches of them",
}


def ways(options: Mapping[str, Any], embedder: Callable[[], Embedder]) -> list[Way]:
    """What the thoughts take turns at: the thought of seed s goes way s mod len. Raises `InputError`, `UnknownName`."""
    strength, language = str(options.get("strength", "precise")), str(options.get("language", "en"))
    check(strength, language)
    how, order = str(options.get("mask", "random")), str(options.get("order", "families"))
    tokens = check_words(options["tokens"], how) if "tokens" in options else 0.0
    families, names = listed(options, "families"), listed(options, "directions")
    if order not in ORDERS:
        raise UnknownName("order", order, ORDERS)
    if tokens and not families and not names:
        return [Way((), strength, language, tokens, how)]
    choices = Catalogue.load(*listed(options, "file")).choose(families, names)
    for choice in choices:
        for direction in choice:
            direction.instruction(strength, language)  # a user's own may lack one: said before a model works
    if order == "different":
        choices = most_different(choices, embedder(), strength, language)
    return [Way(choice, strength, language, tokens, how) for choice in choices]


def turns(found: Sequence[Way], seeds: Sequence[int]) -> list[Way]:
    """Each seed's way: neighbours go different ways, and a seed's does not depend on how many there are."""
    return [found[seed % len(found)] for seed in seeds]


def listed(options: Mapping[str, Any], name: str) -> list[str]:
    """ "a,b" or ["a", "b"] -> ["a", "b"]. Raises `InputError`."""
    value = options.get(name, ())
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(p, str) and p.strip() for p in parts):
        raise InputError(f"{name} is {value!r}.", f"Pass names with commas ({name}=a,b).")
    return [p.strip() for p in parts]


def whole(options: Mapping[str, Any], name: str, default: int | None, least: int = 0) -> int | None:
    """A whole number of at least `least`. Raises `InputError`."""
    value = options.get(name, default)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}.", f"Pass a whole number of {least} or more (--option {name}=...).")
    return value
