"""Which part of a text each token stands for: tokens may split a character, and a stop string may split a token."""

from __future__ import annotations

import codecs
import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thoughtmix.core.types import Thought
from thoughtmix.engine.detokenizer import IncrementalDetokenizer
from thoughtmix.models import LanguageModel

HALF = "\N{REPLACEMENT CHARACTER}"
"""What decoders write for bytes that are no whole character."""
_REPLACED = re.compile(f"{HALF}+")  # decoders differ in how many they write for bytes in a row
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Draw:
    """A token that was drawn, its log-probability, and the likeliest tokens with theirs."""

    id: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A drawn token and its part of the text."""

    draw: Draw
    piece: str
    """Pieces join to the text: of a character that several tokens make, the last has all."""
    offset: int
    """Where the piece begins, in characters."""
    bytes: bytes
    """Its own bytes, which join to the text as UTF-8. None of a special token, which the text leaves out."""


class Vocabulary:
    """What the tokens of a model stand for by themselves."""

    def __init__(self, lm: LanguageModel) -> None:
        self.tokenizer: Any = lm.tokenizer
        self.end_ids = lm.eos_ids if lm.causal else frozenset[int]()
        self._added = lm.tokenizer.added_tokens_decoder
        self._decoder = _decoder_steps(lm.tokenizer)

    def token_text(self, token: int) -> str:
        """A token alone; one that is no whole characters as OpenAI writes it: bytes:\\xf0\\x9f."""
        own = self.token_bytes(token)
        if not own:  # special, or of a tokenizer whose tokens have no bytes of their own
            return str(self.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        try:
            return own.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in own)

    def token_bytes(self, token: int) -> bytes | None:
        """What a token adds to a text: b"" of special tokens, None where only its neighbours say."""
        added = self._added.get(token)
        if added is not None:
            return b"" if added.special else str(added.content).encode()
        if not self._decoder:
            return None
        text = self.tokenizer.convert_ids_to_tokens(token)
        if text is None:  # models may have more ids than their tokenizer has tokens
            return b""
        if "ByteLevel" in self._decoder:
            table = _byte_of_character()
            return bytes(table[c] for c in text) if all(c in table for c in text) else text.encode()
        byte = _BYTE_TOKEN.fullmatch(text) if "ByteFallback" in self._decoder else None
        return bytes([int(byte[1], 16)]) if byte else text.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def _decoder_steps(tokenizer: Any) -> frozenset[str]:
    """Of the tokenizer's decoder, if its tokens have bytes of their own: byte-level BPE, or SentencePiece."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return frozenset()
    found = json.loads(decoder.__getstate__())
    steps = frozenset(step["type"] for step in found.get("decoders", [found]))
    return steps if steps & {"ByteLevel", "ByteFallback", "Metaspace"} else frozenset()


def without_half_character(thought: Thought, vocabulary: Vocabulary) -> Thought:
    """The thought; if the end of its tokens came within a character, its text ends before that."""
    if thought.finish == "stop" or not thought.text.endswith(HALF):
        return thought
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(b"".join(vocabulary.token_bytes(token) or b"" for token in thought.token_ids))
    unfinished, _ = decoder.getstate()
    return dataclasses.replace(thought, text=thought.text.rstrip(HALF)) if unfinished else thought


def draws_of(thought: Thought, top: Sequence[tuple[Sequence[int], Sequence[float]]], most: int) -> list[Draw]:
    """The draws of a whole thought. top: of each token the likeliest ids and their log-probabilities; most: how many of
    them are wanted. [] where the thinker gives no log-probabilities."""
    if len(thought.token_logprobs) != len(thought.token_ids):
        return []
    likeliest = [list(zip(*row, strict=True))[:most] for row in top] or [[]] * len(thought.token_ids)
    rows = zip(thought.token_ids, thought.token_logprobs, likeliest, strict=True)
    return [Draw(id, logprob, row) for id, logprob, row in rows]


class TokenPlacer:
    """Finds the places of a growing text's tokens.

    Feed it the draws as they come (`add`); take those whose text is shown (`take`), at last the rest (`finish`). Tokens
    past the end of the text (of a stop string, say) and the one that ended it have no place.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.seen = 0
        """Draws that were added."""
        self._vocabulary = vocabulary
        self._row = IncrementalDetokenizer(vocabulary.tokenizer)
        self._open: list[Draw] = []  # whose text is not settled: half a character, say
        self._groups: list[tuple[list[Draw], str]] = []  # settled and not yet taken, with their text
        self._offset = 0  # of what was taken

    def add(self, draws: Sequence[Draw]) -> None:
        """The next tokens."""
        for draw in draws:
            self.seen += 1
            if draw.id in self._vocabulary.end_ids:
                continue
            before = len(self._row.text)
            self._row.push(draw.id)
            self._open.append(draw)
            if len(self._row.text) > before:
                self._groups.append((self._open, self._row.text[before:]))
                self._open = []

    def take(self, shown: int) -> list[PlacedToken]:
        """The next tokens whose text lies within the first `shown` characters."""
        placed: list[PlacedToken] = []
        while self._groups and self._offset + len(self._groups[0][1]) <= shown:
            placed += self._place(*self._groups.pop(0))
        return placed

    def finish(self, text: str) -> list[PlacedToken]:
        """The rest, of the text as it stands in the end."""
        settled = len(self._row.text)
        whole = self._row.finish()
        if self._open:
            self._groups.append((self._open, whole[settled:]))
            self._open = []
        if not whole.startswith(text):
            text = whole  # a thinker whose texts are not what its tokens say
        placed: list[PlacedToken] = []
        groups, self._groups = self._groups, []
        for draws, piece in groups:
            left = len(text) - self._offset
            if left <= 0 and len(text) < len(whole):
                break
            placed += self._place(draws, piece[:left])
        return placed

    def _place(self, draws: list[Draw], piece: str) -> list[PlacedToken]:
        start, self._offset = self._offset, self._offset + len(piece)
        parts = _split(piece, [self._vocabulary.token_bytes(draw.id) for draw in draws])
        pieces = [""] * (len(draws) - 1) + [piece]
        return [PlacedToken(d, p, start, b) for d, p, b in zip(draws, pieces, parts, strict=True)]


def _split(text: str, own: list[bytes | None]) -> list[bytes]:
    """The bytes of a text, each to the token that has it. Tokenizers may leave out a space at the beginning, and a stop
    string the end. What the tokens' bytes do not explain goes to the last."""
    known = [part for part in own if part is not None]
    joined = b"".join(known)
    for skip in (0, 1) if joined.startswith(b" ") else (0,):
        wanted = joined[skip:]
        cut = wanted.startswith(text.encode("utf-8", "replace"))
        same = _REPLACED.sub("?", text) == _REPLACED.sub("?", wanted.decode("utf-8", "replace"))
        if len(known) == len(own) and (cut or same):
            end = skip + (len(text.encode()) if cut else len(wanted))
            parts, at = [], 0
            for part in known:
                parts.append(part[max(0, skip - at) : max(0, end - at)])
                at += len(part)
            return parts
    return [b""] * (len(own) - 1) + [text.encode("utf-8", "replace")]


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as a character that can be seen (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
