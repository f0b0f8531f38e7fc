"""Decode many rows at once: read each prompt once, then one token a row and step until all have ended.

This is the decoding loop of thoughtmix; thinkers differ in the model, the prompts and the rows they pass. (For many
callers continuous.py steps the same batches side by side.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.core.request import OnStep, StepEvent
from thoughtmix.engine.backends.base import Path, Stepped, vocabulary_size
from thoughtmix.engine.backends.probe import PathName, Weights, choose
from thoughtmix.engine.detokenizer import RowText
from thoughtmix.engine.engine import OFFSET_BITS, Generation, SequenceOutput, SequenceRequest
from thoughtmix.engine.prefix_cache import Prefix, check_known
from thoughtmix.engine.rng import uniforms
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowState
from thoughtmix.engine.sampling import SamplingTensors, draw
from thoughtmix.engine.without_replacement import WithoutReplacement

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel


@torch.no_grad()
def decode(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sequences: Sequence[SequenceRequest],
    *,
    path: PathName = "auto",
    weights: Weights = "auto",
    row_state: RowState = NO_ROW_STATE,
    read: Read = "shared",
    top_logprobs: int = 0,
    keep_prefixes: bool = False,
    without_replacement: bool = False,
    on_step: OnStep | None = None,
) -> Generation:
    """`Engine.generate` of a batch that nobody joins. prompts: the token ids of each sequence's prompt."""
    asked = grouped(prompts, sequences)
    _check(lm, asked)
    known = asked.prefixes
    if read != "shared" and (keep_prefixes or any(prefix is not None for prefix in known)):
        raise InputError("Rows that each read the prompt keep no prefix.", 'Pass read="shared".')
    check_known(known, asked.prompts)
    route = choose(lm.model, path, weights, row_state, read, len(asked.prompts))
    batch = _Batch(lm, asked, on_step, row_state, read, top_logprobs)
    batch.keep = keep_prefixes
    if without_replacement and any(s.offset is not None for s in sequences):
        raise InputError("Sequences with an offset are not drawn without replacement.", "Leave one of the two out.")
    if without_replacement:
        batch.once = WithoutReplacement([s.exclude for s in sequences], asked.prompt)
    return batch.run(route, read)


def over(
    route: Stepped,
    lm: LanguageModel,
    asked: Grouped,
    top_logprobs: int = 0,
) -> Generation:
    """`decode` along a path of your own, for rows without state that read their prompts together."""
    _check(lm, asked)
    batch = _Batch(lm, asked)
    batch.top = top_logprobs
    return batch.run(cast("Path", route), "shared")  # nothing is known or kept: four methods are all it takes


@dataclass(frozen=True, slots=True)
class Grouped:
    """The sequences of a call and their prompts, equal ones once. prompt[i]: which of them sequence i continues."""

    prompts: list[list[int]]
    prompt: list[int]
    sequences: Sequence[SequenceRequest]

    @property
    def prefixes(self) -> list[Prefix | None]:
        """Of each prompt, what is known of it: as its first sequence says."""
        return [self.sequences[self.prompt.index(p)].prefix for p in range(len(self.prompts))]


def grouped(prompts: Sequence[Sequence[int]], sequences: Sequence[SequenceRequest]) -> Grouped:
    """prompts: token ids of each sequence's prompt."""
    number: dict[tuple[int, ...], int] = {}
    prompt = [number.setdefault(tuple(ids), len(number)) for ids in prompts]
    return Grouped([list(ids) for ids in number], prompt, sequences)


class _Batch:
    """The loop's state. `live[i]` is the row (index into the request) at batch position i."""

    def __init__(
        self,
        lm: LanguageModel,
        asked: Grouped,
        on_step: OnStep | None = None,
        row_state: RowState = NO_ROW_STATE,
        read: Read = "shared",
        top: int = 0,
    ) -> None:
        device = lm.model.device
        self.prompts, self.rows, self.prompt = asked.prompts, asked.sequences, asked.prompt
        self.top = top
        # Other states than a LoRA read the whole prompt in their own way: what was read before is of no use to them.
        known = asked.prefixes if row_state.is_lora else []
        self.known: list[Prefix | None] | None = known if any(prefix is not None for prefix in known) else None
        self.keep = False
        self.once: WithoutReplacement | None = None
        # A prompt of which a prefix is known gives no logits: its last token is every row's own.
        suffix = row_state.unshared_suffix if read == "shared" else 0
        suffix = suffix if self.known is None else max(suffix, 1)
        self.tail = min(suffix, min(map(len, self.prompts)) - 1)
        self.on_step, self.row_state = on_step, row_state
        rows = self.rows
        self.end_ids = [lm.eos_ids if r.end_ids is None else r.end_ids for r in rows]
        self.live = sorted(range(len(rows)), key=lambda r: self.prompt[r])  # neighbours share a prompt
        self.budget = [r.max_new_tokens for r in rows]
        self.results = [SequenceOutput() for _ in rows]
        self.texts = [RowText(lm.tokenizer, r.stop) for r in rows]
        self.watch = [bool(r.stop) or on_step is not None for r in rows]  # who needs text at every step
        self.counts = [self.prompt.count(p) for p in range(len(self.prompts))]  # rows of each prompt
        order = self.live
        row_state.reorder(order)
        self.uniform = uniforms([rows[r].seed for r in order], max(self.budget), device)  # (rows, steps)
        self.sampler = SamplingTensors.of([rows[r].sampling for r in order], device)
        codes = [rows[r].offset for r in order]
        self.code = torch.tensor([0.0 if c is None else c for c in codes], dtype=torch.float64, device=device)
        self.bits = torch.tensor([0.0 if c is None else OFFSET_BITS for c in codes], dtype=torch.float64, device=device)

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
        return [self.prompts[self.prompt[row]][-at] for row in self.live]

    def run(self, route: Path, read: Read) -> Generation:
        done = Generation(self.results, route.name, getattr(getattr(route, "weights", None), "kind", "native"))
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

    def _start(self, route: Path, counts: list[int], read: Read, done: Generation) -> Tensor:
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
            prompt = self.prompt[row]
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

    def _take_once(self, once: WithoutReplacement, logits: Tensor, step: int) -> Tensor:
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
            if token in self.end_ids[row]:
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


def _check(lm: LanguageModel, asked: Grouped) -> None:
    """Raises `InputError` for what cannot be continued."""
    if not asked.sequences:
        raise InputError("Nothing to decode: no sequence.", "Pass at least one (n=1).")
    if not lm.causal:
        raise InputError(f"{lm.name} does not write from left to right.", "Type --thinker diffusion.")
    if any(s.max_new_tokens < 1 for s in asked.sequences):
        raise InputError("A token budget is below 1.", "Pass max_new_tokens=1 or more.")
    if any(s.offset is not None and not 0 <= s.offset < 1 for s in asked.sequences):
        raise InputError("An offset is not in [0, 1).", "Use engine.rng.arithmetic_offset(seed, prompt).")
    vocabulary = vocabulary_size(lm.model)
    longest = [0] * len(asked.prompts)
    for prompt, sequence in zip(asked.prompt, asked.sequences, strict=True):
        longest[prompt] = max(longest[prompt], sequence.max_new_tokens)
    for index, (ids, budget) in enumerate(zip(asked.prompts, longest, strict=True)):
        where = "The prompt" if len(asked.prompts) == 1 else f"Prompt {index}"
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
