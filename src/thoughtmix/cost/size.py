"""What a model is made of: parameters, multiply-adds a token, what training keeps, what thought branches add to it.

A linear map of m x n does mn multiply-adds a token; scores and mixing of an attention block do (q + v) of them a key,
with q and v its query and value widths over all heads. Of experts those count that run. Embeddings are looked up, norms
and activations are elementwise: neither is counted. A FLOP is a multiplication or an addition.
"""

from __future__ import annotations

from dataclasses import dataclass

BRANCHES = 8
RANK = 8


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention module."""

    query: int  # width of all query heads (of queries and the keys they meet)
    value: int  # width of all heads' values
    cached: int  # numbers a token in the KV cache
    window: int | None = None  # most keys that a query sees; None: all
    latent: bool = False  # keys and values are made from a smaller code, which is what the cache keeps (DeepSeek-V2)

    @property
    def saved(self) -> int:
        """Numbers a token that training saves: queries, keys, values and what comes out."""
        return self.query + self.value + (self.query + self.value if self.latent else self.cached)

    def keys(self, tokens: float) -> float:
        return tokens if self.window is None else min(tokens, self.window)


@dataclass(frozen=True, slots=True)
class Block:
    """One layer."""

    macs: int  # multiply-adds a token of its linear maps
    attentions: tuple[Attention, ...]
    site: tuple[int, int] | None  # (in, out) of what a thought branch goes beside: the down projection, or all experts
    saved: int  # numbers a token that training saves for the backward pass


@dataclass(frozen=True, slots=True)
class Size:
    """What is counted of one model."""

    total: int  # parameters
    active: int  # parameters without the experts that do not run
    width: int
    vocabulary: int
    outside_macs: int  # multiply-adds a token outside the blocks, in the head mostly
    blocks: tuple[Block, ...]
    context: int | None  # most tokens; None if the configuration does not say
    encoder_decoder: bool  # a token then stands for one of the source and one of the target

    @property
    def macs(self) -> int:
        """Multiply-adds of linear maps, a token."""
        return self.outside_macs + sum(block.macs for block in self.blocks)

    def attention_macs(self, tokens: float, blocks: tuple[Block, ...] | None = None) -> float:
        """Multiply-adds of attention a token when each query meets `tokens` keys."""
        some = self.blocks if blocks is None else blocks
        return sum((a.query + a.value) * a.keys(tokens) for b in some for a in b.attentions)

    def forward(self, tokens: float) -> float:
        """FLOPs a token of a forward pass over sequences of `tokens`. A query is charged for every key of its sequence
        or window, also those after it: the convention of utilisation figures (Chowdhery et al. 2022, appendix B).
        """
        return 2 * (self.macs + self.attention_macs(tokens))

    def cache(self, tokens: float) -> float:
        """Key and value numbers of one sequence."""
        return sum(a.cached * a.keys(tokens) for b in self.blocks for a in b.attentions)

    @property
    def saved(self) -> int:
        """Numbers a token that training saves, all blocks."""
        return sum(block.saved for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Graft:
    """`branches` updates of rank `rank` beside each down projection (f to d): per layer, branches x rank x (f + d)
    parameters and the strength of its noise; and the branches' odds, once. The defaults are `MoTConfig`'s."""

    branches: int = BRANCHES
    rank: int = RANK

    def parameters(self, size: Size) -> int:
        branches = sum(self.branches * self.rank * (f + d) + 1 for f, d in _sites(size))
        return branches + (self.branches if branches else 0)

    def macs(self, size: Size) -> int:
        """Multiply-adds a token: of all branches, since two products of all are quicker than picking a few."""
        return sum(self.branches * self.rank * (f + d) for f, d in _sites(size))

    def tuning(self, size: Size, tokens: float) -> float:
        """FLOPs a token of training the branches with the model frozen: forward, gradients through activations from
        the top down to the first branch, and the branches' own weight gradients. Frozen weights get none."""
        first = next((i for i, block in enumerate(size.blocks) if block.site is not None), None)
        if first is None:
            return 0.0
        below = size.blocks[: first + 1]  # nothing before the first branch can be trained, so nothing goes back there
        macs = size.macs - sum(block.macs for block in below)
        attention = size.attention_macs(tokens) - size.attention_macs(tokens, below)
        back = 2 * (
            macs + 2 * attention
        )  # a product of two activations has two gradients, of a weight and one only one
        return size.forward(tokens) + back + 3 * 2 * self.macs(size)


def _sites(size: Size) -> list[tuple[int, int]]:
    return [block.site for block in size.blocks if block.site is not None]
