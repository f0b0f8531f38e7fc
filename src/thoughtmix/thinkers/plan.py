"""First n different specifications, then an answer to each: what makes answers differ is said before they are."""

from __future__ import annotations

from typing import Any

from thoughtmix.asking.conversation import PARAGRAPH, TURN, is_text, restated, wording
from thoughtmix.asking.draws import DrawOptions
from thoughtmix.asking.enumerating import DEMONSTRATION, ListRequest, enumerate_answers
from thoughtmix.asking.progress import Progress
from thoughtmix.asking.specifications import Specification, most_different, specifications
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request
from thoughtmix.engine.engine import Capability, Engine, LocalModelEngine
from thoughtmix.engine.requests import as_thoughts, run_facts, sampling_params, thought_sequences
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.thinkers.base import (
    Thinker,
    Thoughts,
    Work,
    add_facts,
    embedding_work,
    one_temperature,
    packaged_embedder,
    sum_facts,
)  # fmt: skip

DEFAULT_TEMPERATURE = 0.8
_WORDS = 16  # tokens of a specification
_LISTED = 4  # ideas of a list: what follows in a longer one is copied
_WRITTEN = frozenset({"auto", "model", "ideas"})


class PlanThinker(Thinker):
    name = "plan"
    summary = "First n different specifications (angle, form...), then an answer to each; creativity is temperature."
    creativity_is_temperature = True
    needs = frozenset({Capability.LEFT_TO_RIGHT})
    in_vllm = "draws=arithmetic is refused"
    elsewhere = "draws=arithmetic and branches are refused"
    streams = True

    class Options(DrawOptions):
        source: str = option(
            "auto",
            "Where specifications come from: ideas, short answers of the model's, each then written out; model, which "
            "writes directions for the prompt; catalogue; noise, its directions; or FILE, one a line; auto: ideas of a "
            "model in this process, else model",
            served=True,
            served_pattern="auto|ideas|model|catalogue|noise",
        )
        factor: int = option(
            2, "Specifications written for each that is used: the most different are", served=True, ge=1, le=16
        )
        demonstrations: int = option(1, "Lists of specifications that are shown before", served=True, ge=0, le=1)

    def texts(self, n: int, options: ThinkerOptions) -> int:
        """Specifications are short: all of them together count as a quarter of the answers."""
        own = self.Options.model_validate(options)
        return n + (-(-n * own.factor // 8) if own.source in _WRITTEN else 0)

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        given = self.Options.model_validate(options)
        count = n * given.factor
        writes = given.source in _WRITTEN
        first = (read + given.demonstrations * DEMONSTRATION + TURN + count * _WORDS) * writes
        return Work(first + n * (read + TURN + _WORDS + length)) + embedding_work(max(count, 64), _WORDS)

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """The specifications depend on (prompt, settings, n, seed); thought i then draws by its own seed, so the *set*
        depends on all of these. `origin` has the specification and where it came from. The specifications together
        have at most 16 tokens each, n * factor of them; what is missing of them comes from the catalogue. Ideas are
        drawn in short lists side by side."""
        options = self.Options.model_validate(request.options)
        params = sampling_params(request, one_temperature(request, self.name, DEFAULT_TEMPERATURE))
        progress = Progress(request, request.n * (request.max_new_tokens + options.factor * _WORDS))
        found, runs = self._found(engine, prompt, request, options, params[0], progress)
        chosen = most_different(found, request.n, request.embedder or packaged_embedder)
        prompts = [restated(engine, prompt, one.asked(prompt.text)) for one in chosen]
        seeds = request.seeds
        offsets = options.offsets(engine, prompts, seeds)
        stop = (*request.stop, *(PARAGRAPH if is_text(engine, prompt) else ()))
        done = engine.generate(
            thought_sequences(request, prompts, params, offsets, stop),
            row_state=options.row_state(engine, seeds),
            on_step=progress.showing(range(request.n)),
        )
        origins = [
            {
                "thinker": self.name,
                "specification": one.text,
                "specified_by": one.source,
                "temperature": sampling.temperature,
            }
            for one, sampling in zip(chosen, params, strict=True)
        ]
        facts = run_facts(done)
        facts = add_facts(sum_facts(runs), facts) if runs else facts
        return as_thoughts(done.outputs, seeds, origins), {**facts, "specifications": len(found)}

    def _found(
        self,
        engine: Engine,
        prompt: Prompt,
        request: Request,
        options: PlanThinker.Options,
        sampling: SamplingParams,
        progress: Progress,
    ) -> tuple[list[Specification], list[dict[str, Any]]]:
        """n * factor specifications, or as many as the source has, n at least; and facts about the runs."""
        wanted = request.n * options.factor
        source = options.source
        if source == "auto":
            source = "ideas" if isinstance(engine, LocalModelEngine) else "model"
        if source not in _WRITTEN:
            return specifications(source, request.n), []
        ideas = source == "ideas"
        asked = ListRequest(
            prompt=prompt,
            seed=request.seed,
            sampling=sampling,
            tokens=wanted * _WORDS,
            shown=0 if ideas else options.demonstrations,
            rounds=1 if ideas else 2,
            ask=wording()["plan"]["ideas" if ideas else "ask"],
            demonstrations="" if ideas else "direction",
        )
        counts = [min(_LISTED, wanted - begun) for begun in range(0, wanted, _LISTED)] if ideas else [wanted]
        made = enumerate_answers(engine, asked, counts, progress)
        answers = [answer for one in made.lists for answer in one if answer.finish == "stop"]
        texts = [answer.text.split("\n")[0].strip(' .:;,*"“”') for answer in answers]
        written = [Specification(text, source) for text in texts if text and len(text.split()) <= _WORDS]
        if len(written) < request.n:
            written += specifications("catalogue", request.n - len(written))[: request.n - len(written)]
        return written, made.runs


THINKER = PlanThinker()
