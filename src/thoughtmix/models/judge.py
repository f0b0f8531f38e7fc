"""A judge behind an endpoint: the probability that it says yes to a question about an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from thoughtmix.models.chat import ChatReply, ChatRequest
from thoughtmix.models.endpoint import Endpoint

RUBRIC = "Is this a good answer so far: to the point, correct and well written?"
_THINKING = 2048  # tokens for a judge that reasons before it answers


def question(prompt: str, answer: str, rubric: str = RUBRIC, words: Sequence[str] = ("yes", "no")) -> str:
    """What a judge is asked about an answer to a prompt, to be answered with one of two words."""
    return f"Question: {prompt}\n\nAnswer: {answer}\n\n{rubric} Reply with one word, {words[0]} or {words[1]}."


class EndpointJudge:
    """Asks a chat model elsewhere. It should not be the model that wrote the answers."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def name(self) -> str:
        return self.endpoint.name

    def probabilities(self, prompt: str, answers: Sequence[str], rubric: str = "") -> list[float | None]:
        """P(yes) / (P(yes) + P(no)) of each answer, see `verdicts`. None: it says neither, or it failed."""
        found = self.verdicts([question(prompt, a, rubric or RUBRIC) for a in answers], ("yes", "no"))
        return [None if p is None else p[0] for p in found]

    def verdicts(self, questions: Sequence[str], words: Sequence[str]) -> list[tuple[float, ...] | None]:
        """The probability of each word as the answer to each question: from the log-probabilities of the reply's first
        token where the server gives them, else 1 for the last of the words that it says. None: it says none of them,
        or it failed. Raises KeyboardInterrupt on Ctrl-C."""
        requests = [ChatRequest([{"role": "user", "content": text}]) for text in questions]
        out = self._asked(requests, words, 4)
        again = [i for i, value in enumerate(out) if value is None]
        if again:
            for i, value in zip(again, self._asked([requests[i] for i in again], words, _THINKING), strict=True):
                out[i] = value
        return out

    def _asked(
        self, requests: Sequence[ChatRequest], words: Sequence[str], max_tokens: int
    ) -> list[tuple[float, ...] | None]:
        asked = [ChatRequest(r.messages, 0, max_tokens, 0.0, top_logprobs=20) for r in requests]
        replies = self.endpoint.complete(asked)
        if self.endpoint.interrupted:
            raise KeyboardInterrupt
        return [_verdict(reply, words) for reply in replies]


def _verdict(reply: ChatReply, words: Sequence[str]) -> tuple[float, ...] | None:
    if not reply.reasoning:
        p = [sum(math.exp(p) for token, p in reply.first if _is(token, word)) for word in words]
        if sum(p) > 0.5:  # else its first token was no answer
            return tuple(value / sum(p) for value in p)
    said = [word for word in re.findall(r"[a-z]+", reply.text.lower()) if word in words]
    return None if not said else tuple(float(word == said[-1]) for word in words)


def _is(token: str, word: str) -> bool:
    return token.strip(" \n\"'.*").lower() == word
