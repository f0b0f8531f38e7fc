"""A judge behind an endpoint: the probability that it says yes to a question about an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from thoughtmix.models.chat import ChatReply, ChatRequest
from thoughtmix.models.endpoint import Endpoint

RUBRIC = "Is this a good answer so far: to the point, correct and well written?"
_THINKING = 2048  # tokens for a judge that reasons before it answers


def question(prompt: str, answer: str, rubric: str = RUBRIC) -> str:
    """What a judge is asked about an answer to a prompt."""
    return f"Question: {prompt}\n\nAnswer: {answer}\n\n{rubric} Reply with one word, yes or no."


class EndpointJudge:
    """Asks a chat model elsewhere. It should not be the model that wrote the answers."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def name(self) -> str:
        return self.endpoint.name

    def probabilities(self, prompt: str, answers: Sequence[str], rubric: str = "") -> list[float | None]:
        """P(yes) / (P(yes) + P(no)) of each answer: from the log-probabilities of the reply's first token where the
        server gives them, else 1 or 0 by the word that it says. None: it says neither, or it failed."""
        requests = [ChatRequest([{"role": "user", "content": question(prompt, a, rubric or RUBRIC)}]) for a in answers]
        out = self._asked(requests, 4)
        again = [i for i, value in enumerate(out) if value is None]
        if again and not self.endpoint.interrupted:
            for i, value in zip(again, self._asked([requests[i] for i in again], _THINKING), strict=True):
                out[i] = value
        return out

    def _asked(self, requests: Sequence[ChatRequest], max_tokens: int) -> list[float | None]:
        asked = [ChatRequest(r.messages, 0, max_tokens, 0.0, top_logprobs=20) for r in requests]
        replies = self.endpoint.complete(asked)
        if self.endpoint.interrupted:
            raise KeyboardInterrupt
        return [_probability(reply) for reply in replies]


def _probability(reply: ChatReply) -> float | None:
    if not reply.reasoning:
        yes, no = (sum(math.exp(p) for token, p in reply.first if _is(token, word)) for word in ("yes", "no"))
        if yes + no > 0.5:  # else its first token was no answer
            return yes / (yes + no)
    words = re.findall(r"[a-z]+", reply.text.lower())
    said = [word for word in words if word in {"yes", "no"}]
    return None if not said else float(said[-1] == "yes")


def _is(token: str, word: str) -> bool:
    return token.strip(" \n\"'.*").lower() == word
