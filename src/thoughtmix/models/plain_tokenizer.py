"""Tokens and texts by the `tokenizers` library alone: transformers takes longer to import than all else before the
default model's first token, and forty times as long to make a text of a few tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.files import bounded_text, parse_json

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LIMIT = 2**24  # bytes of a file


class PlainTokenizer:
    """What decoding takes of a tokenizer, under the names that transformers has for it.

    Args:
        folder: Made by `packaged`: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`.

    Raises:
        Exception: Whatever a file that is missing or damaged raises.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        config = parse_json(bounded_text(folder / "tokenizer_config.json", _LIMIT))
        self.special_tokens_map: dict[str, str] = {role: config[role] for role in _ROLES if role in config}
        self.chat_template = bounded_text(folder / "chat_template.jinja", _LIMIT)
        self.backend_tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        if None in self.all_special_ids:
            raise ValueError(f"{folder.name} names a special token that its tokenizer does not have")

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> Mapping[str, list[int]]:
        return {"input_ids": self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(
        self, ids: Sequence[int], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str:
        return self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def get_chat_template(self, tools: Any = None) -> str:
        return self.chat_template

    @cached_property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys(self.special_tokens_map.values()))

    @cached_property
    def all_special_ids(self) -> list[int | None]:
        return [self.backend_tokenizer.token_to_id(token) for token in self.all_special_tokens]

    @cached_property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return self.backend_tokenizer.get_added_tokens_decoder()

    def _id(self, role: str) -> int | None:
        token = self.special_tokens_map.get(role)
        return None if token is None else self.backend_tokenizer.token_to_id(token)

    @property
    def bos_token_id(self) -> int | None:
        return self._id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._id("pad_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._id("unk_token")


def decoder_of(tokenizer: Any) -> Callable[[list[int]], str]:
    """Texts of token ids, special tokens left out: what `tokenizer.decode` gives, without what transformers does about
    it where its Rust part does all that counts."""
    if _is_plain(tokenizer):
        backend = tokenizer.backend_tokenizer
        return lambda ids: str(backend.decode(ids, skip_special_tokens=True))
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _is_plain(tokenizer: Any) -> bool:
    """Whether texts are its backend's, unchanged."""
    if isinstance(tokenizer, PlainTokenizer):
        return True
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    kind = type(tokenizer)
    same = isinstance(tokenizer, fast) and kind.decode is fast.decode and kind._decode is fast._decode
    return same and "decode" not in vars(tokenizer)
