"""Tokenizers that are trained with a model: one token a character, or byte-level BPE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # what a character that was not in the training text becomes


def character_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """One token for each character of `text`, in code-point order, and one for all others."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(set(text) - {UNKNOWN})
    backend = Tokenizer(models.WordLevel({c: i for i, c in enumerate([*letters, UNKNOWN])}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=UNKNOWN, clean_up_tokenization_spaces=False)


def bpe_tokenizer(text: str, size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `size` tokens (Sennrich et al. 2016; Radford et al. 2019), trained on `text`; loses nothing."""
    from tokenizers import ByteLevelBPETokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if size < 257:
        raise InputError(f"A byte-level vocabulary of {size}.", "Pass --vocabulary 257 or more (4096).")
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(text.splitlines(keepends=True), vocab_size=size, show_progress=False)
    backend = trainer._tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)
