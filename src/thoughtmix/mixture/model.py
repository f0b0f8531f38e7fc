"""The transformer: Llama's attention and rotary positions, Mixture-of-Thoughts layers where the feed-forward was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm, LlamaRotaryEmbedding

from thoughtmix.core.errors import InputError
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.engine.row_state import Read, without_row_state
from thoughtmix.mixture.branch import NoiseInjection, ThoughtBranch
from thoughtmix.mixture.config import MixtureOfThoughtsConfig
from thoughtmix.mixture.layer import LayerTrace, MixtureBlock, Modes
from thoughtmix.mixture.metrics import LayerMetrics, layer_metrics, signals
from thoughtmix.mixture.output import MixtureOutput
from thoughtmix.mixture.router import ThoughtRouter
from thoughtmix.mixture.state import (
    ALL_PROMPT,
    BranchRowState,
    BranchState,
    Segments,
    active_state,
    bind_to_cache,
    state_of_cache,
)
from thoughtmix.mixture.step import DecodingStep
from thoughtmix.models import LanguageModel

MODE_STD = 0.3


class MixtureOfThoughtsTransformer(PreTrainedModel, GenerationMixin):
    """A causal language model whose rows explore: row i draws its routes and noise from its own seed.

    Args:
        config: A `MixtureOfThoughtsConfig`, or any object with hidden_size, vocab_size, max_position_embeddings and
            num_hidden_layers.
    """

    config_class = MixtureOfThoughtsConfig
    config: MixtureOfThoughtsConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _tied_weights_keys = {"lm_head.weight": "embed.weight"}  # noqa: RUF012  transformers' own form
    _no_split_modules = ["MixtureBlock"]  # noqa: RUF012

    def __init__(self, config: Any) -> None:
        config = MixtureOfThoughtsConfig.from_any(config)
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.position == "learned"
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.rotary = LlamaRotaryEmbedding(config)
        self.layers = nn.ModuleList([MixtureBlock(config, i) for i in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # learned and global: 2 sigmoid(.) scales all noise
        self.creativity_factor = nn.Parameter(torch.zeros(()), requires_grad=config.noise != "none")
        self._calls = 0  # training forwards without seeds so far: each draws anew
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """N(0, 0.02), projections into the residual stream smaller by sqrt(2 layers) (Radford et al. 2019, 2.3). By
        transformers' own functions, which leave alone what a checkpoint has filled."""
        super()._init_weights(module)
        std = self.config.initializer_range
        into_stream = std * (2 * self.config.num_hidden_layers) ** -0.5
        if isinstance(module, LlamaAttention):
            init.normal_(module.o_proj.weight, std=into_stream)
        elif isinstance(module, ThoughtBranch):
            init.normal_(module.up, std=std)
            init.normal_(module.down, std=into_stream)
        elif isinstance(module, ThoughtRouter):
            init.zeros_(module.prior)
            init.zeros_(module.log_temperature)
        elif isinstance(module, Modes):
            init.normal_(module.direction, std=MODE_STD)
            init.normal_(module.preference, std=MODE_STD)
        elif isinstance(module, NoiseInjection):
            init.zeros_(module.strength)
        elif isinstance(module, MixtureOfThoughtsTransformer):
            init.zeros_(module.creativity_factor)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor,
        creativity_schedule: Sequence[float] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        creativity: float | Sequence[float] | Tensor | None = None,
        thought_seeds: Sequence[int] | Tensor | None = None,
        prompt_lengths: int | Sequence[int] | Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MixtureOutput:
        """Logits of every token; the arguments that are not named here are those of any causal model of transformers.

        Args:
            input_ids: (b, t).
            creativity_schedule: One value a layer in place of `creativity`, or a factor on it where both are given.
            labels: (b, t), shifted inside; -100 is ignored.
            creativity: One value, or one a row; None: the config's.
            thought_seeds: Whose draws each row uses; None: 0..b-1 with a cache, all 0 without one, so that what a text
                scores does not depend on its place in a batch (a new set at each call while training).
            prompt_lengths: Where each row's continuation begins: tokens before it are read deterministically, and the
                route is drawn from their mean. 0: the whole row is one thought, its route drawn from the learned prior.

        Returns:
            `MixtureOutput`, its logits (b, t, vocabulary).

        Raises:
            InputError: Lengths do not fit, or creativity is below 0.
        """
        b, t = input_ids.shape
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        state = self._state(b, input_ids.device, creativity, thought_seeds, prompt_lengths, past_key_values)
        seen = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        if position_ids is None:
            position_ids = torch.arange(seen, seen + t, device=input_ids.device)[None]
        x, traces = self.trace(input_ids, state, creativity_schedule, attention_mask, position_ids, past_key_values)
        hidden = self.norm(x)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        out = MixtureOutput(
            logits=self.lm_head(hidden[:, kept]),
            past_key_values=past_key_values,
            final_hidden_states=hidden,
        )
        if labels is not None:
            self._losses(out, labels, traces, kwargs.get("num_items_in_batch"))
        # Without a cache the same forward is run once more at the first look: nothing of this one is held until then.
        # What a cache held before this step is gone by then, so what the layers did in it is kept.
        again = (input_ids, state, creativity_schedule, attention_mask, position_ids)
        cached = past_key_values is not None
        lazy: Any = LayerMetrics(
            (lambda: _metrics_of(traces)) if cached else (lambda: _metrics_of(self._traces_again(*again)))
        )
        out.metrics = lazy
        return out

    def _state(
        self,
        b: int,
        device: torch.device,
        creativity: Any,
        seeds: Any,
        prompt_lengths: Any,
        cache: Any,
    ) -> BranchState:
        """Of the engine's rows, else of those that this cache began with, else as was passed. Rows that the engine
        decodes without a state are read deterministically: draws would depend on their places in the batch."""
        if without_row_state():
            return BranchState.create([0] * b, 0.0, ALL_PROMPT, device)
        state = active_state() or state_of_cache(cache)
        if state is not None:
            return state if len(state.seeds) == b else state.select([0] * b)
        if seeds is None:
            self._calls += self.training
            first = self._calls << 32 if self.training else 0
            shared = not self.training and cache is None
            seeds = [first] * b if shared else range(first, first + b)
        if len(seeds) != b:
            raise InputError(f"{len(seeds)} thought_seeds for {b} rows.", "Pass one a row.")
        given = torch.as_tensor(self.config.creativity if creativity is None else creativity, dtype=torch.float32)
        if given.ndim > 1 or given.numel() not in {1, b} or not bool((given >= 0).all()):
            raise InputError(f"creativity is {creativity}.", "Pass 0 or more: one value, or one a row.")
        state = BranchState.create(
            seeds, given, 0 if prompt_lengths is None else prompt_lengths, device, cache is not None
        )
        if cache is not None:
            bind_to_cache(cache, state)
        return state

    def trace(
        self,
        input_ids: Tensor,
        state: BranchState,
        schedule: Sequence[float] | None,
        mask: Tensor | None,
        position_ids: Tensor,
        cache: Any,
    ) -> tuple[Tensor, list[LayerTrace]]:
        """(b, t, d) before the last norm, and what each layer did: see `forward` for the arguments."""
        config = self.config
        if schedule is not None and len(schedule) != config.num_hidden_layers:
            raise InputError(
                f"creativity_schedule has {len(schedule)} values for {config.num_hidden_layers} layers.",
                "Pass one value a layer.",
            )
        b, t = input_ids.shape
        x = self.embed(input_ids)
        causal = create_causal_mask(
            config=config, inputs_embeds=x, attention_mask=mask, past_key_values=cache, position_ids=position_ids
        )
        cos, sin = self.rotary(x, position_ids=position_ids)
        if self.positions is not None:  # learned: added to the embeddings; a rotation by nothing
            if int(position_ids.max()) >= config.max_position_embeddings:
                raise InputError(
                    f"The text is longer than the {config.max_position_embeddings} learned positions.", "Shorten it."
                )
            x = x + self.positions(position_ids)
            cos, sin = torch.ones_like(cos), torch.zeros_like(sin)
        real = mask[:, -t:].float() if mask is not None and mask.ndim == 2 and not bool(mask.all()) else None
        segments = Segments.create(state, position_ids.expand(b, t), config.segment_length, real)
        factor = 2 * torch.sigmoid(self.creativity_factor)
        traces = []
        for index, block in enumerate(self.layers):
            here = segments
            if schedule is not None:
                here = segments.scale_creativity(float(schedule[index]) / (config.creativity or 1.0))
            x, trace = block(
                x, state, here, factor, position_embeddings=(cos, sin), attention_mask=causal, past_key_values=cache
            )
            if trace is not None:
                traces.append(trace)
        return x, traces

    def _losses(self, out: MixtureOutput, labels: Tensor, traces: list[LayerTrace], count: Any) -> None:
        assert out.logits is not None
        logits, target = out.logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()
        if count is None:
            out.lm_loss = F.cross_entropy(logits, target, ignore_index=-100)
        else:
            out.lm_loss = F.cross_entropy(logits, target, ignore_index=-100, reduction="sum") / count
        out.loss = out.lm_loss
        if traces:
            c = self.config
            found = [signals(trace, c.entropy_weight != 0, c.diversity_weight != 0) for trace in traces]
            out.signals = {name: torch.stack([f[name] for f in found]).mean() for name in found[0]}
            out.signals["diversity_by_layer"] = torch.stack([f["diversity"] for f in found]).detach()
            weights = {"balance": c.balance_weight, "entropy": c.entropy_weight, "diversity": c.diversity_weight}
            out.loss = out.lm_loss + sum(weight * out.signals[n] for n, weight in weights.items())

    @torch.no_grad()
    def _traces_again(
        self, ids: Tensor, state: BranchState, schedule: Any, mask: Tensor | None, positions: Tensor
    ) -> list[LayerTrace]:
        return self.trace(ids, state, schedule, mask, positions, None)[1]

    def decoding_step(self) -> DecodingStep | None:
        """What reads one token a row quicker than the forward, for one decoding run; None where nothing does."""
        plain = type(self) in (MixtureOfThoughtsTransformer, StandardTransformer)
        return DecodingStep(self) if plain and DecodingStep.supports(self, self.config) else None

    def generate_parallel_thoughts(
        self,
        input_ids: Tensor,
        num_parallel: int = 4,
        max_length: int = 50,
        *,
        creativity: Sequence[float] | float | None = None,
        seed: int = 0,
        temperature: float = 0.8,
        min_p: float = 0.0,
        read: Read = "shared",
    ) -> list[dict[str, Any]]:
        """Several thoughts of each prompt at rising creativity, in one batch: the original prototype's call.

        Args:
            input_ids: The prompts, (b, t).
            num_parallel: How many thoughts of each prompt.
            max_length: Most new tokens of each.
            creativity: One value, or one a thought; None: evenly spaced from 0.5 to 1.5.
            seed: Of the first thought; thought i has seed + i.
            temperature: Of the tokens, where creativity is above 0.
            min_p: Least probability of a token beside the likeliest.
            read: "shared", or "each": see `thoughtmix.engine.row_state.Read`.

        Returns:
            One dict a thought: `generated_ids` (b, t + new), padded on the right with the pad (else end, else first)
            token where a prompt's thought ended early; `creativity_level`; `metrics`, a list, one dict of numbers a
            layer; `branch_id`, the thought's number; `seed`.

        Raises:
            InputError: There is no thought to generate, or not one creativity a thought.
        """
        if num_parallel < 1:
            raise InputError(f"num_parallel is {num_parallel}.", "Pass 1 or more.")
        levels = _creativity_levels(creativity, num_parallel)
        prompts, ends = input_ids.tolist(), self._end_ids()
        sequences = [
            SequenceRequest(
                tuple(prompt),
                seed + i,
                SamplingParams(temperature=temperature * (level > 0), min_p=min_p),
                max_length,
                end_ids=ends,
            )
            for i, level in enumerate(levels)
            for prompt in prompts
        ]
        thoughts = self._decode_thoughts(prompts, sequences, [c for c in levels for _ in prompts], read)
        begins = input_ids.shape[1] if read == "shared" else 0
        found = []
        for i, (level, ids) in enumerate(zip(levels, thoughts, strict=True)):
            own = {"creativity": level, "thought_seeds": [seed + i] * len(ids), "prompt_lengths": begins}
            metrics = self._thought_metrics(ids, own)
            thought = {"generated_ids": ids, "creativity_level": level, "metrics": metrics, "branch_id": i}
            found.append({**thought, "seed": seed + i})
        return found

    def _decode_thoughts(
        self, prompts: list[list[int]], sequences: list[SequenceRequest], creativity: list[float], read: Read
    ) -> list[Tensor]:
        """Of each thought, whose rows over the prompts are neighbours: (prompts, t + new)."""
        tokenizer: Any = _NoText()
        row_state = BranchRowState([s.seed for s in sequences], creativity, self.device, self.config.tail)
        was_training = self.training
        self.eval()  # dropout is training's; noise is creativity's and stays
        try:
            engine = LocalEngine(LanguageModel(self, tokenizer, "MoT"))
            done = engine.generate(sequences, row_state=row_state, read=read)
        finally:
            self.train(was_training)
        pad = self.config.pad_token_id if self.config.pad_token_id is not None else min(self._end_ids(), default=0)
        found = []
        for at in range(0, len(sequences), len(prompts)):
            new = [output.token_ids for output in done.outputs[at : at + len(prompts)]]
            longest = max(map(len, new))
            full = [p + ids + [pad] * (longest - len(ids)) for p, ids in zip(prompts, new, strict=True)]
            found.append(torch.tensor(full, device=self.device))
        return found

    def _end_ids(self) -> frozenset[int]:
        end = None if self.generation_config is None else self.generation_config.eos_token_id
        return frozenset(end if isinstance(end, list) else [] if end is None else [end])

    @torch.no_grad()
    def _thought_metrics(self, ids: Tensor, own: dict[str, Any]) -> list[dict[str, Any]]:
        return list(self(ids, **own).metrics or [])


@torch.no_grad()
def _metrics_of(traces: Sequence[LayerTrace]) -> list[dict[str, Any]]:
    return [layer_metrics(trace, i) for i, trace in enumerate(traces)]


def _creativity_levels(creativity: Sequence[float] | float | None, n: int) -> list[float]:
    if creativity is None:
        return [1.0] if n == 1 else [0.5 + i / (n - 1) for i in range(n)]
    if isinstance(creativity, (int, float)):
        return [float(creativity)] * n
    if len(creativity) != n:
        raise InputError(f"creativity has {len(creativity)} values for {n} thoughts.", f"Pass one value, or {n}.")
    return [float(c) for c in creativity]


class _NoText:
    """Stands for a tokenizer where only ids are wanted."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return ""


class StandardTransformer(MixtureOfThoughtsTransformer):
    """The baseline from the same code: one branch, no router, no noise, no combiner; as wide as a token's active
    branches together."""

    def __init__(self, config: Any) -> None:
        config = MixtureOfThoughtsConfig.from_any(config)
        if config.num_branches != 1:
            config = type(config)(**{**config.to_dict(), "num_branches": 1, "branch_width": None, "shared_width": 0})
        super().__init__(config)


def register() -> None:
    """Make the Auto classes of transformers know the model; done when this module is imported."""
    AutoConfig.register(MixtureOfThoughtsConfig.model_type, MixtureOfThoughtsConfig, exist_ok=True)
    AutoModelForCausalLM.register(MixtureOfThoughtsConfig, MixtureOfThoughtsTransformer, exist_ok=True)


register()
