"""What becomes of each row of a call while vLLM writes it: its text, and where it ends.

Tokens come from vLLM; strings that end a text, the sentence that it lands on and its text are found here, as in our own
loop. So equal tokens give equal thoughts.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, NumericsError
from thoughtmix.core.request import OnStep, StepEvent
from thoughtmix.core.sentences import ends_sentence
from thoughtmix.engine.detokenizer import IncrementalDetokenizer
from thoughtmix.engine.engine import SequenceOutput, SequenceRequest
from thoughtmix.engine.stepping import News, StepThread

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

_PATIENCE = 0.2
"""Seconds of one wait: Ctrl-C must come through on every system."""


def end_ids(model: LanguageModel, sequence: SequenceRequest) -> frozenset[int]:
    """Tokens that end it."""
    return model.eos_ids if sequence.end_ids is None else sequence.end_ids


@dataclass
class _Row:
    """One sequence on its way. text: what it says so far. watched: whether that is needed at every token."""

    sequence: SequenceRequest
    output: SequenceOutput
    text: IncrementalDetokenizer
    ends: frozenset[int]
    watched: bool

    @classmethod
    def of(cls, model: LanguageModel, sequence: SequenceRequest, shown: bool) -> _Row:
        grammar = sequence.grammar
        text = IncrementalDetokenizer(model.tokenizer, sequence.stop, None if grammar is None else grammar.may_be)
        watched = shown or bool(sequence.stop or sequence.landing)
        return cls(sequence, SequenceOutput(), text, end_ids(model, sequence), watched)

    @property
    def ended(self) -> bool:
        return self.output.finish != "cancelled"

    def take(self, done: Any, top_logprobs: int) -> None:
        """Note vLLM's new tokens, up to where the row ends. done: its `CompletionOutput`, in pieces."""
        output = self.output
        for token, known in zip(done.token_ids, done.logprobs, strict=True):
            if self.ended:
                return
            logprob = known[token].logprob
            if math.isnan(logprob):
                raise NumericsError("The model gave NaN.", "Load it in another number type (--dtype float32).")
            output.token_ids.append(token)
            output.logprobs.append(logprob)
            if top_logprobs:
                best = sorted(known.items(), key=lambda item: item[1].rank)[:top_logprobs]
                output.top.append(([i for i, _ in best], [value.logprob for _, value in best]))
            self._end_at(token)
        if done.finish_reason is not None and not self.ended:
            output.finish = "length" if done.finish_reason == "length" else "stop"

    def _end_at(self, token: int) -> None:
        output, sequence = self.output, self.sequence
        first = max(1, sequence.max_new_tokens - sequence.landing)
        if token in self.ends:
            output.finish = "stop"
        elif not self.watched:
            self.text.ids.append(token)
        elif self.text.push(token):
            output.finish = "stop"
        elif sequence.landing and len(output.token_ids) >= first and ends_sentence(self.text.text):
            output.finish = "sentence"

    def close(self) -> None:
        """Its whole text; one that was cut ends with its last sentence, where that is wanted."""
        self.output.text = self.text.finish()
        if self.sequence.landing and self.output.finish == "length":
            self.output.cut_back(self.text.tokens_of)


class RowsAtWork:
    """The rows of one call.

    Args:
        model: Whose tokenizer and end tokens count.
        sequences: One a row.
        top_logprobs: How many likeliest tokens to note at each step.
        on_step: As of `Engine.generate`.
    """

    def __init__(
        self, model: LanguageModel, sequences: Sequence[SequenceRequest], top_logprobs: int, on_step: OnStep | None
    ) -> None:
        self.rows = [_Row.of(model, sequence, on_step is not None) for sequence in sequences]
        self.top_logprobs, self.on_step = top_logprobs, on_step
        self.interrupted = False
        self.cached = 0
        """Tokens of prompts that vLLM had read before."""
        self._total = sum(sequence.max_new_tokens for sequence in sequences)
        self._counted: set[int] = set()

    @property
    def outputs(self) -> list[SequenceOutput]:
        return [row.output for row in self.rows]

    def follow(self, steps: StepThread, requests: Sequence[tuple[Any, Any, Any]]) -> None:
        """Let them be written to their ends.

        Args:
            steps: Writes them.
            requests: What it is given of each row, see `StepThread.submit`.

        Raises:
            InputError: vLLM refuses a request.
            BaseException: What it, or `on_step`, raises.
        """
        submission = steps.submit(requests)
        try:
            while not all(row.ended for row in self.rows):
                try:
                    news = submission.news.get(timeout=_PATIENCE)
                except queue.Empty:
                    continue
                early = self._take(news)
                if early:
                    steps.abort(submission, early)
        except KeyboardInterrupt:
            self.interrupted = True
            steps.abort(submission, range(len(self.rows)))
        except BaseException:
            steps.abort(submission, range(len(self.rows)))
            raise
        for row in self.rows:
            row.close()

    def _take(self, news: News) -> list[int]:
        """Note what a step brought. Gives the rows that end here and that vLLM would go on with."""
        if isinstance(news, BaseException):
            if isinstance(news, (ValueError, TypeError)):
                said = str(news).partition("\n")[0][:200].rstrip(".")
                raise InputError(f"vLLM refuses the request: {said}.", "Change it, or type --engine local.") from news
            raise news
        early, before = [], [row.ended for row in self.rows]
        for i, answer in news:
            if i not in self._counted:
                self._counted.add(i)
                self.cached += answer.num_cached_tokens or 0
            self.rows[i].take(answer.outputs[0], self.top_logprobs)
            if self.rows[i].ended and not answer.finished:
                early.append(i)
        if self.on_step is not None:
            self._report(self.on_step, before)
        return early

    def _report(self, on_step: OnStep, before: Sequence[bool]) -> None:
        pieces = []
        for row, ended in zip(self.rows, before, strict=True):
            if row.ended and not ended:
                row.text.finish()
            pieces.append("" if ended else row.text.piece(final=row.ended))
        done = sum(len(row.output.token_ids) for row in self.rows)
        on_step(StepEvent(pieces, done, self._total, [row.ended for row in self.rows], outputs=self.outputs))
