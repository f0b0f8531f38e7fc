"""Semantic noise: disturb an idea on purpose, in n directions at once.

    from thoughtmix.noise import SemanticNoiser
    noiser = SemanticNoiser()  # or SemanticNoiser("org/name"), SemanticNoiser(endpoint="http://localhost:8000")
    noiser.add_creative_noise("Open a cafe where people repair things.", "metaphor")
    noiser.disturb("Open a cafe where people repair things.", n=8)

Importing this needs no torch.
"""

from thoughtmix.core.lazy import lazy_names

__all__ = ["LANGUAGES", "STRENGTHS", "Catalogue", "Direction", "SemanticNoiser", "most_different"]

_HOME = {
    "LANGUAGES": "noise.catalogue",
    "STRENGTHS": "noise.catalogue",
    "Catalogue": "noise.catalogue",
    "Direction": "noise.catalogue",
    "SemanticNoiser": "methods",
    "most_different": "noise.catalogue",
}
__getattr__, __dir__ = lazy_names("thoughtmix", _HOME)
