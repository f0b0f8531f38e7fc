"""The options of thinkers that disturb texts, and what the thoughts take turns at by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from thoughtmix.core.options import Names, ThinkerOptions, option
from thoughtmix.core.request import TextEmbedder
from thoughtmix.noise.asking import Way
from thoughtmix.noise.catalogue import Catalogue, most_different


class NoiseOptions(ThinkerOptions):
    """How texts are disturbed: what `noise` and the refining stage of `hybrid` have in common."""

    families: Names = option(
        (),
        "style, angle, constraint, creative, with commas (all when left out); their directions take turns",
        served=True,
    )
    directions: Names = option(
        (), "Names with commas (see `thoughtmix noise --list`); poem+critic: both at once", served=True
    )
    strength: Literal["precise", "vague", "chaotic"] = option(
        "precise", "How the instructions are worded", served=True, role="strength"
    )
    language: Literal["en", "fr"] = option("en", "Of the instructions: en or fr", served=True, role="language")
    order: Literal["families", "different"] = option(
        "families", "families take turns, or different: the n most different instructions first", served=True
    )
    file: Names = option((), "TOML files with directions of your own, with commas")
    tokens: float | None = option(
        None,
        "Share of the idea's words that become holes to fill in; alone, or with directions",
        served=True,
        gt=0,
        le=1,
    )
    mask: Literal["random", "span"] = option(
        "random", "Which words: random ones, or span: stretches of them", served=True
    )


def ways(options: NoiseOptions, embedder: Callable[[], TextEmbedder]) -> list[Way]:
    """What the thoughts take turns at: the thought of seed s goes way s mod len. Raises `InputError`, `UnknownName`."""
    tokens = options.tokens or 0.0
    if tokens and not options.families and not options.directions:
        return [Way((), options.strength, options.language, tokens, options.mask)]
    choices = Catalogue.load(*options.file).choose(options.families, options.directions)
    for choice in choices:
        for direction in choice:
            direction.instruction(options.strength, options.language)  # a user's own may lack one: said at once
    if options.order == "different":
        choices = most_different(choices, embedder(), options.strength, options.language)
    return [Way(choice, options.strength, options.language, tokens, options.mask) for choice in choices]


def turns(found: Sequence[Way], seeds: Sequence[int]) -> list[Way]:
    """Each seed's way: neighbours go different ways, and a seed's does not depend on how many there are."""
    return [found[seed % len(found)] for seed in seeds]
