"""Grammars over a model's tokens: compiled once, followed by any number of texts.

A grammar says which bytes may come next; the tokens that may are those that begin with such bytes. `llguidance` walks
the tokens as a trie beside its parser (Moskal et al.), in about 10 microseconds a text and step.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.grammar import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_KEPT = 64  # grammars


class GrammarCompiler:
    """For one tokenizer. Safe for many threads.

    Args:
        tokenizer: Of the model.
        name: What errors call the model.
        size: How many tokens the model tells apart.
    """

    def __init__(self, tokenizer: Any, name: str, size: int) -> None:
        self.tokenizer, self.name, self.size = tokenizer, name, max(size, len(tokenizer))
        self._lock = threading.Lock()
        self._known: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._tokens: LLTokenizer | None = None

    def matcher(self, grammar: Grammar) -> LLMatcher:
        """At the beginning of a text, the caller's own.

        Raises:
            InputError: The grammar is too large, or the tokens of this model have no bytes of their own.
        """
        from llguidance import LLMatcher

        tokens = self.tokens
        with self._lock:
            known = self._known.get(grammar)
            if known is not None:
                self._known.move_to_end(grammar)
        if known is None:
            known = LLMatcher(tokens, grammar.source, log_level=0)
            if known.is_error():
                said = known.get_error().partition("\n")[0][:300]
                raise InputError(f"The grammar cannot be followed: {said}.", "Write a smaller one.")
            with self._lock:
                self._known[grammar] = known
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return known.deep_copy()

    def whole(self, grammar: Grammar, text: str) -> bool:
        """Whether a text is all that the grammar asks for."""
        matcher = self.matcher(grammar)
        ids = self.tokens.tokenize_str(text)
        return (not ids or matcher.consume_tokens(ids)) and matcher.is_accepting()

    @property
    def tokens(self) -> LLTokenizer:
        """The tokens as bytes; made by who asks first, in about a second for 50,000."""
        with self._lock:
            if self._tokens is None:
                self._tokens = self._read()
            return self._tokens

    def _read(self) -> LLTokenizer:
        from llguidance import LLTokenizer
        from tokenizers import Tokenizer

        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        cannot = InputError(f"The tokens of {self.name} have no bytes that a grammar could tell.", "Leave it out.")
        if not isinstance(backend, Tokenizer) or not _has_bytes(backend):
            raise cannot
        state = json.loads(backend.to_str())
        state["padding"] = state["truncation"] = None
        ends = self.tokenizer.eos_token_id
        try:
            return LLTokenizer(json.dumps(state), n_vocab=self.size, eos_token=0 if ends is None else ends)
        except Exception:  # the library raises plain exceptions
            raise cannot from None


def _has_bytes(backend: Any) -> bool:
    """Whether a token's bytes are the same wherever it stands: byte-level BPE and SentencePiece."""
    if backend.decoder is None:
        return False
    found = json.loads(backend.decoder.__getstate__())
    steps = {step["type"] for step in found.get("decoders", [found])}
    return bool(steps & {"ByteLevel", "ByteFallback", "Metaspace"})
