"""What a server of chat completions takes, found out from what it refuses, and from what it leaves out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thoughtmix.models.chat import ChatReply, ChatRequest

if TYPE_CHECKING:
    import openai

_OPTIONAL = ("seed", "temperature", "top_p", "stop", "top_logprobs", "logprobs", "stream_options")
_HARMLESS = frozenset({"seed", "top_logprobs", "logprobs", "stream_options"})
"""Left out whenever they are named in a refusal. The others say what the user wants: a value out of bounds is theirs
to mend, so that these are left out only where the server says that it does not know them."""
_UNKNOWN = re.compile(
    r"unsupported|not supported|does not support|unknown|unrecogni[sz]ed|unexpected|extra|not permitted|cannot find",
    re.IGNORECASE,
)


@dataclass
class Dialect:
    """One server's."""

    limit: str = "max_tokens"
    """Or max_completion_tokens, once the server refused that."""
    takes_n: bool = True
    """Whether a request may ask for several answers: believed until a refusal, or an answer with fewer."""
    left_out: set[str] = field(default_factory=set)
    """Parameters that the server refused."""

    def body(self, request: ChatRequest, n: int, stream: bool, logprobs: bool) -> dict[str, Any]:
        """As this server takes it: what is None, or was refused before, is left out."""
        given = {
            "n": n if n > 1 else None,
            "seed": request.seed,
            self.limit: request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": list(request.stop) or None,
            "logprobs": logprobs or request.top_logprobs > 0 or None,
            "top_logprobs": (request.top_logprobs or None) if "logprobs" not in self.left_out else None,
            "stream_options": {"include_usage": True} if stream else None,
        }
        return {
            "messages": [dict(m) for m in request.messages],
            "stream": stream,
            **{k: v for k, v in given.items() if v is not None and k not in self.left_out},
            **request.extra,
        }

    def adapt(self, body: Mapping[str, Any], error: openai.APIStatusError) -> bool:
        """Whether a refused request can be put otherwise, which later ones then are from the beginning. Of two requests
        in flight the second finds it done: then, too."""
        said = str(error.body)
        if error.status_code not in {400, 403, 422}:
            return False
        if "max_tokens" in body and "max_completion_tokens" in said and error.status_code != 403:
            self.limit = "max_completion_tokens"
            return True
        for name in _OPTIONAL:
            named = error.param == name or re.search(rf"\b{name}\b", said) is not None
            unknown = str(error.code).startswith("unsupported") or _UNKNOWN.search(said) is not None
            if name in body and named and (unknown or (name in _HARMLESS and error.status_code != 403)):
                self.left_out.add(name)
                return True
            if name in body and name.endswith("logprobs") and named:  # some models' are not for everybody: 403
                self.left_out.add(name)
                return True
        return False

    def answered(self, asked: int, done: int) -> None:
        """A request for so many answers got so many."""
        if done < asked:
            self.takes_n = False

    def facts(self, replies: Sequence[ChatReply]) -> dict[str, Any]:
        """How these replies came about. seeds: honoured, where the server says so of each; sent; or refused."""
        seeds = "refused" if "seed" in self.left_out else "sent"
        if replies and all(reply.seed is not None for reply in replies if reply.done):
            seeds = "honoured"
        return {"seeds": seeds, **({"left_out": sorted(self.left_out)} if self.left_out else {})}
