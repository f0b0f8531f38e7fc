"""A tiny chat model and directions in its own words, so that each direction is another prompt to it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tiny import language_model, tokenizer

DIRECTIONS = """
[[direction]]
name = "red"
family = "style"
en = { precise = "w40 w41", vague = "w42", chaotic = "w43 w44 w45" }

[[direction]]
name = "green"
family = "angle"
en = "w50 w51"

[[direction]]
name = "blue"
family = "own"
en = "w60"
fr = "w61"
"""
NAMES = "red,green,blue"
IDEA = "w20 w21 w22 w23 w24 w25"


def chat_model(family: str = "llama") -> Any:
    """A tiny random model whose tokenizer has a chat template."""
    from thoughtmix.models import wrap_model

    words = copy.deepcopy(tokenizer())
    words.chat_template = (
        "{% for m in messages %}{{ 'w4' if m['role'] == 'user' else 'w5' }} {{ m['content'] }} w6 {% endfor %}"
        "{% if add_generation_prompt %}w5 {% endif %}"
    )
    return wrap_model(language_model(family).model, words, name=f"tiny-chat-{family}")


def directions(folder: Path) -> str:
    path = folder / "own.toml"
    path.write_text(DIRECTIONS)
    return str(path)
