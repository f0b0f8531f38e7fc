"""Thoughts out of noise: each is denoised all at once, perhaps as the best of its own branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions, option
from thoughtmix.core.request import Prompt, Request, StepEvent, per_thought
from thoughtmix.core.types import Thought
from thoughtmix.engine.engine import Capability, Engine, LocalModelEngine, local_model
from thoughtmix.thinkers.base import Thinker, Thoughts, Work, one_temperature

if TYPE_CHECKING:
    from thoughtmix.diffusion.branching import BranchedRows, Frame
    from thoughtmix.diffusion.load import DiffusionModel
    from thoughtmix.diffusion.sampler import DenoisingConfig

DEFAULT_STEPS = 128
PolicyName = Literal[
    "random", "ancestral", "first-hitting", "confidence", "margin", "entropy", "threshold", "factor", "entropy-bound"
]


class DiffusionThinker(Thinker):
    name = "diffusion"
    summary = "Masked diffusion: a thought appears all at once out of noise; creativity is the temperature (0 greedy)."
    creativity_is_temperature = True
    needs = frozenset({Capability.TOKENS, Capability.WEIGHTS})

    class Options(ThinkerOptions):
        steps: int = option(
            DEFAULT_STEPS,
            "Forward passes a thought, or a token each where there are fewer",
            served=True,
            served_max="tokens",
            ge=1,
        )
        policy: PolicyName | None = option(
            None, "Which positions are decided first (random; at creativity 0 confidence)", served=True
        )
        remask: Literal["cap", "rescale", "confidence", "loop"] | None = option(
            None, "Take tokens back so that mistakes can be mended: cap, rescale, confidence or loop", served=True
        )
        block: int = option(0, "Fill in this many tokens at a time from left to right; 0: all", served=True, ge=0)
        branches: int = option(
            1,
            "Branches of each thought, which compete with each other alone",
            served=True,
            served_max="thoughts",
            ge=1,
        )
        compete: Literal["best", "diverse", "smc"] = option("best", "How they compete", served=True, old="select")
        score: Literal["fill", "path"] = option("fill", "What judges them midway", served=True)

    def suits(self, engine: Engine) -> bool:
        return super().suits(engine) and isinstance(engine, LocalModelEngine) and not engine.model.causal

    def made_for(self, engine: Engine) -> bool:
        return self.suits(engine)

    def texts(self, n: int, options: ThinkerOptions) -> int:
        return n * self.Options.model_validate(options).branches

    def work(self, engine: Engine, n: int, read: int, length: int, options: ThinkerOptions) -> Work:
        given = self.Options.model_validate(options)
        return Work(0, n * given.branches * (read + length) * denoising_passes(given, length))

    def think(self, engine: Engine, prompt: Prompt, request: Request) -> Thoughts:
        """A thought's log-probabilities are the model's at the step that kept each token. It depends on its own seed
        alone, whatever n is: branches compete within their thought."""
        from thoughtmix.diffusion.branching import BranchingConfig, branch
        from thoughtmix.diffusion.sampler import ForwardCost

        local, options = local_model(engine, self.name), self.Options.model_validate(request.options)
        diffusion, denoising, branches = _model(local), _denoising(request, options), options.branches
        branching = BranchingConfig(select=options.compete if branches > 1 else "none", score=options.score)
        state = _start_state(diffusion, local.encode(prompt), request)
        if branches > 1:
            state = state.fork([i for i in range(request.n) for _ in range(branches)])
        cost, interrupted = ForwardCost(), False
        done: BranchedRows | None = None
        with local.exclusive():
            latest = _Latest(request, branches)
            try:
                done = branch(diffusion, state, branching, denoising, group=branches, cost=cost, on_frame=latest)
            except KeyboardInterrupt:
                interrupted = True
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
            "path": "diffusion",
            "policy": denoising.policy.name,
            "row_passes": cost.row_passes,
            "calls": cost.calls,
            "tokens": request.n * request.max_new_tokens,
            "interrupted": interrupted,
        }
        if branches > 1 and trees:
            facts["ancestry"] = [tree.to_dict() for tree in trees]
        return thoughts, facts


def denoising_passes(options: DiffusionThinker.Options, length: int) -> int:
    """Most forward passes of a row."""
    if options.remask is not None or options.policy == "ancestral":
        return options.steps
    return (
        min(options.steps, length) if options.policy in {None, "random", "confidence", "margin", "entropy"} else length
    )


def _model(engine: LocalModelEngine) -> DiffusionModel:
    """Raises `InputError` for a model that writes from left to right."""
    from thoughtmix.diffusion.load import DEFAULT, wrap_diffusion

    model = engine.model
    if model.causal:
        raise InputError(
            f"{model.name} writes from left to right, diffusion needs a mask predictor.",
            f"Type --model {DEFAULT}, or train one: thoughtmix train diffusion --data FILE --out FOLDER.",
        )
    return wrap_diffusion(model.model, model.tokenizer, model.name)


def _denoising(request: Request, options: DiffusionThinker.Options) -> DenoisingConfig:
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
    kind = make_policy(options.policy or ("confidence" if greedy else "random"))
    if greedy and kind.name in {"ancestral", "first-hitting", "random"}:
        raise InputError(
            f"Policy {kind.name} draws positions, creativity 0 draws nothing.", "Pass --option policy=confidence."
        )
    if options.remask is not None and greedy:
        raise InputError("Remasking draws, creativity 0 draws nothing.", "Leave out remask.")
    return DenoisingConfig(
        kind,
        options.steps if kind.fixed_steps and not kind.one_per_step else None,
        options.block,
        None if options.remask is None else Remask(options.remask),
        top_p=float(top_p),
        min_p=float(min_p),
    )


def _start_state(model: DiffusionModel, prompt_ids: list[int], request: Request) -> Any:
    """n rows of the prompt and what is to be written after it."""
    from thoughtmix.diffusion.state import DiffusionState

    warm = per_thought("temperature", one_temperature(request, "diffusion"), request.n)
    total = len(prompt_ids) + request.max_new_tokens
    if model.context is not None and total > model.context:
        raise InputError(
            f"Prompt and thought have {total} tokens, {model.name} reads {model.context}.",
            "Shorten the prompt, or pass a smaller --max-new-tokens.",
        )
    prompts, device = [prompt_ids] * request.n, model.denoiser.device
    return DiffusionState.from_prompts(
        prompts, request.max_new_tokens, list(request.seeds), model.fill, list(warm), device
    )


def _thought(model: DiffusionModel, row: Any, seed: int, request: Request, thinker: str, interrupted: bool) -> Thought:
    """Of one row, cut where a stop string begins; what an interrupted one left undecided is left out."""
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
        if self.request.on_step is not None:
            n, left = self.request.n, frame.state.num_masked
            total = n * self.request.max_new_tokens
            done = total - int(left.sum()) // self.branches
            ready = (left.view(n, -1) == 0).all(1).tolist()
            self.request.on_step(StepEvent([""] * n, done, total, ready))


THINKER = DiffusionThinker()
