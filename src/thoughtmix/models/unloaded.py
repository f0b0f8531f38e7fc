"""The default model before it is laid out: what decoding on its known path takes, and the model itself on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.models.language import LanguageModel
from thoughtmix.models.plain_tokenizer import PlainTokenizer
from thoughtmix.models.text_encoder import TextEncoder
from thoughtmix.models.tried import FusedFacts

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class UnloadedModel(LanguageModel):
    """A model whose quickest path is known (`tried`), so that it need not be laid out for decoding.

    It is a `LanguageModel` like any other: who asks for `model` gets the Hugging Face model, loaded at that moment, and
    who asks for `tokenizer` that. Neither is loaded in a thread of ours: while one thread imports transformers, which
    puts another object in its module's place, an import in another may get the first and fail.

    Args:
        facts: What is known of the path.
        folder: The ready folder in the user's cache.
        load: Loads model and tokenizer as ever.
        title, languages: As of a `LanguageModel`.
    """

    def __init__(
        self,
        facts: FusedFacts,
        folder: Path,
        load: Callable[[], LanguageModel],
        title: str,
        languages: tuple[str, ...] = (),
    ) -> None:
        known = {"context_length": facts.context_length, "eos_ids": frozenset(facts.eos_ids)}
        given = {"name": title, "is_default": True, "causal": True, "virtual": (), "languages": languages}
        vars(self).update(given, **known, encoder_decoder=False, vocabulary=facts.vocabulary)
        vars(self)["kv_numbers"] = 2 * facts.layers * facts.kv_heads * facts.head_width
        vars(self).update(facts=facts, folder=folder, _load=load, _lock=threading.Lock(), _loaded=None)
        vars(self).update(_tokenizer=None, _plain=None, _encoder=None)

    facts: FusedFacts
    folder: Path
    _load: Callable[[], LanguageModel]
    _lock: threading.Lock
    _loaded: LanguageModel | None
    _tokenizer: Any
    _plain: PlainTokenizer | bool | None  # False: it cannot be read
    _encoder: TextEncoder | None

    @property
    def is_loaded(self) -> bool:
        """Whether somebody has asked for the model itself."""
        return self._loaded is not None

    @property
    def is_changed(self) -> bool:
        """Whether it was loaded, and weights were replaced or written in place since, or put in."""
        lm = self._loaded
        return lm is not None and (lm.pristine is None or not lm.pristine.fits(lm.model))

    def _whole(self) -> LanguageModel:
        with self._lock:
            if self._loaded is None:
                vars(self)["_loaded"] = self._load()
            assert self._loaded is not None
            return self._loaded

    @property
    def model(self) -> PreTrainedModel:
        return self._whole().model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            try:
                found = read_tokenizer(self.folder)
            except Exception:  # loading the whole mends what is damaged, or says what is wrong
                found = self._whole().tokenizer
            with self._lock:  # the first stays, whoever was first
                vars(self)["_tokenizer"] = found if self._tokenizer is None else self._tokenizer
        return self._tokenizer

    @property
    def codec(self) -> Any:
        """The tokenizer, once it is there: who has it may have changed it."""
        with self._lock:
            if self._tokenizer is None and self._plain is None:
                try:
                    vars(self)["_plain"] = PlainTokenizer(self.folder)
                except Exception:  # loading the whole mends what is damaged, or says what is wrong
                    vars(self)["_plain"] = False
            plain = self._plain if self._tokenizer is None else None
        return plain or self.tokenizer

    @property
    def encoder(self) -> TextEncoder:  # as long as the codec is the same
        codec = self.codec
        with self._lock:
            if self._encoder is None or self._encoder.tokenizer is not codec:
                vars(self)["_encoder"] = TextEncoder(codec, self.name)
            assert self._encoder is not None
            return self._encoder

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float32

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name, read from the file when they are used: it is mapped into memory."""
        from safetensors import safe_open

        with safe_open(self.folder / "model.safetensors", framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder that `packaged` made of a GGUF file: transformers' own, without asking which of all
    classes it is."""
    from transformers import PreTrainedTokenizerFast

    kind: Any = PreTrainedTokenizerFast
    return kind.from_pretrained(str(folder), local_files_only=True)
