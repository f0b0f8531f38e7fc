"""The configuration of a Mixture-of-Thoughts transformer: a Llama-like one whose feed-forward blocks are mixtures."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig

from thoughtmix.core.errors import InputError

ROUTINGS = ("gumbel", "topk")
NOISES = ("held", "fresh", "none")
COMBINERS = ("attention", "weights")
POSITIONS = ("rope", "learned")


class MixtureOfThoughtsConfig(LlamaConfig):
    """The fields of `LlamaConfig` and those below.

    Attributes:
        intermediate_size: The feed-forward width that a token passes on average, all active branches together.
        num_branches: K; the original prototype's `num_thoughts` is the same. 1 is a standard transformer: no router, no
            noise, no combiner.
        branches_min: Fewest branches that a thought goes through at one layer; drawn per thought and layer.
        branches_max: Most of them.
        shared_width: Of a part that every token passes undisturbed, beside the branches; None: two fifths of
            `intermediate_size`; 0: none.
        branch_width: Of one branch; None: such that shared part and mean active branches are `intermediate_size` wide.
        routing: gumbel draws without replacement; topk takes the likeliest (what mixtures of experts do).
        segment_length: Tokens between two draws of a route; 0: one route for a whole continuation.
        follow: The route of each token follows its own state; what is drawn is noise on the router's logits, held for
            the thought. False: the route itself is drawn for the segment, from what lies before it.
        modes: Learned ways to continue; thought s has mode s mod modes: a direction added to what its branches read and
            a preference among them, at each layer. 0: none.
        tail: The last tokens of a prompt that each thought reads through its own branches, as it reads what it writes;
            with 0 its first token is drawn from what the prompt alone says, and modes begin behind it.
        diversity_bonus: Standard deviation of what is added to the router's logits of a thought.
        noise: held (one draw per thought, layer and branch), fresh (one per token too) or none.
        noise_scale: Of input and latent noise at creativity 1, in units of the signal's root mean square; learned
            within 0.5 to 1.5 of it.
        combiner: attention across branches, or the router's weights alone.
        combiner_rank: Width of that attention.
        creativity: Where a call names none.
        balance_weight: Of the signal that makes branches share the work, beside the language-model loss.
        entropy_weight: Of the signal that keeps the router open.
        diversity_weight: Of the signal that makes branches differ.
        position: rope or learned.
    """

    model_type = "thoughtmix_mixture"
    keys_to_ignore_at_inference = ["past_key_values", "metrics", "signals"]  # no predictions  # noqa: RUF012

    vocab_size: int = 256
    hidden_size: int = 128
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    max_position_embeddings: int = 512
    tie_word_embeddings: bool = True
    hidden_act: str = "gelu"
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    num_branches: int = 8
    branches_min: int = 2
    branches_max: int = 3
    shared_width: int | None = None
    branch_width: int | None = None
    routing: str = "gumbel"
    segment_length: int = 0
    follow: bool = False
    modes: int = 0
    tail: int = 0
    diversity_bonus: float = 0.1
    noise: str = "held"
    noise_scale: float = 0.1
    combiner: str = "attention"
    combiner_rank: int = 16
    creativity: float = 1.0
    balance_weight: float = 0.01
    entropy_weight: float = 0.01
    diversity_weight: float = 0.01
    position: str = "rope"

    def __post_init__(self, **kwargs: Any) -> None:
        if "num_thoughts" in kwargs:
            self._take_num_thoughts(kwargs.pop("num_thoughts"))
        if self.num_branches == 1:
            self.branches_min = self.branches_max = 1
            self.noise = "none"
            self.shared_width = self.modes = 0
            self.follow = False
        if self.shared_width is None:
            self.shared_width = int(0.4 * self.intermediate_size)
        if self.branch_width is None:
            mean = (self.branches_min + self.branches_max) / 2
            self.branch_width = max(1, round((self.intermediate_size - self.shared_width) / mean))
        super().__post_init__(**kwargs)
        self._check()

    def _take_num_thoughts(self, count: Any) -> None:
        """The prototype's name for `num_branches`. Branches to draw from are at most those that there are."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"num_thoughts is {count!r}.", "Pass a whole number, 1 or more.")
        default = type(self).num_branches
        if self.num_branches not in {default, count}:
            raise InputError(f"num_thoughts is {count}, num_branches {self.num_branches}.", "Pass one of the two.")
        self.num_branches = count
        if self.branches_max == type(self).branches_max:
            self.branches_max = min(self.branches_max, count)
        if self.branches_min == type(self).branches_min:
            self.branches_min = min(self.branches_min, count)

    def _check(self) -> None:
        if not 1 <= self.branches_min <= self.branches_max <= self.num_branches:
            raise InputError(
                f"{self.branches_min} to {self.branches_max} of {self.num_branches} branches cannot be drawn.",
                "Pass 1 <= branches_min <= branches_max <= num_branches.",
            )
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}.",
                "Change one of the two.",
            )
        for name, allowed in (
            ("routing", ROUTINGS),
            ("noise", NOISES),
            ("combiner", COMBINERS),
            ("position", POSITIONS),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}.", f"Pass one of {', '.join(allowed)}.")
        if self.follow and self.segment_length:
            raise InputError(
                f"Routes that follow the text, and a segment_length of {self.segment_length}.", "Pass one of the two."
            )
        for name in ("creativity", "noise_scale", "diversity_bonus", "segment_length", "modes", "tail"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}.", "Pass 0 or more.")

    @classmethod
    def from_any(cls, config: Any) -> MixtureOfThoughtsConfig:
        """From any object with hidden_size, vocab_size, max_position_embeddings and num_hidden_layers, as the original
        prototype took; whatever else it has by the names above counts too.

        Raises:
            InputError: One of the four is missing.
        """
        if isinstance(config, cls):
            return config
        given: dict[str, Any] = {}
        for name in ("hidden_size", "vocab_size", "max_position_embeddings", "num_hidden_layers"):
            if not isinstance(getattr(config, name, None), int):
                raise InputError(f"The config has no {name}.", f"Set config.{name} to a whole number.")
            given[name] = getattr(config, name)
        heads = max(1, given["hidden_size"] // 64)
        while given["hidden_size"] % (2 * heads):  # a head's width must be even for rotary positions
            heads -= 1
        defaults = {"num_attention_heads": heads, "intermediate_size": 4 * given["hidden_size"]}
        own = {n for n in cls.__annotations__ if n not in given} | {"num_attention_heads", "intermediate_size"}
        given |= {n: getattr(config, n, defaults.get(n)) for n in sorted(own) if hasattr(config, n) or n in defaults}
        if hasattr(config, "num_thoughts"):
            given["num_thoughts"] = config.num_thoughts
        return cls(**given)
