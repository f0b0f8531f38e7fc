"""A job: the sequences of one `generate` on their way through a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.core.request import OnStep, StepEvent
from thoughtmix.core.sentences import ends_sentence
from thoughtmix.engine.backends.base import DecodingPath, Start
from thoughtmix.engine.backends.hidden import HEAD
from thoughtmix.engine.detokenizer import IncrementalDetokenizer
from thoughtmix.engine.engine import OFFSET_BITS, Generation, SequenceOutput, SequenceRequest
from thoughtmix.engine.guide import Guide
from thoughtmix.engine.prefix_cache import Prefix, check_prefixes
from thoughtmix.engine.rng import uniforms
from thoughtmix.engine.row_state import NO_ROW_STATE, LogitsAdjuster, Read, RowState
from thoughtmix.engine.sampling import Candidates, Drawn, SamplingTensors, not_finite
from thoughtmix.engine.without_replacement import WithoutReplacement

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel


_LEAD = 6
"""Tokens of left context that a tokenizer needs to say what comes next."""


@dataclass(frozen=True, slots=True)
class PromptGroups:
    """The sequences of a call and their prompts, equal ones once. prompt[i]: which of them sequence i continues."""

    prompts: list[list[int]]
    prompt: list[int]
    sequences: Sequence[SequenceRequest]

    @classmethod
    def of_equal(cls, ids: Sequence[Sequence[int]], sequences: Sequence[SequenceRequest]) -> PromptGroups:
        """ids: the prompt of each sequence."""
        number: dict[tuple[int, ...], int] = {}
        prompt = [number.setdefault(tuple(each), len(number)) for each in ids]
        return cls([list(each) for each in number], prompt, sequences)

    @property
    def prefixes(self) -> list[Prefix | None]:
        """Of each prompt, what is known of it: as its first sequence says."""
        first = {p: i for i, p in reversed(list(enumerate(self.prompt)))}
        return [self.sequences[first[p]].prefix if p in first else None for p in range(len(self.prompts))]

    @property
    def tokens(self) -> int:
        """Most tokens that they will hold."""
        return sum(map(len, self.prompts)) + sum(s.max_new_tokens for s in self.sequences)

    def check(self, model: LanguageModel) -> None:
        """Raises `InputError` for what cannot be continued."""
        if not self.sequences:
            raise InputError("Nothing to decode: no sequence.", "Pass at least one (n=1).")
        if not model.causal:
            raise InputError(f"{model.name} does not write from left to right.", "Type --thinker diffusion.")
        if any(s.max_new_tokens < 1 for s in self.sequences):
            raise InputError("A token budget is below 1.", "Pass max_new_tokens=1 or more.")
        if any(s.offset is not None and not 0 <= s.offset < 1 for s in self.sequences):
            raise InputError("An offset is not in [0, 1).", "Use engine.rng.arithmetic_offset(seed, prompt).")
        check_prefixes(self.prefixes, self.prompts)
        vocabulary, limit = model.vocabulary, model.context_length
        for index, ids in enumerate(self.prompts):
            where = "The prompt" if len(self.prompts) == 1 else f"Prompt {index}"
            if not ids:
                raise InputError(f"{where} is empty.", 'Type a prompt: thoughtmix think "Name a fruit."')
            if not all(0 <= i < vocabulary for i in ids):
                raise InputError(f"{where} has token ids outside 0..{vocabulary - 1}.", "Use this model's tokenizer.")
            budgets = [s.max_new_tokens for p, s in zip(self.prompt, self.sequences, strict=True) if p == index]
            budget = max(budgets, default=0)
            if limit is not None and model.encoder_decoder:
                if max(len(ids), 1 + budget) > limit:
                    raise InputError(
                        f"{where} has {len(ids)} tokens and is to have {budget} new ones; the model reads {limit} and "
                        f"writes {limit - 1}.",
                        "Shorten it, or ask for fewer (--max-new-tokens).",
                    )
            elif limit is not None and len(ids) + budget > limit:
                fewer = "Shorten it, or ask for fewer (--max-new-tokens)."
                raise InputError(
                    f"{where} has {len(ids)} tokens; with {budget} new ones that is over the model's {limit}.",
                    fewer if len(ids) < limit else f"Shorten it to under {limit} tokens.",
                )


class Job:
    """Rows in a batch. `live[i]` is the sequence (its index) whose row stands at place i of the job's rows.

    Args:
        model: Whose tokenizer and end tokens count.
        groups: What is asked.
        row_state, read, top_logprobs, keep_prefixes, without_replacement, on_step: As in `Engine.generate`.

    `result` is set when the last row has ended, or with what went wrong. Raises `InputError` for what cannot be served.
    """

    def __init__(
        self,
        model: LanguageModel,
        groups: PromptGroups,
        *,
        row_state: RowState = NO_ROW_STATE,
        read: Read = "shared",
        top_logprobs: int = 0,
        keep_prefixes: bool = False,
        without_replacement: bool = False,
        on_step: OnStep | None = None,
    ) -> None:
        groups.check(model)
        known = groups.prefixes
        if read != "shared" and (keep_prefixes or any(prefix is not None for prefix in known)):
            raise InputError("Rows that each read the prompt keep no prefix.", 'Pass read="shared".')
        sequences = self.sequences = groups.sequences
        if without_replacement and any(s.offset is not None for s in sequences):
            raise InputError("Sequences with an offset are not drawn without replacement.", "Leave one of the two out.")
        self.adjuster = row_state if isinstance(row_state, LogitsAdjuster) else None
        if without_replacement and self.adjuster is not None:
            raise InputError("Rows that change what is drawn are not drawn without replacement.", "Leave one out.")
        self._adjusted: Candidates | None = None  # of this step, kept until it is taken
        self.groups, self.row_state, self.read, self.on_step = groups, row_state, read, on_step
        self.top_logprobs, self.keep_prefixes = top_logprobs, keep_prefixes
        self.exclusions: WithoutReplacement | None = None
        if without_replacement:
            self.exclusions = WithoutReplacement([s.exclude for s in sequences], groups.prompt)
        # Other states than a LoRA read the whole prompt in their own way: what was read before is of no use to them.
        self.prefixes = known if row_state.is_lora and any(prefix is not None for prefix in known) else []
        # A prompt of which a prefix is known may give no logits: its last token is every row's own.
        # An encoder reads a prompt whole: there each row's own is the start token.
        suffix = row_state.unshared_suffix if read == "shared" and not model.encoder_decoder else 0
        suffix = max(suffix, 1) if self.prefixes else suffix
        self.suffix = self.ahead = min(suffix, min(map(len, groups.prompts)) - 1)  # ahead: not read by the rows yet
        self._together = sum(len(ids) - self.suffix for ids in groups.prompts)  # tokens that rows read together
        self.live = sorted(range(len(sequences)), key=lambda i: groups.prompt[i])  # neighbours share a prompt
        self.counts = [groups.prompt.count(p) for p in range(len(groups.prompts))]  # rows of each prompt
        row_state.reorder(self.live)
        self._prepare(model)
        self.step, self.began = 0, time.perf_counter()
        self.prefill_seconds, self.computed = 0.0, 0  # computed: tokens of its prompts that went through the model
        self.result: Future[Generation] = Future()

    def _prepare(self, model: LanguageModel) -> None:
        """What is known of the rows before they begin, in the order of `live`."""
        device, sequences = model.device, self.sequences
        self.end_ids = [model.eos_ids if s.end_ids is None else s.end_ids for s in sequences]
        self.budget = [s.max_new_tokens for s in sequences]
        self.guides: list[Guide | None] = []  # of each sequence; [] where none has a grammar
        if any(s.grammar is not None for s in sequences):
            pairs = zip(sequences, self.end_ids, strict=True)
            self.guides = [None if s.grammar is None else Guide(model, s.grammar, ends) for s, ends in pairs]
        self.outputs = [SequenceOutput() for _ in sequences]
        self.kept: list[Prefix | None] = [None] * len(sequences) if self.keep_prefixes else []
        whole = [None if guide is None else guide.whole for guide in self.guides] or [None] * len(sequences)
        self.texts = [
            IncrementalDetokenizer(model.codec, s.stop, ends, self._continued(i))
            for i, (s, ends) in enumerate(zip(sequences, whole, strict=True))
        ]
        self.lands_from = [max(1, s.max_new_tokens - s.landing) if s.landing else 0 for s in sequences]
        self.watch = [
            bool(s.stop or s.landing) or self.on_step is not None for s in sequences
        ]  # who needs text at every step
        in_order = [sequences[i] for i in self.live]
        drawn = [s.drawn for s in in_order]
        self.uniform = uniforms([s.seed for s in in_order], max(self.budget), device, drawn)  # (rows, steps)
        self.sampling = SamplingTensors.of([s.sampling for s in in_order], device)
        offsets = [s.offset for s in in_order]
        self.offset = torch.tensor([o or 0.0 for o in offsets], dtype=torch.float64, device=device)
        bits = [0.0 if o is None else OFFSET_BITS for o in offsets]
        self.offset_bits = torch.tensor(bits, dtype=torch.float64, device=device)  # of it that are left

    def _continued(self, i: int) -> list[int]:
        """The last tokens of the text that sequence i goes on with, if it does: what comes next may need its space."""
        return self.groups.prompts[self.groups.prompt[i]][-_LEAD:] if self.sequences[i].drawn else []

    # --- before the first step ---

    @property
    def heads(self) -> list[list[int]]:
        """Of each prompt what its rows read together."""
        return [ids[: len(ids) - self.suffix] for ids in self.groups.prompts]

    @property
    def capacity(self) -> int:
        """Most tokens that a row holds for itself."""
        return max(self.budget) + self.suffix

    @property
    def steps(self) -> int:
        """Most that its rows will take."""
        return max(self.budget) + self.ahead

    @property
    def tokens(self) -> int:
        """Most tokens whose keys and values it will hold."""
        return self._together + len(self.sequences) * self.capacity

    def tokens_by(self, length: int) -> int:
        """`tokens`, if no row drew more than `length`."""
        return self._together + len(self.sequences) * min(self.capacity, length + self.suffix)

    @property
    def start(self) -> Start:
        """For a path of its own."""
        return Start(self.heads, self.counts, self.capacity, self.prefixes, self.keep_prefixes, self.ahead > 0)

    def suffix_tokens(self, count: int) -> list[list[int]]:
        """The next so many tokens of its prompt that each live row reads by itself."""
        prompts = [self.groups.prompts[self.groups.prompt[i]] for i in self.live]
        tokens = [ids[len(ids) - self.ahead : len(ids) - self.ahead + count] for ids in prompts]
        self.ahead -= count
        return tokens

    # --- at each step ---

    def live_guides(self) -> list[Guide | None]:
        """Of each live row; None where it has none, or reads its prompt still."""
        if not self.guides or self.ahead:
            return [None] * len(self.live)
        return [self.guides[i] for i in self.live]

    @property
    def adjusts(self) -> bool:
        """Whether the next tokens are drawn from other logits than the model's."""
        return self.adjuster is not None and self.step > 0 and not self.ahead

    def draw_adjusted(
        self, logits: Tensor, hidden: Mapping[int, Tensor], uniform: Tensor, allowed: Tensor | None
    ) -> Drawn:
        """A token for each live row, from what the row state makes of the logits; that is worked out once a step,
        however often the batch has to draw.

        Args:
            logits: (rows, vocabulary), the model's.
            hidden: Of the job's rows, see `NotesHidden`.
            uniform: (rows,)
            allowed: What grammars leave of them, see `sampling.draw`.
        """
        assert self.adjuster is not None
        if not bool(torch.isfinite(logits.amax(-1)).all()):
            raise not_finite()
        if self._adjusted is None:
            shallow, deep = hidden[self.adjuster.shallow_layer], hidden[HEAD]
            open = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
            self._adjusted = self.adjuster.adjust(shallow, deep, open, self.sampling)
        return self._adjusted.draw(uniform, self.sampling.temperature, logits)

    def draw(self, logits: Tensor, allowed: Tensor | None = None) -> Drawn:
        """Without replacement: sequences in the order that they were asked for, whatever order their rows stand in."""
        assert self.exclusions is not None
        order = sorted(range(len(self.live)), key=lambda row: self.live[row])
        at = torch.tensor(order, device=logits.device)
        asked = [self.live[row] for row in order]
        before = [self.outputs[i].token_ids for i in asked]
        last = [self.step + 1 >= self.budget[i] for i in asked]
        uniform, sampling = self.uniform[at, self.step], self.sampling.rows(at)
        open = None if allowed is None else allowed[at]
        ids, logprobs, shares = self.exclusions.draw(logits[at], uniform, sampling, asked, before, last, open)
        for i, share in zip(asked, shares, strict=True):
            self.outputs[i].shares.append(share)
        back = at.argsort()
        drawn, none = torch.tensor(ids, device=logits.device)[back], torch.zeros_like(uniform)  # no row has an offset
        values = torch.tensor(logprobs, device=logits.device, dtype=torch.float64)[back]
        return Drawn(drawn, values, torch.ones_like(none), none)

    def take(
        self, logits: Tensor | None, ids: Sequence[int], logprobs: Sequence[float], path: DecodingPath, first: int
    ) -> list[int]:
        """Note a step's tokens of the live rows, tell who listens, and keep what ended rows have read.

        Args:
            logits: They were drawn from, (rows, vocabulary); only asked for with `top_logprobs`.
            first: Where the job's rows begin in the batch.

        Returns:
            Which of the live rows end here. Raises what `on_step` raises.
        """
        self._adjusted = None
        self._note(logits, ids, logprobs)
        gone = self._ended()
        self.step += 1
        self._report(gone)
        if self.keep_prefixes:
            for row in gone:
                i = self.live[row]
                read = [*self.groups.prompts[self.groups.prompt[i]], *self.outputs[i].token_ids[:-1]]
                self.kept[i] = path.keep(first + row, read)
        return gone

    def _note(self, logits: Tensor | None, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        if self.top_logprobs and logits is not None:
            best = logits.float().log_softmax(-1).topk(min(self.top_logprobs, logits.shape[-1]))
            for i, likeliest, values in zip(self.live, best.indices.tolist(), best.values.tolist(), strict=True):
                self.outputs[i].top.append((likeliest, values))
        for i, token, logprob in zip(self.live, ids, logprobs, strict=True):
            output = self.outputs[i]
            output.token_ids.append(token)
            output.logprobs.append(logprob)
            if token in self.end_ids[i]:
                output.finish = "stop"
                continue
            if not self.watch[i]:
                self.texts[i].ids.append(token)
            elif self.texts[i].push(token):
                output.finish = "stop"
            elif 0 < self.lands_from[i] <= len(output.token_ids) and ends_sentence(self.texts[i].text):
                output.finish = "sentence"
            guide = self.guides[i] if self.guides else None
            if guide is not None and guide.take(token):
                output.finish = "stop"

    def _ended(self) -> list[int]:
        gone = []
        for row, i in enumerate(self.live):
            output = self.outputs[i]
            if output.finish == "cancelled" and self.step + 1 >= self.budget[i]:
                output.finish = "length"
            if output.finish != "cancelled":
                gone.append(row)
        return gone

    def _report(self, gone: list[int]) -> None:
        if self.on_step is None:
            return
        ended = {self.live[row] for row in gone}
        pieces = [""] * len(self.sequences)
        for i in self.live:
            if i in ended:
                self.texts[i].finish()
            pieces[i] = self.texts[i].piece(final=i in ended)
        done = sum(len(output.token_ids) for output in self.outputs)
        finished = [output.finish != "cancelled" for output in self.outputs]
        self.on_step(StepEvent(pieces, done, sum(self.budget), finished, outputs=self.outputs))

    def stay(self, order: Sequence[int]) -> None:
        """Go on with these of the live rows, in this order."""
        self.live = [self.live[old] for old in order]
        if not self.live:
            return
        at = torch.tensor(order, dtype=torch.long, device=self.uniform.device)
        self.uniform, self.sampling = self.uniform[at], self.sampling.rows(at)
        self.row_state.reorder(order)

    # --- the end ---

    def end_soon(self) -> None:
        """Let the coming step be the last of every row, as if no more had been asked for."""
        self.budget = [min(budget, self.step + 1) for budget in self.budget]

    def cut(self) -> None:
        """End every row with what it has."""
        for i in self.live:
            if self.outputs[i].finish == "cancelled":
                self.outputs[i].finish = "length"

    def finish(self, path: DecodingPath, interrupted: bool = False) -> None:
        """All is drawn, or as much as there will be."""
        for output, text in zip(self.outputs, self.texts, strict=True):
            output.text = text.finish()
        computed = self.computed + self.suffix * len(self.sequences)
        computed += sum(len(output.token_ids) - 1 for output in self.outputs if output.token_ids)
        for i, output in enumerate(self.outputs):
            if self.lands_from[i] and output.finish == "length":
                output.cut_back(self.texts[i].tokens_of)
        self.result.set_result(
            Generation(
                self.outputs,
                path.name,
                path.weights_kind,
                self.prefill_seconds,
                time.perf_counter() - self.began,
                interrupted,
                computed,
                self.kept,
            )
        )
