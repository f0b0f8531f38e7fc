"""Thoughts out of noise: each is denoised all at once, perhaps as the best of its own branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.thinker import Request, StepEvent, per_thought

if TYPE_CHECKING:
    from thoughtmix.core.types import Thought
    from thoughtmix.diffusion.branching import BranchedRows, Frame
    from thoughtmix.diffusion.load import DiffusionModel
    from thoughtmix.diffusion.sampler import DenoisingConfig
    from thoughtmix.models import LanguageModel


class DiffusionThinker:
    name = "diffusion"
    summary = "Masked diffusion: a thought appears all at once out of noise; creativity is the temperature (0 greedy)."
    options: Mapping[str, str] = {
        "steps": "forward passes a thought (default: 128, or a token each where there are fewer)",
        "policy": "which positions are decided first: random (default), ancestral, first-hitting, confidence, ...",
        "remask": "take tokens back so that mistakes can be mended: cap, rescale, confidence or loop (default: none)",
        "block": "fill in this many tokens at a time from left to right (default 0: all)",
        "branches": "branches of each thought, which compete with each other alone (default 1)",
        "select": "how they do: best (default), diverse or smc",
        "score": "what judges them midway: fill (default) or path",
    }

    def suits(self, model: LanguageModel) -> bool:
        return not model.causal

    def think(
        self, model: LanguageModel, prompt_ids: Sequence[int], request: Request
    ) -> tuple[list[Thought], Mapping[str, Any]]:
        """A thought's log-probabilities are the model's at the step that kept each token. It depends on its own seed
        alone, whatever n is: branches compete within their thought."""
        from thoughtmix.diffusion.branching import BranchingConfig, branch
        from thoughtmix.diffusion.sampler import ForwardCost

        diffusion, plan = _model(model), _plan(request)
        branches = _whole(request, "branches", 1)
        select = str(request.options.get("select", "best"))
        how = BranchingConfig(
            select=select if branches > 1 else "none", score=str(request.options.get("score", "fill"))
        )
        state = _start_state(diffusion, prompt_ids, request)
        if branches > 1:
            state = state.fork([i for i in range(request.n) for _ in range(branches)])
        cost, latest = ForwardCost(), _Latest(request, branches)
        interrupted = False
        try:
            done: BranchedRows | None = branch(
                diffusion, state, how, plan, group=branches, cost=cost, on_frame=latest
            )  # fmt: skip
        except KeyboardInterrupt:
            interrupted, done = True, None
        if done is not None:
            rows = [done.ranked(i)[0] for i in range(request.n)]
            state, trees = done.state, done.trees
        else:
            rows, trees = list(range(0, len(state), branches)), ()
            state = latest.state if latest.state is not None else state
        thoughts = [
            _thought(diffusion, state.select_rows([row]), seed, request, self.name, interrupted)
            for row, seed in zip(rows, request.seeds, strict=True)
        ]
        facts: dict[str, Any] = {
            "path": "diffusion", "policy": plan.policy.name, "row_passes": cost.row_passes, "calls": cost.calls,
            "tokens": request.n * request.max_new_tokens, "interrupted": interrupted,
        }  # fmt: skip
        if branches > 1 and trees:
            facts["ancestry"] = [tree.to_dict() for tree in trees]
        return thoughts, facts


def _model(model: LanguageModel) -> DiffusionModel:
    """Raises `InputError` for a model that writes from left to right."""
    from thoughtmix.diffusion.load import DEFAULT, wrap_diffusion

    if model.causal:
        raise InputError(
            f"{model.name} writes from left to right, diffusion needs a mask predictor.",
            f"Type --model {DEFAULT}, or train one: thoughtmix train diffusion --data FILE --out FOLDER.",
        )
    return wrap_diffusion(model.model, model.tokenizer, model.name)


def _plan(request: Request) -> DenoisingConfig:
    from thoughtmix.diffusion.policies import make_policy
    from thoughtmix.diffusion.sampler import DenoisingConfig
    from thoughtmix.diffusion.schedules import Remask

    for name, off in (("top_k", 0), ("top_nsigma", 0.0)):
        if getattr(request, name) != off:
            raise InputError(f"diffusion has no {name}.", f"Leave it out (--{name.replace('_', '-')}), or use --top-p.")
    top_p, min_p = request.top_p, request.min_p or 0.0
    if isinstance(top_p, tuple) or isinstance(min_p, tuple):
        raise InputError("diffusion takes one top_p and min_p for all thoughts.", "Pass one value (--top-p 0.95).")
    greedy = request.creativity == 0
    kind = make_policy(str(request.options.get("policy", "confidence" if greedy else "random")))
    if greedy and kind.name in {"ancestral", "first-hitting", "random"}:
        raise InputError(
            f"Policy {kind.name} draws positions, creativity 0 draws nothing.", "Pass --option policy=confidence."
        )
    remask = request.options.get("remask")
    steps = None if kind.one_per_step else _whole(request, "steps", 128)
    if remask is not None and greedy:
        raise InputError("Remasking draws, creativity 0 draws nothing.", "Leave out remask.")
    return DenoisingConfig(
        kind, steps if kind.fixed_steps else None, _whole(request, "block", 0, least=0),
        None if remask is None else Remask(str(remask)), top_p=float(top_p), min_p=float(min_p),
    )  # fmt: skip


def _whole(request: Request, name: str, default: int, least: int = 1) -> int:
    value = request.options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(
            f"{name} is {value!r}.", f"Pass a whole number of {least} or more (--option {name}={max(default, 1)})."
        )
    return value


def _start_state(model: DiffusionModel, prompt_ids: Sequence[int], request: Request) -> Any:
    """n rows of the prompt and what is to be written after it."""
    from thoughtmix.diffusion.state import DiffusionState

    if request.creativity is not None and request.temperature is not None:
        raise InputError("For diffusion, creativity is the temperature: both were given.", "Pass only one.")
    heat = request.creativity if request.temperature is None else request.temperature
    warm = per_thought("temperature", 1.0 if heat is None else heat, request.n)
    total = len(prompt_ids) + request.max_new_tokens
    if model.context is not None and total > model.context:
        raise InputError(
            f"Prompt and thought have {total} tokens, {model.name} reads {model.context}.",
            "Shorten the prompt, or pass a smaller --max-new-tokens.",
        )
    return DiffusionState.from_prompts(
        [list(prompt_ids)] * request.n, request.max_new_tokens, list(request.seeds), model.fill, list(warm),
        model.denoiser.device,
    )  # fmt: skip


def _thought(model: DiffusionModel, row: Any, seed: int, request: Request, thinker: str, interrupted: bool) -> Thought:
    """Of one row, cut where a stop string begins; what an interrupted one left undecided is left out."""
    from thoughtmix.core.types import Thought

    written = (row.real & ~row.locked & ~row.masked)[0]
    ids, sure = row.ids[0][written].tolist(), row.confidence[0][written].double().clamp(min=1e-30).log().tolist()
    text, finish = model.decode(ids), "cancelled" if interrupted else "length"
    cut = min((at for s in request.stop if (at := text.find(s)) >= 0), default=-1)
    if cut >= 0:
        text, finish = text[:cut], "stop"
        n = next(i for i in range(len(ids) + 1) if len(model.decode(ids[:i])) >= cut)
        ids, sure = ids[:n], sure[:n]
    origin = {"thinker": thinker, "temperature": float(row.temperature[0])}
    return Thought(text, tuple(ids), seed, float(sum(sure)), finish, tuple(sure), origin)  # type: ignore[arg-type]


class _Latest:
    """Keeps the newest state, and tells the caller how far it is. Text appears everywhere at once: its pieces are told
    when all is decided."""

    def __init__(self, request: Request, branches: int) -> None:
        self.request, self.branches = request, branches
        self.state: Any = None

    def __call__(self, frame: Frame) -> None:
        self.state = frame.state
        if self.request.on_step is None:
            return
        n, left = self.request.n, frame.state.num_masked
        total = n * self.request.max_new_tokens
        done = total - int(left.sum()) // self.branches
        ready = (left.view(n, -1) == 0).all(1).tolist()
        self.request.on_step(StepEvent([""] * n, done, total, ready))


THINKER = DiffusionThinker()
