"""A tiny model whose tokens are characters and a few strings of them, as grammars need: byte-level BPE in small."""

from __future__ import annotations

import functools
from typing import Any

from tiny import VOCABULARY, fresh
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_MERGES = ["{ \"", "\" :", "\" ,", ": Ġ", "\" }", "t r", "u e", "tr ue", "a b", "ab c", "b c", "1 2", "Ġ \"", "n u", "l l", "nu ll"]  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@functools.cache
def tokenizer(template: str = "") -> PreTrainedTokenizerFast:
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    words = ["<pad>", "<s>", "</s>", *letters, *(m.replace(" ", "") for m in _MERGES)]
    assert len(words) <= VOCABULARY
    merges: Any = [tuple(m.split(" ")) for m in _MERGES]
    backend = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if template:
        made.chat_template = template
    return made


def lettered_model(family: str = "llama", seed: int = 0, template: str = "") -> Any:
    from thoughtmix.models import wrap_model

    return wrap_model(_longer(family, seed), tokenizer(template), name=f"lettered-{family}")


@functools.cache
def _longer(family: str, seed: int) -> Any:
    """Prompts of characters are long."""
    model: Any = fresh(family, seed)
    model.config.max_position_embeddings = 4096
    return model
