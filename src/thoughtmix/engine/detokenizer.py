"""Text of a growing thought: new pieces as tokens arrive, and where a stop string begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from thoughtmix.models.plain_tokenizer import decoder_of


class IncrementalDetokenizer:
    """Decodes one row step by step. A piece is held back while it may still change (half a character)
    or may be the beginning of a stop string. whole: whether a text may end, where not every text may: a stop string
    ends it only behind such a one. before: tokens that it goes on behind: tokenizers leave out the space that a text
    begins with, which a text that is continued needs."""

    def __init__(
        self,
        tokenizer: Any,
        stop: tuple[str, ...] = (),
        whole: Callable[[str], bool] | None = None,
        before: Sequence[int] = (),
    ) -> None:
        self.stop, self._whole, self._decode = stop, whole, decoder_of(tokenizer)
        self._before = list(before)
        self.ids: list[int] = []
        self.text = ""  # settled text, a stop string cut off
        self.stopped = False
        self._settled = 0  # ids whose text is in `text`
        self._context = 0  # decode from here: tokenizers need a little left context for spaces
        self._shown = 0

    def push(self, token: int) -> bool:
        """Add a token; True when a stop string is now complete."""
        self.ids.append(token)
        lead = self._before if self._context == 0 else []
        before = self._decode(lead + self.ids[self._context : self._settled])
        now = self._decode(lead + self.ids[self._context :])
        if len(now) > len(before) and not now.endswith("\N{REPLACEMENT CHARACTER}"):
            self.text += now[len(before) :]
            self._context, self._settled = self._settled, len(self.ids)
            self._cut()
        return self.stopped

    def finish(self) -> str:
        """The whole text: everything decoded together, cut at the stop string if one came."""
        if not self.stopped:
            self.text = self._own(self.ids)
            self._cut()
        return self.text

    def tokens_of(self, end: int) -> int:
        """How many of its tokens the first `end` characters of its text take."""
        count = len(self.ids)
        while count > 1 and len(self._own(self.ids[: count - 1])) >= end:
            count -= 1
        return count

    def piece(self, final: bool = False) -> str:
        """What can be shown now and was not before."""
        end = len(self.text)
        if not final and not self.stopped:  # hold back what may grow into a stop string
            held = max((k for s in self.stop for k in range(1, len(s)) if self.text.endswith(s[:k])), default=0)
            end -= held
        piece = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _cut(self) -> None:
        found = sorted(at for s in self.stop for at in self._places(s))
        end = next((at for at in found if self._whole is None or self._whole(self.text[:at])), None)
        if end is not None:
            self.text, self.stopped = self.text[:end], True

    def _places(self, stop: str) -> Iterator[int]:
        at = self.text.find(stop)
        while at >= 0:
            yield at
            at = -1 if self._whole is None else self.text.find(stop, at + 1)

    def _own(self, ids: list[int]) -> str:
        """Their text behind what they go on with."""
        lead = len(self._decode(self._before)) if self._before else 0
        return self._decode(self._before + ids)[lead:]
