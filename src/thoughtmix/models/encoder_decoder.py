"""Encoder-decoder models (T5, Switch Transformers, NLLB-MoE, BART, Marian, ...): the encoder reads the prompt, and the
answer is the decoder's, from a start token on. What their generation config says of single tokens is kept, as
transformers' `generate` keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def is_encoder_decoder(model: PreTrainedModel) -> bool:
    """Whether a prompt goes to an encoder of its own."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def decoder_start(model: PreTrainedModel) -> int:
    """The token that every answer begins with, and that is no part of it.

    Raises:
        ModelError: Neither the generation config nor the config names one.
    """
    for config in (model.generation_config, model.config, getattr(model.config, "decoder", None)):
        for name in ("decoder_start_token_id", "bos_token_id"):
            found = getattr(config, name, None)
            found = found[0] if isinstance(found, (list, tuple)) and len(set(found)) == 1 else found
            if isinstance(found, int):
                return found
    raise ModelError(
        f"{type(model).__name__} names no token that its answers begin with.",
        "Set decoder_start_token_id in its generation_config.json.",
    )


def require_decoder_only(model: PreTrainedModel, who: str) -> None:
    """Raises `InputError` for a model with an encoder, where `who` reads prompt and answer as one text."""
    if is_encoder_decoder(model):
        raise InputError(
            f"{type(model).__name__} has an encoder; {who} reads prompt and answer as one text.",
            "Choose a decoder-only model.",
        )


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a generation config says of single tokens."""

    first: int | None = None
    """The first token of every answer: of multilingual models, the language."""
    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()
    """Not where an answer begins (after the forced one)."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> TokenRules:
        """Those of a model: forced_bos_token_id, suppress_tokens, bad_words_ids of one token, begin_suppress_tokens.
        What it says of lengths, beams and repeated n-grams is no part of how thoughts are drawn."""
        config: Any = model.generation_config
        if config is None:
            return cls()
        first = config.forced_bos_token_id
        first = first[0] if isinstance(first, (list, tuple)) else first
        ends = config.eos_token_id
        ends = {*ends} if isinstance(ends, (list, tuple)) else {ends}
        bad = [ids[0] for ids in config.bad_words_ids or () if len(ids) == 1 and ids[0] not in ends]
        return cls(first, (*(config.suppress_tokens or ()), *bad), tuple(config.begin_suppress_tokens or ()))

    def apply(self, logits: Tensor, number: int) -> Tensor:
        """Logits (rows, vocabulary) of the answer's token `number`, with -inf for what may not come."""
        import torch

        if number == 0 and self.first is not None:
            return torch.full_like(logits, -torch.inf).index_fill(1, _at(logits, [self.first]), 0.0)
        banned = [*self.never, *(self.never_first if number == (self.first is not None) else ())]
        return logits.index_fill(1, _at(logits, banned), -torch.inf) if banned else logits


def _at(logits: Tensor, ids: Sequence[int]) -> Tensor:
    import torch

    return torch.tensor(list(ids), device=logits.device)


def answer_logits(model: Any, prompt: Sequence[int], answers: Tensor) -> Tensor:
    """The logits from which the tokens of answers to a prompt come, in one forward without a cache.

    Args:
        model: One that writes from left to right, with or without an encoder.
        prompt: Token ids.
        answers: (b, t) token ids; what pads them stands on the right, where no earlier token sees it.

    Returns:
        (b, t, vocabulary)
    """
    import torch

    start = torch.tensor([list(prompt)], device=answers.device).expand(len(answers), -1)
    if not is_encoder_decoder(model):
        out: Tensor = model(input_ids=torch.cat([start, answers], 1), use_cache=False).logits
        return out[:, len(prompt) - 1 : -1]
    first = answers.new_full((len(answers), 1), decoder_start(model))
    shifted = torch.cat([first, answers[:, :-1]], 1)
    given = {"input_ids": start, "attention_mask": torch.ones_like(start), "decoder_input_ids": shifted}
    logits: Tensor = model(**given, use_cache=False).logits
    return logits
