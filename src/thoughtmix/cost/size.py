"""What a model is made of, read off its modules: parameters, multiplications a token, what training keeps.

A linear map of m x n does mn multiply-adds a token; scores and mixing of an attention block do (q + v) of them a key,
with q and v its query and value widths over all heads. Of experts those count that run. Embeddings are looked up, norms
and activations are elementwise: neither is counted. A FLOP is a multiplication or an addition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.cost.read import context_length

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Attention:
    """query: width of all query heads (of queries and keys they meet); value: of all heads' values; cached: numbers
    kept a token in decoding; window: most keys a query sees, None for all; latent: keys and values are made from a
    smaller code, which is what the cache keeps (DeepSeek-V2)."""

    query: int
    value: int
    cached: int
    window: int | None = None
    latent: bool = False

    @property
    def kept(self) -> int:
        """Numbers a token that training keeps: queries, keys, values and what comes out."""
        return self.query + self.value + (self.query + self.value if self.latent else self.cached)

    def keys(self, tokens: float) -> float:
        return tokens if self.window is None else min(tokens, self.window)


@dataclass(frozen=True, slots=True)
class Block:
    """One layer. maps: multiply-adds a token of its linear maps. site: (in, out) of the map that a thought branch goes
    beside (the down projection; a block of experts as a whole), None if there is none. kept: numbers a token that
    training keeps for the backward pass."""

    maps: int
    attentions: tuple[Attention, ...]
    site: tuple[int, int] | None
    kept: int


@dataclass(frozen=True, slots=True)
class Size:
    """total, active: parameters; active leaves out the experts that do not run. outside: multiply-adds a token outside
    the blocks (the head, mostly). context: most tokens, None if not named. pairs: encoder-decoder, where a token stands
    for one of the source and one of the target."""

    total: int
    active: int
    width: int
    vocabulary: int
    outside: int
    blocks: tuple[Block, ...]
    context: int | None
    pairs: bool

    @property
    def maps(self) -> int:
        """Multiply-adds of linear maps, a token."""
        return self.outside + sum(block.maps for block in self.blocks)

    def scores(self, tokens: float, blocks: tuple[Block, ...] | None = None) -> float:
        """Multiply-adds of attention a token when each query meets `tokens` keys."""
        some = self.blocks if blocks is None else blocks
        return sum((a.query + a.value) * a.keys(tokens) for b in some for a in b.attentions)

    def forward(self, tokens: float) -> float:
        """FLOPs a token of a forward pass over sequences of `tokens`. A query is charged for every key of its sequence
        or window, also those after it: the convention of utilisation figures (Chowdhery et al. 2022, appendix B).
        """
        return 2 * (self.maps + self.scores(tokens))

    @property
    def cached(self) -> int:
        """Key and value numbers kept a token in decoding."""
        return sum(a.cached for b in self.blocks for a in b.attentions)

    def cache(self, tokens: float) -> float:
        """Key and value numbers of one sequence."""
        return sum(a.cached * a.keys(tokens) for b in self.blocks for a in b.attentions)

    @property
    def kept(self) -> int:
        """Numbers a token that training keeps, all blocks."""
        return sum(block.kept for block in self.blocks)


def measure(model: PreTrainedModel, title: str = "This model") -> Size:
    """Read a model's size off its modules, on whatever device they are. Raises `ModelError` for structures that these
    rules would miscount.
    """
    reader = _Reader(model, title)
    config: Any = model.config
    total = sum(p.numel() for p in model.parameters())
    return Size(
        total=total,
        active=total - reader.idle,
        width=reader.width,
        vocabulary=int(config.get_text_config().vocab_size),
        outside=reader.outside,
        blocks=tuple(reader.blocks()),
        context=context_length(config),
        pairs=bool(config.is_encoder_decoder),
    )


_OUT = ("o_proj", "out_proj", "o", "dense", "c_proj", "wo")
"""Names of the map out of an attention block, where a shape alone would not tell."""
_ELEMENTWISE = ("A_log",)  # decay rates of state-space models


class _Reader:
    """Walks the modules once. `maps`: block name -> [(path inside it, in, out, share of tokens)]."""

    def __init__(self, model: PreTrainedModel, title: str) -> None:
        self.model, self.title = model, title
        self.config: Any = model.config.get_text_config()
        head: Any = model.get_input_embeddings()
        self.width = int(getattr(self.config, "hidden_size", None) or head.weight.shape[1])
        # a module may stand in several places, and then does the work of each
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.prefixes = self._prefixes()
        self.maps: dict[str, list[tuple[str, int, int]]] = {name: [] for name in self.prefixes}
        self.experts: dict[str, tuple[str, float, int]] = {}  # block -> (path, multiply-adds a token, kept)
        self.outside = self.idle = 0
        self.missed: dict[str, int] = {}
        self.routers: set[int] = set()
        inside = self._read_experts()
        for name, module in self.modules.items():
            if not any(name == path or name.startswith(f"{path}.") for path in inside):
                self._read(name, module)
        if sum(self.missed.values()) > 0.01 * sum(p.numel() for p in model.parameters()):
            first = max(self.missed, key=lambda name: self.missed[name])
            raise ModelError(
                f"{title} holds matrices that are counted by no rule here ({first}).",
                "Type: thoughtmix cost with a transformer that maps with linear layers or experts.",
            )

    def _prefixes(self) -> tuple[str, ...]:
        """Names of the layers: members of the outermost module lists."""
        from torch import nn

        lists = [name for name, module in self.modules.items() if isinstance(module, nn.ModuleList)]
        outer = [n for n in lists if not any(n != m and n.startswith(f"{m}.") for m in lists)]
        names = [f"{name}.{i}" for name in outer for i in range(len(self.modules[name]))]
        return tuple(name for name in names if any(True for _ in self.modules[name].parameters()))

    def _block(self, name: str) -> tuple[str, str]:
        """(layer, path inside it); ("", name) outside all."""
        found = re.match(r"((?:[^.]+\.)*?\d+)(?:\.|$)", name)
        if found and found[1] in self.maps:
            return found[1], name[len(found[1]) + 1 :]
        return "", name

    def _read_experts(self) -> set[str]:
        """Count what each block of experts does for a token, and return the paths of the experts."""
        from thoughtmix.experts import find_moe_layers

        try:
            layers = find_moe_layers(self.model)
        except InputError:
            return set()
        except ModelError as error:
            raise ModelError(error.message, "Type: thoughtmix cost with another model.") from None
        inside = set()
        for layer in layers:
            path = f"{layer.name}.experts" if layer.name else "experts"
            inside.add(path)
            total = sum(p.numel() for p in layer.experts.parameters())
            matrices = sum(p.numel() for n, p in layer.experts.named_parameters() if p.ndim > 1 and "bias" not in n)
            share = layer.top_k / layer.num_experts
            self.idle += total - round(total * share)
            block, _ = self._block(layer.name)
            # a gated expert has 3 matrices of f x width and keeps 4 f
            kept = round(matrices * share / self.width * 4 / 3)
            self.experts[block] = (path, matrices * share, kept)
            for name, parameter in layer.router.named_parameters():
                self.routers.add(id(parameter))
                if name.endswith("weight") and parameter.ndim == 2:
                    self.maps[block].append((f"{layer.name}.router", parameter.shape[1], parameter.shape[0]))
        return inside

    def _read(self, name: str, module: nn.Module) -> None:
        from torch import nn

        for own, parameter in module._parameters.items():
            if parameter is None or parameter.ndim < 2 or id(parameter) in self.routers:
                continue
            shape = _map(module, own, parameter)
            block, path = self._block(name)
            if shape is None:
                if not isinstance(module, nn.Embedding) and own not in _ELEMENTWISE:
                    self.missed[f"{name}.{own}"] = parameter.numel()
            elif block:
                self.maps[block].append((path, *shape))
            else:
                self.outside += shape[0] * shape[1]

    def blocks(self) -> Iterator[Block]:
        for name in self.prefixes:
            attention = tuple(self._attentions(name))
            paths = [path for path, _ in attention]
            mlp = [
                m for m in self.maps[name]
                if not any(m[0].startswith(f"{p}.") or m[0] == p for p in paths) and not m[0].endswith(".router")
            ]  # fmt: skip
            site = self._site(name, mlp)
            _, work, kept = self.experts.get(name, ("", 0.0, 0))
            kept += 4 * self.width + sum(a.kept for _, a in attention)
            kept += sum(2 * out for _, _, out in mlp if out != self.width or site is None)
            yield Block(
                maps=round(sum(i * o for _, i, o in self.maps[name]) + work),
                attentions=tuple(a for _, a in attention),
                site=site,
                kept=kept,
            )

    def _site(self, name: str, mlp: list[tuple[str, int, int]]) -> tuple[int, int] | None:
        """The down projection is the layer's last map back to the hidden size outside attention, of a module without
        convolutions (a state-space mixer has one)."""
        if name in self.experts:
            return self.width, self.width
        for path, rows, out in reversed(mlp):
            parent = self.modules[f"{name}.{path}".rpartition(".")[0]]
            if out == self.width and not any(_is_convolution(child) for child in parent.children()):
                return rows, out
        return None

    def _attentions(self, block: str) -> Iterator[tuple[str, Attention]]:
        """(path, attention) of the modules called attention that hold linear maps themselves."""
        for name, module in self.modules.items():
            if not name.startswith(f"{block}.") or "attention" not in type(module).__name__.lower():
                continue
            maps = {n: s for n, c in module.named_children() if (s := _shape(c)) is not None}
            to_width = [n for n in maps if maps[n][1] == self.width]
            out = next((n for n in to_width if n in _OUT), to_width[-1] if to_width else None)
            if out is None:
                continue
            value = maps.pop(out)[0]
            found = self._attention(maps, value, block)
            if found is not None:
                yield name[len(block) + 1 :], found

    def _attention(self, maps: dict[str, tuple[int, int]], value: int, block: str) -> Attention | None:
        config = self.config
        query, cached = value, 0
        latent = "kv_b_proj" in maps
        if latent:
            query = value // config.v_head_dim * (config.qk_nope_head_dim + config.qk_rope_head_dim)
            cached = config.kv_lora_rank + config.qk_rope_head_dim
        elif {"k_proj", "v_proj"} <= set(maps):
            cached = maps["k_proj"][1] + maps["v_proj"][1]
        else:
            cached = sum(out for _, out in maps.values()) - value
        kind = self._kind(block)
        if kind.startswith("linear") or kind in {"conv", "mamba", "recurrent"}:
            return None
        window = None
        if "chunked" in kind:
            window = getattr(config, "attention_chunk_size", None)
        elif kind != "full_attention":
            window = getattr(config, "sliding_window", None)
        return Attention(query, value, cached, window if isinstance(window, int) else None, latent)

    def _kind(self, block: str) -> str:
        """The layer's kind in the configuration's list of them; "" where there is none."""
        kinds = getattr(self.config, "layer_types", None)
        number = int(block.rpartition(".")[2])
        return str(kinds[number]) if isinstance(kinds, (list, tuple)) and number < len(kinds) else ""


def _is_convolution(module: nn.Module) -> bool:
    """A real convolution, not GPT-2's `Conv1D`, which is a linear map."""
    from torch import nn

    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def _shape(module: nn.Module) -> tuple[int, int] | None:
    weight = module._parameters.get("weight")
    return None if weight is None or weight.ndim != 2 else _map(module, "weight", weight)


def _map(module: nn.Module, name: str, weight: Tensor) -> tuple[int, int] | None:
    """(in, out) of a parameter that multiplies every token; None for others."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if name != "weight":
        return None
    if isinstance(module, nn.Linear):
        return weight.shape[1], weight.shape[0]
    if isinstance(module, Conv1D):
        return weight.shape[0], weight.shape[1]
    if _is_convolution(module):
        return weight[0].numel(), weight.shape[0]
    return None
