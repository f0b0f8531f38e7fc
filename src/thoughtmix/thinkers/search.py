"""n thoughts as the n best different leaves of one searched tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.thinker import Request, StepEvent

if TYPE_CHECKING:
    from thoughtmix.core.types import Thought
    from thoughtmix.engine import Sampler
    from thoughtmix.models import LanguageModel
    from thoughtmix.search.grow import TreeSearch
    from thoughtmix.search.proposals import Proposal
    from thoughtmix.search.tree import Node

DEFAULT_WEIGHTS = "likelihood=1,repetition=1"
BUDGET = 4  # times n thoughts of full length


class SearchThinker:
    name = "search"
    summary = "Tree search over partial thoughts (PUCT); n different good leaves; creativity is the temperature."
    options: Mapping[str, str] = {
        "tokens": f"budget: tokens drawn in all (default: {BUDGET} times n thoughts of full length)",
        "seconds": "limit of time; the set then depends on the machine, too (default: none)",
        "step": "tokens of a node (default 8)",
        "width": "children drawn at a leaf (default 4)",
        "batch": "leaves that are grown at once (default 4)",
        "rollouts": "true: judge a child by one continuation of it to the end (default false)",
        "exploration": "constant of PUCT (default 0.5)",
        "evaluators": f"what is good, with weights (default {DEFAULT_WEIGHTS}); also novelty, relevance, length",
        "proposal": "what draws: sampling (default), or mixture",
        "apart": "how the set's differences are measured: words (default), or embedding",
    }

    def suits(self, model: LanguageModel) -> bool:
        return model.causal

    def think(
        self, model: LanguageModel, prompt_ids: Sequence[int], request: Request
    ) -> tuple[list[Thought], Mapping[str, Any]]:
        """Leaves of one tree are not independent: here the *set* depends on (prompt, settings, seed) alone, where n is
        one of the settings. `Thought.seed` is the set's seed, and `origin` holds the leaf's path."""
        from thoughtmix.search.answers import answers
        from thoughtmix.search.grow import Limits

        search = self.begin(model, prompt_ids, request)
        seconds = request.options.get("seconds")
        most = int(_number(request, "tokens", search.spent.drawn + default_budget(search, request.n), 1))
        limits = Limits(most, None if seconds is None else _number(request, "seconds", 0.0, 0.0))
        search.explore(limits, request.n, lambda s: _tell(request, s.spent.drawn, most))
        self.explored(search)
        search.finish(limits, request.n)
        nodes = answers(search, request.n, search.apart)
        self.picked(nodes)
        thoughts = [as_thought(search, node) for node in nodes]
        if not search.interrupted:
            _tell(request, search.spent.drawn, most, [t.text for t in thoughts])
        return thoughts, {**search.facts, "interrupted": search.interrupted}

    def begin(self, model: LanguageModel, prompt_ids: Sequence[int], request: Request) -> TreeSearch:
        """The search to grow."""
        return build(model, prompt_ids, request)

    def explored(self, search: TreeSearch) -> None:
        """Called when the tree is grown, before open leaves are completed."""

    def picked(self, nodes: list[Node]) -> None:
        """Called with the leaves that become the thoughts."""


def build(
    model: LanguageModel, prompt_ids: Sequence[int], request: Request, judge: Any = None, rubric: str = ""
) -> TreeSearch:
    """The search that a request asks for, nothing grown yet. judge: a model, or what loads one. Raises `InputError`."""
    from thoughtmix.models import load_embedder
    from thoughtmix.search.apart import embedding_apart, words_apart
    from thoughtmix.search.evaluators import evaluators, parse_weights
    from thoughtmix.search.grow import Settings, TreeSearch

    options = request.options
    kind = str(options.get("apart", "words"))
    if kind not in {"words", "embedding"}:
        raise InputError(f"apart is {kind!r}.", "Pass apart=words or apart=embedding (--option).")
    weights = parse_weights(str(options.get("evaluators", DEFAULT_WEIGHTS)))
    if "judge" in weights and judge is None:
        raise InputError("The evaluator judge needs a model.", "Type: thoughtmix search PROMPT --judge MODEL ...")
    embedder = load_embedder() if kind == "embedding" or "relevance" in weights else None
    apart = words_apart if kind == "words" or embedder is None else embedding_apart(embedder)
    settings = Settings(
        length=request.max_new_tokens,
        step=int(_number(request, "step", 8, 1)),
        width=int(_number(request, "width", 4, 1)),
        batch=int(_number(request, "batch", 4, 1)),
        rollouts=str(options.get("rollouts", False)).lower() in {"true", "1", "yes"},
        exploration=_number(request, "exploration", 0.5, 0),
        stop=request.stop,
    )
    parts = {"embedder": embedder, "apart": apart, "judge": judge, "rubric": rubric}
    return TreeSearch(
        model, prompt_ids, settings, evaluators(weights, **parts), proposal(request),
        seed=request.seed, apart=apart, path=request.path, weights=request.weights,
    )  # fmt: skip


def default_budget(search: TreeSearch, n: int) -> int:
    """Tokens: so many times n thoughts of full length, and as many rounds of rollouts."""
    s = search.settings
    return BUDGET * s.length * (n + s.batch * s.width * s.rollouts)


def proposal(request: Request) -> Proposal:
    """By the option of that name. Raises `InputError`."""
    from thoughtmix.search.proposals import MixtureProposal, SamplingProposal

    kind = str(request.options.get("proposal", "sampling"))
    if kind == "sampling":
        if request.creativity is not None and request.temperature is not None:
            raise InputError("For search, creativity is the temperature: both were given.", "Pass only one.")
        return SamplingProposal(
            _sampler(request, request.creativity if request.temperature is None else request.temperature, 1.0)
        )
    if kind == "mixture":
        creativity = 1.0 if request.creativity is None else float(request.creativity)
        return MixtureProposal(creativity, _sampler(request, request.temperature, 0.7))
    raise InputError(f"proposal is {kind!r}.", "Pass proposal=sampling or proposal=mixture (--option).")


def as_thought(search: TreeSearch, node: Node) -> Thought:
    """A leaf as a thought."""
    from thoughtmix.core.types import Thought

    logprobs = node.token_logprobs
    return Thought(
        text=node.text,
        token_ids=tuple(node.tokens),
        seed=search.tree.seed,
        logprob=float(sum(logprobs)),
        finish=node.finish or "cancelled",
        token_logprobs=tuple(logprobs),
        origin={
            "thinker": "search",
            "path": list(node.path),
            "value": node.value if node.value > float("-inf") else None,
            "judged": {name: round(v, 6) for name, v in node.scores.items() if v > float("-inf")},
        },
    )


def _sampler(request: Request, temperature: Any, default: float) -> Sampler:
    from thoughtmix.engine import Sampler
    from thoughtmix.thinkers._common import DEFAULT_MIN_P

    given: dict[str, Any] = {
        "temperature": default if temperature is None else temperature, "top_k": request.top_k, "top_p": request.top_p,
        "min_p": DEFAULT_MIN_P if request.min_p is None else request.min_p, "top_nsigma": request.top_nsigma,
    }  # fmt: skip
    for name, value in given.items():
        if isinstance(value, (tuple, list)):
            raise InputError(f"{name} has a value a thought, but a search has one tree.", f"Pass one {name}.")
    return Sampler(**given)


def _number(request: Request, name: str, default: float, least: float) -> float:
    value = request.options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
        raise InputError(f"{name} is {value!r}.", f"Pass a number of {least:g} or more (--option {name}={default:g}).")
    if isinstance(default, int) and value != int(value):
        raise InputError(f"{name} is {value!r}.", f"Pass a whole number (--option {name}={default:g}).")
    return value


def _tell(request: Request, done: int, total: int, texts: Sequence[str] = ()) -> None:
    if request.on_step is not None:
        pieces = list(texts) or [""] * request.n
        request.on_step(StepEvent(pieces, done, max(total, done), [bool(texts)] * request.n))


THINKER = SearchThinker()
