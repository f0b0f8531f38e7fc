"""Training text and what turns it into tokens.

Text is read, checked and split; the splits are contiguous, since neighbouring windows of one text are near copies.
Tokenizers are trained with the model: one token a character, or byte-level BPE.
"""

from __future__ import annotations

import hashlib
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thoughtmix.core.errors import InputError, ThoughtmixError
from thoughtmix.core.files import bounded_text, write_whole, writing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAMED = {
    "tiny-shakespeare": (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    )
}
"""Texts that can be fetched by name: address and SHA-256. Nothing is fetched unless its name is given."""

_LONGEST = 2**33  # bytes of a training text

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # what a character that was not in the training text becomes


@dataclass(frozen=True, slots=True)
class Splits:
    """Three parts of a text: what models learn from, what training may look at, and what nothing may look at before
    the report."""

    train: str
    validation: str
    held_out: str


def read_text(source: str) -> str:
    """Read a UTF-8 file, or one of `NAMED` by its name, which is fetched once and its checksum verified.

    Raises:
        InputError: The file is missing, empty or not UTF-8.
        ThoughtmixError: Fetching failed.
    """
    path = Path(source)
    if not path.exists() and source in NAMED:
        path = _fetch(source)
    try:
        text = bounded_text(path, _LONGEST)
    except FileNotFoundError:
        raise InputError(
            f"There is no file {source}.", f"Pass a text file, or a name: {', '.join(NAMED)} (--data)."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error))
        raise InputError(f"{source} cannot be read: {why}.", "Pass a UTF-8 text file (--data).") from None
    if not text.strip():
        raise InputError(f"{source} is empty.", "Pass a file with text (--data).")
    return text


def split(text: str, validation: float = 0.1, held_out: float = 0.0) -> Splits:
    """Cut a text into the part to train on, then the share held out, then the validation share.

    Validation comes last, so that it is what nanoGPT validates on, whatever is held out.

    Raises:
        InputError: The shares leave nothing to train on.
    """
    if not (0 < validation < 1 and 0 <= held_out < 1 and validation + held_out < 1):
        raise InputError(f"Shares {validation} and {held_out} leave nothing to train on.", "Pass shares below 1.")
    end = int(len(text) * (1 - validation))
    begin = int(len(text) * (1 - validation - held_out))
    return Splits(text[:begin], text[end:], text[begin:end])


def _fetch(name: str) -> Path:
    from thoughtmix.models import cache_dir

    address, digest = NAMED[name]
    target = cache_dir() / "data" / f"{name}.txt"
    if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == digest:
        return target
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            body = answer.read()
    except OSError as error:
        raise ThoughtmixError(f"{name} cannot be fetched: {error}.", "Pass the file instead: --data FILE.") from None
    if hashlib.sha256(body).hexdigest() != digest:
        raise ThoughtmixError(f"{name} was fetched but is not the pinned text.", "Pass the file instead: --data FILE.")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, body)
    return target


def character_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token for each character of `text`, in code-point order, and one for all others."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(set(text) - {UNKNOWN})
    backend = Tokenizer(models.WordLevel({c: i for i, c in enumerate([*letters, UNKNOWN])}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=UNKNOWN, clean_up_tokenization_spaces=False)


def bpe_tokenizer(text: str, size: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE of `size` tokens on `text` (Sennrich et al. 2016; Radford et al. 2019); it loses nothing.

    Raises:
        InputError: `size` is too small for every byte to have a token.
    """
    from tokenizers import ByteLevelBPETokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if size < 257:
        raise InputError(f"A byte-level vocabulary of {size}.", "Pass --vocabulary 257 or more (4096).")
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(text.splitlines(keepends=True), vocab_size=size, show_progress=False)
    backend = trainer._tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)
