"""One answer after another: each thought sees earlier ones and is asked for another, in chains side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from thoughtmix.asking.conversation import (
    PARAGRAPH,
    TURN,
    Conversation,
    Turns,
    demonstrations,
    is_text,
    restated,
    wording,
)
from thoughtmix.asking.draws import DrawOptions
from thoughtmix.asking.enumerating import DEMONSTRATION
from thoughtmix.asking.progress import Progress
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.engine.engine import Capability, Engine, Generation, SequenceOutput, SequenceRequest
from thoughtmix.engine.requests import as_thoughts, run_facts, sampling_params
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.thinkers.base import Thinker, Thoughts, Work, one_temperature, sum_facts

DEFAULT_TEMPERATURE = 0.7
_SHOWN = 3  # answers of a demonstration


class IterateThinker(Thinker):
    name = "iterate"
    summary = "Each thought sees earlier ones and is asked for another; creativity is the temperature."
    creativity_is_temperature = True
    needs = frozenset({Capability.LEFT_TO_RIGHT})
    in_vllm = "the conversation is read anew at each turn, from what vLLM has kept of it; draws=arithmetic is refused"
    elsewhere = "the conversation is read anew at each turn; draws=arithmetic and branches are refused"

    class Options(DrawOptions):
        chains: int = option(
            4,
            "Conversations side by side; thought i is in number i mod chains",
            served=True,
            served_max="thoughts",
            ge=1,
        )
        sees: Literal["own", "all"] = option(
            "all", "Which earlier thoughts: own, those of its chain; all, those of all rounds before", served=True
        )
        demonstrations: int = option(
            2, "Conversations that are shown before, which small models need", served=True, ge=0, le=2
        )

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        given = self.Options.model_validate(options)
        turns, chains = -(-n // given.chains), min(given.chains, n)
        talks = 1 if given.sees == "all" else chains
        first = talks * (read + given.demonstrations * DEMONSTRATION)
        asked = n * TURN
        kept = Capability.PREFIXES in engine.capabilities and not given.branches
        again = 0 if kept else (turns - 1) * (first + n * (length + TURN))
        return Work(first + asked + n * length + (n * length if given.sees == "all" else 0) + again)

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """Thought i draws by its own seed and depends on the thoughts that it sees, so on (prompt, settings, their
        seeds, its own); never on n. All chains take one turn in one batch, and what was read of a conversation is not
        read again where the engine can keep it. One that outgrows the model's context forgets its older half."""
        options = self.Options.model_validate(request.options)
        params = sampling_params(request, one_temperature(request, self.name, DEFAULT_TEMPERATURE))
        rounds = _Rounds(engine, prompt, request, options)
        k = rounds.chains
        outputs: list[SequenceOutput] = []
        runs: list[dict[str, Any]] = []
        while len(outputs) < request.n:
            begun = len(outputs)
            done = rounds.take_turn(range(begun, min(begun + k, request.n)), params)
            outputs += done.outputs
            runs.append(run_facts(done))
            if done.interrupted or all(output.error is not None for output in done.outputs):
                break
        seeds = request.seeds[: len(outputs)]
        origins = [
            {"thinker": self.name, "temperature": params[i].temperature, "chain": i % k, "turn": i // k}
            for i in range(len(outputs))
        ]
        rounds.progress.finish()
        return as_thoughts(outputs, seeds, origins), {**sum_facts(runs), "missing": request.n - len(outputs)}


class _Rounds:
    """The conversations: one a chain, or one for all that see all."""

    def __init__(self, engine: Engine, prompt: Prompt, request: Request, options: IterateThinker.Options) -> None:
        self.engine, self.request, self.options = engine, request, options
        self.chains = min(options.chains, request.n)
        self.stop = (*request.stop, *(PARAGRAPH if is_text(engine, prompt) else ()))
        self.asked = restated(engine, prompt, prompt.text, _demonstrations(prompt, options.demonstrations))
        count = 1 if options.sees == "all" else self.chains
        self.conversations = [self._begin() for _ in range(count)]
        self.answers: list[list[SequenceOutput]] = [[] for _ in range(count)]
        self.progress = Progress(request, request.n * request.max_new_tokens)

    def _begin(self) -> Conversation:
        return Conversation(self.engine, self.asked, keep=not self.options.branches)

    def take_turn(self, thoughts: Sequence[int], params: Sequence[SamplingParams]) -> Generation:
        """The next thoughts, one of each chain, in one batch."""
        talks = [self.conversations[i % len(self.conversations)] for i in thoughts]
        seeds = [self.request.seed + i for i in thoughts]
        prompts = [talk.asked for talk in talks]
        offsets = self.options.offsets(self.engine, prompts, seeds)
        keep = all(talk.keeps for talk in talks)
        most, landing = self.request.max_new_tokens, self.request.landing_tokens
        done = self.engine.generate(
            [
                SequenceRequest(
                    prompt,
                    seed,
                    params[i],
                    most,
                    self.stop,
                    offset=offset,
                    prefix=talk.prefix,
                    landing=landing,
                )
                for i, prompt, seed, offset, talk in zip(thoughts, prompts, seeds, offsets, talks, strict=True)
            ],
            row_state=self.options.row_state(self.engine, seeds),
            keep_prefixes=keep,
            on_step=self.progress.showing(thoughts),
        )
        prefixes = done.prefixes or [None] * len(talks)
        for i, output, prefix in zip(thoughts, done.outputs, prefixes, strict=True):
            if output.error is None:
                number = i % len(self.conversations)
                self._go_on(number, output, prefix if thoughts[number] == i else None)
        return done

    def _go_on(self, number: int, output: SequenceOutput, prefix: Any) -> None:
        """Put an answer behind its conversation, and ask for another."""
        self.answers[number].append(output)
        talk = self.conversations[number]
        talk.answered(output, prefix)
        talk.ask(wording()["iterate"]["again"])
        if not talk.fits(self.request.max_new_tokens):
            kept = self.answers[number] = self.answers[number][(len(self.answers[number]) + 1) // 2 :]
            talk = self.conversations[number] = self._begin()
            for earlier in kept:
                talk.answered(earlier)
                talk.ask(wording()["iterate"]["again"])


def _demonstrations(prompt: Prompt, count: int) -> Turns:
    """Conversations of a few answers each."""
    out: list[tuple[str, str]] = []
    for one in demonstrations(prompt, count):
        asked = [one["question"], *[wording()["iterate"]["again"]] * (_SHOWN - 1)]
        out += zip(asked, one["answers"][:_SHOWN], strict=True)
    return out


THINKER = IterateThinker()
