"""n thoughts as the n best different leaves of one searched tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request, StepEvent
from thoughtmix.core.sentences import sentence_end
from thoughtmix.core.types import FinishReason, Thought
from thoughtmix.engine.engine import Capability, Engine, lacking, local_model, require
from thoughtmix.engine.requests import one_sampling
from thoughtmix.thinkers.base import Thinker, Thoughts, Work, embedding_work, one_temperature, packaged_embedder

if TYPE_CHECKING:
    from thoughtmix.search.mcts import TreeSearch
    from thoughtmix.search.proposals import Proposal
    from thoughtmix.search.tree import Node

DEFAULT_WEIGHTS = "likelihood=1,repetition=1,substance=1"
TEXT_WEIGHTS, TEXT_STEP = (
    "relevance=1,repetition=1,substance=1",
    24,
)  # where there is only text, and a node is a request
LOCAL_NEEDS = frozenset({Capability.TOKENS, Capability.PREFIXES, Capability.WITHOUT_REPLACEMENT, Capability.WEIGHTS})
BUDGET = 4  # times n thoughts of full length


class SearchThinker(Thinker):
    name = "search"
    summary = "Tree search over partial thoughts (PUCT); n different good leaves; creativity is the temperature."
    creativity_is_temperature = True
    needs = frozenset({Capability.LEFT_TO_RIGHT})
    in_vllm = "by texts, as at an endpoint"
    elsewhere = (
        "a node is a request, a token a word, and the model is asked to go on; values by relevance and repetition "
        "unless told; likelihood and proposal=mixture are refused"
    )
    token_budget_option = "budget"

    class Options(ThinkerOptions):
        budget: int | None = option(
            None,
            f"Tokens drawn in all (left out: {BUDGET} times n thoughts of full length)",
            served=True,
            served_max="tokens",
            ge=1,
            old="tokens",
        )
        seconds: float | None = option(
            None,
            "Limit of time for the search itself, beside loading models and measuring; the set then depends on the "
            "machine, too",
            served=True,
            gt=0,
        )
        step: int = option(8, "Tokens of a node", served=True, ge=1)
        width: int = option(4, "Children drawn at a leaf", served=True, served_max="thoughts", ge=1)
        batch: int = option(4, "Leaves that are grown at once", served=True, served_max="thoughts", ge=1)
        rollouts: bool = option(False, "Judge a child by one continuation of it to the end", served=True)
        exploration: float = option(0.5, "Constant of PUCT", served=True, ge=0)
        evaluators: str = option(
            DEFAULT_WEIGHTS, "What is good, with weights; also novelty, relevance, length, judge", served=True
        )
        rubric: str = option("", "What the evaluator judge asks about an answer: a yes-or-no question")
        proposal: Literal["sampling", "mixture"] = option("sampling", "What draws: sampling, or mixture", served=True)
        apart: Literal["words", "embedding"] = option(
            "words", "How the set's differences are measured: by words, or embedding", served=True
        )

    def lacks(self, capabilities: frozenset[Capability]) -> list[Capability]:
        """A model in this process is searched by tokens, and must keep prefixes; another is asked to go on."""
        return lacking(self.needs | (LOCAL_NEEDS if Capability.WEIGHTS in capabilities else frozenset()), capabilities)

    def texts(self, n: int, options: ThinkerOptions) -> int:
        return BUDGET * n

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        """Each token drawn is read once; a text is embedded where meaning counts, again at each node that it grows."""
        given = self.Options.model_validate(options)
        drawn = given.budget or BUDGET * length * (n + given.batch * given.width * given.rollouts)
        drawn += n * length  # a thought that the budget leaves no room for gets one token, and the prompt's own
        embeds = given.apart == "embedding" or "relevance" in given.evaluators
        return Work(read + drawn) + embedding_work(embeds * (drawn // min(given.step, length) + n), length)

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """Leaves of one tree are not independent: here the *set* depends on (prompt, settings, seed) alone, where n is
        one of the settings. `Thought.seed` is the set's seed, and `origin` holds the leaf's path."""
        from thoughtmix.search.answers import answers
        from thoughtmix.search.settings import Limits

        options = self.Options.model_validate(request.options)
        search = self.begin(engine, prompt, request)
        most = options.budget or search.spent.drawn + default_budget(search, request.n)
        limits = Limits(most, options.seconds)
        search.explore(limits, request.n, lambda s: _report_progress(request, s.spent.drawn, most))
        self.explored(search)
        search.finish(limits, request.n)
        nodes = answers(search, request.n, search.distance)
        self.picked(nodes)
        thoughts = [as_thought(search, node, request.landing > 0) for node in nodes]
        if not search.interrupted:
            _report_progress(request, search.spent.drawn, most, [t.text for t in thoughts])
        return thoughts, {**search.facts, "interrupted": search.interrupted}

    def begin(self, engine: Engine, prompt: Prompt, request: Request) -> TreeSearch:
        """The search to grow."""
        return build(engine, prompt, request)

    def explored(self, search: TreeSearch) -> None:
        """Called when the tree is grown, before open leaves are completed."""

    def picked(self, nodes: list[Node]) -> None:
        """Called with the leaves that become the thoughts."""


def build(engine: Engine, prompt: Prompt, request: Request) -> TreeSearch:
    """The search that a request asks for, nothing grown yet. Raises `InputError`."""
    from thoughtmix.search.evaluators import embedding_distance, evaluators, parse_weights, word_distance
    from thoughtmix.search.mcts import TreeSearch
    from thoughtmix.search.settings import Settings
    from thoughtmix.search.writers import TextWriter

    options = SearchThinker.Options.model_validate(request.options)
    only_text = Capability.WEIGHTS not in engine.capabilities
    if only_text:
        options = _for_text(engine, options)
    else:
        require(engine, LOCAL_NEEDS, "The thinker search")
    weights = parse_weights(options.evaluators)
    judge = request.judge() if "judge" in weights and request.judge is not None else None
    if "judge" in weights and judge is None:
        raise InputError("The evaluator judge needs a model.", "Type: thoughtmix search PROMPT --judge MODEL ...")
    embeds = options.apart == "embedding" or "relevance" in weights
    embedder = (request.embedder or packaged_embedder)() if embeds else None
    distance = word_distance if options.apart == "words" or embedder is None else embedding_distance(embedder)
    settings = Settings(
        length=request.max_new_tokens,
        step=options.step,
        width=options.width,
        batch=options.batch,
        rollouts=options.rollouts,
        exploration=options.exploration,
        stop=request.stop,
    )
    judging = evaluators(weights, embedder=embedder, distance=distance, judge=judge, rubric=options.rubric)
    proposal = make_proposal(request, options)
    if only_text:
        writer = TextWriter(engine, prompt, proposal.sampling)
        return TreeSearch(writer, (), settings, judging, proposal, seed=request.seed, distance=distance)
    local = local_model(engine, "search")
    ids = local.encode(prompt)
    return TreeSearch(local, ids, settings, judging, proposal, seed=request.seed, distance=distance)


def _for_text(engine: Engine, options: SearchThinker.Options) -> SearchThinker.Options:
    """The options where an engine has only text to give. Raises `InputError` for what then cannot be."""
    from thoughtmix.search.evaluators import parse_weights

    if options.proposal == "mixture":
        require(engine, {Capability.ROW_STATE}, "proposal=mixture")
    given = options.model_fields_set
    if "evaluators" in given and "likelihood" in parse_weights(options.evaluators):
        raise InputError(
            f"The evaluator likelihood needs log-probabilities of every token, which {engine.name} need not give.",
            f"Pass others ({TEXT_WEIGHTS}), or use a local model.",
        )
    other = {"evaluators": TEXT_WEIGHTS, "step": TEXT_STEP}
    return options.model_copy(update={name: value for name, value in other.items() if name not in given})


def default_budget(search: TreeSearch, n: int) -> int:
    """Tokens: so many times n thoughts of full length, and as many rounds of rollouts."""
    s = search.settings
    return BUDGET * s.length * (n + s.batch * s.width * s.rollouts)


def make_proposal(request: Request, options: SearchThinker.Options) -> Proposal:
    """What draws, by the option of that name. Raises `InputError`."""
    from thoughtmix.search.proposals import MixtureProposal, SamplingProposal

    if options.proposal == "sampling":
        return SamplingProposal(one_sampling(request, one_temperature(request, "search"), "a search"))
    creativity = 1.0 if request.creativity is None else float(request.creativity)
    temperature = 0.7 if request.temperature is None else request.temperature
    return MixtureProposal(creativity, one_sampling(request, temperature, "a search"))


def as_thought(search: TreeSearch, node: Node, whole: bool = False) -> Thought:
    """A leaf as a thought. whole: one that the length has cut ends with its last sentence, if that leaves half."""
    from thoughtmix.search.writers import TokenWriter

    ids, logprobs, text = node.tokens, node.token_logprobs, node.text
    finish: FinishReason = node.finish or "cancelled"
    tokens = bool(search.writer.prompt_ids)  # else they are words
    end = sentence_end(text) if whole and finish == "length" else 0
    if end and 2 * end >= len(text):
        text, finish = text[:end], "sentence"
        if isinstance(search.writer, TokenWriter):
            decode = search.writer.engine.model.decode
            count = next(i for i in range(len(ids) + 1) if len(decode(ids[:i])) >= end)
            ids, logprobs = ids[:count], logprobs[:count]
    return Thought(
        text=text,
        token_ids=tuple(ids) if tokens else (),
        seed=search.tree.seed,
        logprob=float(sum(logprobs)) if tokens else None,
        finish=finish,
        token_logprobs=tuple(logprobs) if tokens else (),
        origin={
            "thinker": "search",
            "path": list(node.path),
            "value": node.value if node.value > float("-inf") else None,
            "judged": {name: round(v, 6) for name, v in node.scores.items() if v > float("-inf")},
        },
    )


def _report_progress(request: Request, done: int, total: int, texts: Sequence[str] = ()) -> None:
    if request.on_step is not None:
        pieces = list(texts) or [""] * request.n
        request.on_step(StepEvent(pieces, done, max(total, done), [bool(texts)] * request.n))


THINKER = SearchThinker()
