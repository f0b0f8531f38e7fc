"""What thought branches add to a model. The numbers of a graft come from here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from thoughtmix.cost.size import Size

BRANCHES = 8
RANK = 8


@dataclass(frozen=True, slots=True)
class Graft:
    """`branches` updates of rank `rank` beside each down projection (f to d): per layer, branches x rank x (f + d)
    parameters and the strength of its noise; and the branches' odds, once. `thoughtmix.graft.MoTConfig`'s default."""

    branches: int = BRANCHES
    rank: int = RANK

    def parameters(self, size: Size) -> int:
        branches = sum(self.branches * self.rank * (f + d) + 1 for f, d in _sites(size))
        return branches + (self.branches if branches else 0)

    def maps(self, size: Size) -> int:
        """Multiply-adds a token: of all branches, since two products of all are quicker than picking a few."""
        return sum(self.branches * self.rank * (f + d) for f, d in _sites(size))

    def tuning(self, size: Size, tokens: float) -> float:
        """FLOPs a token of training the branches with the model frozen: forward, gradients through activations from
        the top down to the first branch, and the branches' own weight gradients. Frozen weights get none."""
        first = next((i for i, block in enumerate(size.blocks) if block.site is not None), None)
        if first is None:
            return 0.0
        below = size.blocks[: first + 1]  # nothing before the first branch can be trained, so nothing goes back there
        maps = size.maps - sum(block.maps for block in below)
        scores = size.scores(tokens) - size.scores(tokens, below)
        back = 2 * (maps + 2 * scores)  # a product of two activations has two gradients, of a weight and one only one
        return size.forward(tokens) + back + 3 * 2 * self.maps(size)


def _sites(size: Size) -> list[tuple[int, int]]:
    return [block.site for block in size.blocks if block.site is not None]
