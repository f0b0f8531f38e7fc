"""Decode many rows at once: read each prompt once, then one token a row and step until all have ended.

This is the decoding loop of thoughtmix; thinkers differ in the model, the prompts and the rows they pass. (For many
callers continuous.py steps the same batches side by side.)
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, cast

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.core.thinker import StepEvent
from thoughtmix.engine.backends.base import Path, Stepped, vocabulary_size
from thoughtmix.engine.backends.probe import PathName, Weights, choose
from thoughtmix.engine.detokenizer import RowText
from thoughtmix.engine.prefix_cache import Prefix, check_known
from thoughtmix.engine.rng import uniforms
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowState
from thoughtmix.engine.sampling import Sampler, SamplerBatch, draw
from thoughtmix.engine.without_replacement import Once, Taken

if TYPE_CHECKING:
    from thoughtmix.core.types import FinishReason
    from thoughtmix.models import LanguageModel


@dataclass(frozen=True, slots=True)
class Row:
    """One continuation to make: which prompt, whose random stream, drawn how, ending where."""

    seed: int
    sampler: Sampler = field(default_factory=Sampler)
    prompt: int = 0
    stop: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    """This row's own budget; None: the batch's."""
    code: float | None = None
    """Arithmetic sampling (Vilnis et al. 2023): this point of [0, 1) is the row's place in the distribution of all
    continuations, read off token by token; rows whose codes lie apart draw apart, and each is still distributed as the
    model says. After `CODE_BITS` bits the code is used up, and the seed's stream goes on. None: that from the start."""


# A code is read for this many bits: enough to keep 64 thoughts apart. Each bit read doubles what is left of the
# rounding of the logits, and a thought must be the same alone and in any batch.
CODE_BITS = 6


@dataclass(slots=True)
class Continuation:
    """What became of a row. An ended row's tokens include its end token; its text does not."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: FinishReason = "cancelled"
    text: str = ""
    shares: list[float] = field(default_factory=list)
    """With `taken`: the probability that each token had in the draw before anything was subtracted."""
    top: list[tuple[list[int], list[float]]] = field(default_factory=list)
    """Of each token, if asked for: the likeliest ids and their log-probabilities, likeliest first."""


@dataclass(slots=True)
class Decoded:
    """All rows, in the order they were given, and how the run went."""

    rows: list[Continuation]
    path: str
    weights: str
    prefill_seconds: float = 0.0
    seconds: float = 0.0
    interrupted: bool = False
    computed: int = 0
    """Tokens that went through the model, read or stepped: a prompt that rows share counts once, and on the fused path
    a beginning that neighbouring prompts share, too."""
    prefixes: list[Prefix | None] = field(default_factory=list)
    """With `keep`: of each row that ended, all its tokens but the last, which was drawn and never read."""

    @property
    def facts(self) -> dict[str, Any]:
        """For `ThoughtSet.run`."""
        tokens = sum(len(r.token_ids) for r in self.rows)
        return {
            "path": self.path,
            "weights": self.weights,
            "seconds": round(self.seconds, 4),
            "prefill_seconds": round(self.prefill_seconds, 4),
            "tokens": tokens,
            "tokens_per_second": round(tokens / self.seconds, 1) if self.seconds else 0.0,
        }


_P = ParamSpec("_P")
ELSEWHERE: ContextVar[Callable[..., Decoded] | None] = ContextVar("thoughtmix_decode_elsewhere", default=None)
"""Who decodes in this context's place: called with this module's own `decode` and its arguments. So rows of many
callers share steps without their knowing it (scheduler.py)."""


def _or_elsewhere(decode: Callable[_P, Decoded]) -> Callable[_P, Decoded]:
    @functools.wraps(decode)
    def call(*args: _P.args, **how: _P.kwargs) -> Decoded:
        other = ELSEWHERE.get()
        return decode(*args, **how) if other is None else other(decode, *args, **how)

    return call


@_or_elsewhere
@torch.no_grad()
def decode(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    end_ids: frozenset[int] | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
    path: PathName = "auto",
    weights: Weights = "auto",
    row_state: RowState = NO_ROW_STATE,
    read: Read = "shared",
    tail: int = 0,
    top: int = 0,
    known: Sequence[Prefix | None] | None = None,
    keep: bool = False,
    taken: Sequence[Sequence[Taken]] | None = None,
) -> Decoded:
    """Continue `prompts` (token ids) by `rows`.

    end_ids: tokens that end a row; None: the model's own. on_step: called after every step; an exception in it,
    KeyboardInterrupt too, stops the run (KeyboardInterrupt returns what is there, `interrupted` set).
    row_state: what each of `rows` carries through the model, in their order (see `RowState`). read: a prompt is read
    once for all its rows, or by each row for itself. tail: the last so many tokens of each prompt (never all) are left
    to every row, so that what it carries has a say in its first token, too. top: note so many likeliest tokens a step.
    known: of each prompt, a beginning that an earlier call kept: only the tokens past it are computed. keep: hand out
    such a `Prefix` of every row that ends (`Decoded.prefixes`). Both for read="shared"; where nothing is kept
    (`expanded`, and rows that carry a state on `shared`) prompts are read again, with the same result.
    taken: of each prompt, continuations that its rows are not to draw again, nor each other's (`once.Once`): row i then
    depends on the rows of its prompt before it, too. Not for rows with codes.
    Row i of the result depends on its prompt, settings and seed alone, up to the rounding of matrix products of
    different heights. Raises `InputError` for prompts that cannot be continued, `NumericsError` on NaN logits.
    """
    _check(lm, prompts, rows, max_new_tokens)
    if read != "shared" and (keep or known):
        raise InputError("Rows that each read the prompt keep no prefix.", 'Pass read="shared".')
    if known is not None:
        check_known(known, prompts)
    route = choose(lm.model, path, weights, row_state, read, len(prompts))
    if known is not None and all(prefix is None for prefix in known):
        known = None
    batch = _Batch(
        lm, prompts, rows, max_new_tokens, lm.eos_ids if end_ids is None else end_ids, on_step, row_state,
        tail if known is None else max(tail, 1),
    )  # fmt: skip
    batch.top, batch.keep, batch.known = top, keep, known
    if taken is not None:
        if len(taken) != len(prompts) or any(row.code is not None for row in rows):
            raise InputError(
                "Draws without repetition need a list a prompt, and no codes.", "Pass taken=[()] a prompt."
            )
        batch.once = Once([taken[row.prompt] for row in rows], [row.prompt for row in rows])
    return batch.run(route, read)


def over(
    route: Stepped,
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Row],
    max_new_tokens: int,
    top: int = 0,
) -> Decoded:
    """`decode` along a path of your own, for rows that carry nothing and read their prompts together."""
    _check(lm, prompts, rows, max_new_tokens)
    batch = _Batch(lm, prompts, rows, max_new_tokens, lm.eos_ids, None, NO_ROW_STATE)
    batch.top = top
    return batch.run(cast("Path", route), "shared")  # nothing is known or kept: four methods are all it takes


class _Batch:
    """The loop's state. `live[i]` is the row (index into the request) at batch position i."""

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[Row],
        max_new_tokens: int,
        end_ids: frozenset[int],
        on_step: Callable[[StepEvent], None] | None,
        row_state: RowState,
        tail: int = 0,
    ) -> None:
        """tail: as in `decode`."""
        device = lm.model.device
        self.prompts, self.top = [list(p) for p in prompts], 0
        self.known: Sequence[Prefix | None] | None = None
        self.keep = False
        self.once: Once | None = None
        self.tail = min(tail, min(map(len, self.prompts)) - 1)
        self.rows, self.end_ids, self.on_step, self.row_state = rows, end_ids, on_step, row_state
        self.live = sorted(range(len(rows)), key=lambda r: rows[r].prompt)  # neighbours share a prompt
        self.budget = [min(max_new_tokens, r.max_new_tokens or max_new_tokens) for r in rows]
        self.results = [Continuation() for _ in rows]
        self.texts = [RowText(lm.tokenizer, r.stop) for r in rows]
        self.watch = [bool(r.stop) or on_step is not None for r in rows]  # who needs text at every step
        self.counts = [sum(row.prompt == p for row in rows) for p in range(len(self.prompts))]  # rows of each prompt
        order = self.live
        row_state.reorder(order)
        self.uniform = uniforms([rows[r].seed for r in order], max_new_tokens, device)  # (rows, steps)
        self.sampler = SamplerBatch.of([rows[r].sampler for r in order], device)
        codes = [rows[r].code for r in order]
        self.code = torch.tensor([0.0 if c is None else c for c in codes], dtype=torch.float64, device=device)
        self.bits = torch.tensor([0.0 if c is None else CODE_BITS for c in codes], dtype=torch.float64, device=device)

    @property
    def heads(self) -> list[list[int]]:
        """Of each prompt what its rows read together."""
        return [p[: len(p) - self.tail] for p in self.prompts]

    @property
    def capacity(self) -> int:
        """Most tokens that a row holds for itself."""
        return max(self.budget) + self.tail

    def own(self, at: int) -> list[int]:
        """The token that each live row reads of its prompt, `at` before the end."""
        return [self.prompts[self.rows[row].prompt][-at] for row in self.live]

    def run(self, route: Path, read: Read) -> Decoded:
        done = Decoded(self.results, route.name, getattr(getattr(route, "weights", None), "kind", "native"))
        began = time.perf_counter()
        try:
            logits = self._start(route, self.counts, read, done)
            for at in range(self.tail, 0, -1):
                logits = route.step(torch.tensor(self.own(at)).to(self.code.device))
                done.computed += len(self.live)
            done.prefill_seconds = time.perf_counter() - began
            for step in range(max(self.budget)):
                tokens = self._take(logits, step)
                gone = self._ended(step)
                self._report(gone)
                if gone and self.keep:
                    self._keep(route, gone, done.prefixes)
                if gone:
                    tokens = self._drop(route, gone, tokens)
                if not self.live:
                    break
                logits = route.step(tokens)
                done.computed += len(tokens)
        except KeyboardInterrupt:
            done.interrupted = True
        finally:
            route.close()
        for result, text in zip(self.results, self.texts, strict=True):
            result.text = text.finish()
        done.seconds = time.perf_counter() - began
        return done

    def _start(self, route: Path, counts: list[int], read: Read, done: Decoded) -> Tensor:
        """Read what has to be read: the next logits of each row (of no meaning where a tail follows)."""
        heads = self.heads
        if self.keep:
            done.prefixes = [None] * len(self.rows)
        if self.known is not None:
            done.computed = route.resume(heads, list(self.known), counts, self.capacity)
            return self.uniform
        first = route.start(heads, counts, self.capacity)
        if read == "shared":  # of each prompt, with which all its rows begin
            done.computed = sum(map(len, heads)) - route.spared
            return first.repeat_interleave(torch.tensor(counts, device=first.device), 0)
        done.computed = sum(len(head) * n for head, n in zip(heads, counts, strict=True))
        return first

    def _keep(self, route: Path, gone: list[int], prefixes: list[Prefix | None]) -> None:
        for position in gone:
            row = self.live[position]
            prompt = self.rows[row].prompt
            ids = [*self.prompts[prompt], *self.results[row].token_ids[:-1]]
            prefixes[row] = route.keep(position, prompt, ids)

    def _take(self, logits: Tensor, step: int) -> Tensor:
        """Draw a token for each live row and note it."""
        if self.once is not None:
            return self._take_once(self.once, logits, step)
        drawn = draw(logits, torch.where(self.bits > 0, self.code, self.uniform[:, step]), self.sampler)
        self.code, self.bits = drawn.rest, self.bits + drawn.share.log2()
        self._note(logits, drawn.ids.tolist(), drawn.logprobs.tolist())
        return drawn.ids

    def _take_once(self, once: Once, logits: Tensor, step: int) -> Tensor:
        """The same, nothing twice: rows in the order that they were asked for, whatever order they stand in."""
        order = sorted(range(len(self.live)), key=lambda position: self.live[position])
        at = torch.tensor(order, device=logits.device)
        rows = [self.live[position] for position in order]
        before, last = [self.results[r].token_ids for r in rows], [step + 1 >= self.budget[r] for r in rows]
        ids, logprobs, shares = once.draw(logits[at], self.uniform[at, step], self.sampler.rows(at), rows, before, last)
        for row, share in zip(rows, shares, strict=True):
            self.results[row].shares.append(share)
        back = at.argsort().tolist()
        ids, logprobs = [ids[i] for i in back], [logprobs[i] for i in back]
        self._note(logits, ids, logprobs)
        return torch.tensor(ids, device=logits.device)

    def _note(self, logits: Tensor, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """What was drawn for each live row, from these logits."""
        if self.top:
            best = logits.float().log_softmax(-1).topk(min(self.top, logits.shape[-1]))
            for row, likeliest, values in zip(self.live, best.indices.tolist(), best.values.tolist(), strict=True):
                self.results[row].top.append((likeliest, values))
        for row, token, logprob in zip(self.live, ids, logprobs, strict=True):
            result = self.results[row]
            result.token_ids.append(token)
            result.logprobs.append(logprob)
            if token in self.end_ids:
                result.finish = "stop"
            elif self.watch[row]:
                if self.texts[row].push(token):
                    result.finish = "stop"
            else:
                self.texts[row].ids.append(token)

    def _ended(self, step: int) -> list[int]:
        """Batch positions that end here."""
        gone = []
        for position, row in enumerate(self.live):
            if self.results[row].finish != "stop" and step + 1 >= self.budget[row]:
                self.results[row].finish = "length"
            if self.results[row].finish != "cancelled":
                gone.append(position)
        return gone

    def _report(self, gone: list[int]) -> None:
        if self.on_step is None:
            return
        ended = {self.live[position] for position in gone}
        pieces = [""] * len(self.rows)
        for row in self.live:
            if row in ended:
                self.texts[row].finish()
            pieces[row] = self.texts[row].piece(final=row in ended)
        self.on_step(
            StepEvent(
                pieces=pieces,
                done=sum(len(r.token_ids) for r in self.results),
                total=sum(self.budget),
                finished=[r.finish != "cancelled" for r in self.results],
            )
        )

    def _drop(self, route: Path, gone: list[int], tokens: Tensor) -> Tensor:
        """Take ended rows out of the batch. Returns the tokens of the rest in their new order."""
        order = route.drop(gone) if len(gone) < len(self.live) else []
        self.live = [self.live[old] for old in order]
        if order:
            self.row_state.reorder(order)
        keep = torch.tensor(order, dtype=torch.long, device=tokens.device)
        self.uniform, self.sampler = self.uniform[keep], self.sampler.rows(keep)
        self.code, self.bits = self.code[keep], self.bits[keep]
        return tokens[keep]


def _check(lm: LanguageModel, prompts: Sequence[Sequence[int]], rows: Sequence[Row], budget: int) -> None:
    if not rows or not prompts:
        raise InputError("Nothing to decode: no prompt or no row.", "Pass at least one of each (n=1).")
    if not getattr(lm, "causal", True):
        raise InputError(f"{lm.name} does not write from left to right.", "Type --thinker diffusion.")
    if budget < 1 or any(r.max_new_tokens is not None and r.max_new_tokens < 1 for r in rows):
        raise InputError("A token budget is below 1.", "Pass max_new_tokens=1 or more.")
    vocabulary = vocabulary_size(lm.model)
    for index, ids in enumerate(prompts):
        where = "The prompt" if len(prompts) == 1 else f"Prompt {index}"
        if not ids:
            raise InputError(f"{where} is empty.", 'Type a prompt: thoughtmix think "Name a fruit."')
        if not all(0 <= i < vocabulary for i in ids):
            raise InputError(f"{where} has token ids outside 0..{vocabulary - 1}.", "Use this model's tokenizer.")
        limit = lm.context_length
        if limit is not None and len(ids) + budget > limit:
            raise InputError(
                f"{where} has {len(ids)} tokens; with {budget} new ones that is over the model's {limit}.",
                "Shorten it, or ask for fewer (--max-new-tokens)."
                if len(ids) < limit
                else f"Shorten it to under {limit} tokens.",
            )
    if any(r.code is not None and not 0 <= r.code < 1 for r in rows):
        raise InputError("A row's code is not in [0, 1).", "Use decoding.randomness.spread_code(seed, prompt).")
    if any(not 0 <= r.prompt < len(prompts) for r in rows):
        raise InputError("A row names a prompt that is not there.", f"Use 0..{len(prompts) - 1}.")
