"""Options that once had another name. The old one still works wherever it may have been typed, and says the new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

_TRAINED = {"width": "hidden_size"}
_LIMITS = {
    "thoughts": "request_thoughts",
    "tokens": "request_tokens",
    "seconds": "request_seconds",
    "texts": "map_texts",
}
RENAMED: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("think",): {"ray": "ray_workers"},
    ("noise",): {"tokens": "holes"},
    ("search",): {"budget_tokens": "budget", "tokens": "budget"},
    ("diffuse",): {"select": "compete", "strength": "sharpness", "length": "max_new_tokens"},
    ("renoise",): {"how": "mask"},
    ("graft",): {"layers": "blocks"},
    ("export",): {"thoughts": "n"},
    ("tune",): {"strength": "reach"},
    ("train",): _TRAINED,
    ("experiment",): {**_TRAINED, "tokens": "max_new_tokens", "prompts": "limit"},
    ("cost",): {
        "tokens": "pretrain_tokens",
        "sequence": "context",
        "tune_sequence": "tune_context",
        "batch": "batch_size",
        "thoughts": "n",
        "list_gpus": "list",
    },
    ("bench",): {"ladders": "grids"},
    ("serve",): _LIMITS,
    ("pull",): {"embedder": "measure", "no_embedder": "no_measure"},
    ("experts", "think"): {"strength": "boost"},
    ("experts", "map"): {"max_tokens": "text_tokens", "profiles": "save"},
}
"""Path of a command -> what its options were called -> what they are called; those of the thinker that `think` names
stand in its `Options`. No command has an option of an old name of its own."""


def flag(name: str) -> str:
    """--some-name."""
    return f"--{name.replace('_', '-')}"


def respelled(args: Sequence[str], old: Mapping[str, str], tell: Callable[[str], None]) -> list[str]:
    """The words of a command line with today's names of options.

    Args:
        args: As typed.
        old: Names that options once had -> those that they have.
        tell: Is given a line for each old one.
    """
    now = {flag(before): flag(after) for before, after in old.items()}
    out: list[str] = []
    for i, word in enumerate(args):
        if word == "--":
            return [*out, *args[i:]]
        name, equals, value = word.partition("=")
        if name in now:
            tell(f"{name} is {now[name]} now.")
            word = f"{now[name]}{equals}{value}"
        out.append(word)
    return out
