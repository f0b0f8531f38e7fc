"""The path of models with an encoder: each prompt is encoded once, alone, and its answers are stepped by the decoder
with its own cache, whose keys of the encoder's states are copied to n rows.

Prompts are decoded one after the other, so that no prompt is padded and none sees another's length. A row's own state
(a graft's branches, a routing profile) acts in the decoder from the start token on; in the encoder only where each row
reads the prompt for itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from thoughtmix.core.errors import InputError, ModelError, ThoughtmixError
from thoughtmix.engine.backends.agreement import TOLERANCE
from thoughtmix.engine.backends.base import Start, vocabulary_size
from thoughtmix.engine.backends.expanded import ExpandedPath
from thoughtmix.engine.row_state import NO_ROW_STATE, NoRowState, Read, RowState
from thoughtmix.models.encoder_decoder import TokenRules, decoder_start

_ANOTHER = "Choose another model (--model)."


class _Rows:
    """What the rows of one prompt go on with. output: of the encoder, for all rows or for each."""

    def __init__(self, output: ModelOutput) -> None:
        self.kind = type(output)  # mixtures of experts have one of their own
        self.encoded: Tensor = output[0]  # (1, t, d) for all rows, or (rows, t, d)
        self.cache: Any = None

    def reorder_cache(self, order: Tensor) -> None:
        self.cache.reorder_cache(order)
        if len(self.encoded) > 1:
            self.encoded = self.encoded.index_select(0, order)


class EncoderDecoderPath(ExpandedPath):
    """Over a model's own encoder, decoder and cache. rules: None for those of the model."""

    def __init__(
        self,
        model: PreTrainedModel,
        row_state: RowState = NO_ROW_STATE,
        read: Read = "shared",
        rules: TokenRules | None = None,
    ) -> None:
        super().__init__(model, row_state, read)
        self.rules = TokenRules.of(model) if rules is None else rules
        self.start_token = decoder_start(model)
        self.drawn = 0  # tokens that each row has

    def start(self, asked: Start) -> tuple[Tensor, int]:
        """See `DecodingPath`. The start token counts as read by each row."""
        each = self.read == "each"
        parts: list[tuple[_Rows | None, int, slice]] = []
        computed = 0
        for ids, n, rows in zip(asked.prompts, asked.counts, asked.blocks, strict=True):
            if n:
                with self.row_state.prefilling(rows, self.read):
                    parts.append((_Rows(self._encode(ids, n if each else 1)), n, rows))
                computed += len(ids) * (n if each else 1) + n
            else:
                parts.append((None, 0, rows))
        self.batches = [(part, n, 1) for part, n, _ in parts]
        logits = [self._begin(part, n, rows) for part, n, rows in parts if part is not None]
        return self.rules.apply(torch.cat(logits), 0), computed

    def _encode(self, ids: list[int], rows: int) -> ModelOutput:
        given = torch.tensor([ids] * rows, device=self.model.device)
        encoder: Any = self.model.get_encoder()
        out: ModelOutput = encoder(input_ids=given, attention_mask=torch.ones_like(given), return_dict=True)
        return out

    def _begin(self, part: _Rows, n: int, rows: slice) -> Tensor:
        """The logits (n, vocabulary) after the start token."""
        if isinstance(self.row_state, NoRowState) and len(part.encoded) == 1:  # the rows are one so far
            with self.row_state.probing():
                logits = self._decode(part, self._starts(1))
            self._pick(part, [0] * n)
            return logits.expand(n, -1)
        with self.row_state.stepping(rows):
            return self._decode(part, self._starts(n))

    def _starts(self, n: int) -> Tensor:
        return torch.full((n,), self.start_token, device=self.model.device)

    def _decode(self, part: _Rows, tokens: Tensor) -> Tensor:
        """tokens (rows,) -> (rows, vocabulary)"""
        encoded = part.encoded.expand(len(tokens), -1, -1)
        model: Any = self.model
        out = model(
            encoder_outputs=part.kind(last_hidden_state=encoded),
            attention_mask=torch.ones(encoded.shape[:2], dtype=torch.long, device=tokens.device),
            decoder_input_ids=tokens[:, None],
            past_key_values=part.cache,
            use_cache=True,
        )
        part.cache = out.past_key_values
        if part.cache is None:
            raise ModelError(f"{type(self.model).__name__} returns no cache.", _ANOTHER)
        logits: Tensor = out.logits[:, -1]
        return logits

    def _step(self, tokens: Tensor) -> Tensor:
        self.drawn += 1
        out, row = [], 0
        for part, n, _ in self.batches:
            if n:
                rows = slice(row, row + n)
                with self.row_state.stepping(rows):
                    out.append(self._decode(part, tokens[rows]))
            row += n
        return self.rules.apply(torch.cat(out), self.drawn)


def encoder_decoder_path(
    model: PreTrainedModel, path: str, weights: str, row_state: RowState, read: Read
) -> EncoderDecoderPath:
    """The path of this model, once it has been tried.

    Raises:
        InputError: Another path or packing was asked for.
        ModelError: Its own cache does not reproduce its own forward, or its rows are not each other's strangers.
    """
    if path not in {"auto", "expanded"} or weights in {"fp16", "bf16"}:
        raise InputError(
            f"{type(model).__name__} has an encoder, and decodes by its own forward and cache alone.",
            "Pass path='auto' and --weights auto.",
        )
    return EncoderDecoderPath(model, row_state, read)


def why_not(model: PreTrainedModel, row_state: RowState) -> str:
    """ "" when this path reproduces the model's whole forwards, else the reason in a few words."""
    for name, module in model.named_modules():
        fraction = getattr(module, "moe_eval_capacity_token_fraction", 1.0)
        if not isinstance(fraction, (int, float)) or not fraction >= 1:
            return f"{name} drops tokens by what else is in the batch (moe_eval_capacity_token_fraction {fraction})"
        if getattr(module, "second_expert_policy", "all") != "all":
            return f"{name} draws its second expert from global random state"
    try:
        with row_state.probing():
            return "" if _agrees(model) else "with its cache it gives other logits than without"
    except ThoughtmixError as error:
        return error.message.rstrip(".")
    except Exception as error:  # whatever foreign modelling code raises means: not this way
        return f"{type(error).__name__} {error}".split("\n")[0][:120]


@torch.no_grad()
def _agrees(model: PreTrainedModel) -> bool:
    """Two prompts, three rows and a dropped row beside whole forwards of each row; as `agreement.agrees`, whose texts
    have no encoder."""
    vocabulary, tolerance = vocabulary_size(model), TOLERANCE.get(model.dtype, 0.05)

    def some(start: int, count: int) -> list[int]:  # fixed tokens, no random state
        return [(start + 7919 * i) % vocabulary for i in range(count)]

    prompts, path = [some(11, 9), some(5, 6)], EncoderDecoderPath(model, rules=TokenRules())
    answers = [some(3, 2), some(4, 2), some(6, 2)]
    device = model.device
    try:
        got = [*enumerate(path.start(Start(prompts, [2, 1], 2))[0])]
        got += [*enumerate(path.step(torch.tensor([a[0] for a in answers], device=device)))]
        kept = path.drop([0])
        got += [*zip(kept, path.step(torch.tensor([answers[i][1] for i in kept], device=device)), strict=True)]
    finally:
        path.close()
    for at, (row, logits) in enumerate(got):
        ids = torch.tensor([prompts[row // 2]], device=device)
        before = [path.start_token, *answers[row][: at // 3]]
        given = {"input_ids": ids, "decoder_input_ids": torch.tensor([before], device=device)}
        whole: Any = model
        want = whole(**given, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1].float()
        off = float((want - logits.float()).abs().max())
        if want.isfinite().all() and not off <= tolerance * max(float(want.std()), 1e-6):
            return False
    return True
