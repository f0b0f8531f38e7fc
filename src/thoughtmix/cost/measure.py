"""From a name to a size: the configuration is read, the modules are made on the meta device, and counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.cost.size import Attention, Block, Size

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

_TYPE = "Type: thoughtmix cost FOLDER (or config.json, or org/name; the default model without)."


def find_config(name: str | None = None) -> tuple[Any, str]:
    """The configuration of a model, and its title.

    Args:
        name: None or "default"; a folder or a config.json; a Hugging Face id `org/name`, the only case in which a hub
            is asked, and then for the configuration alone.

    Raises:
        ModelError: There is no such model, or its configuration cannot be read.
    """
    from thoughtmix.models.checkpoint import locate, read_config
    from thoughtmix.models.hardware import DTYPES
    from thoughtmix.models.packaged import GENERATOR, ensure, folder_of, ready

    try:
        if name is None or name in {"default", GENERATOR.title}:
            at = next((folder_of(GENERATOR, d) for d in DTYPES if ready(GENERATOR, d)), None)
            return read_config(str(at or ensure(GENERATOR)), GENERATOR.title), GENERATOR.title
        path = Path(name)
        if name.endswith(".json") and path.is_file():
            title = path.resolve().parent.name if path.name == "config.json" else path.stem
            return read_config(str(path.parent if path.name == "config.json" else path), title), title
        source, title, hub = locate(name)
        return read_config(source, title, hub=hub), title
    except ModelError as error:  # its hint speaks of --model
        raise ModelError(error.message, _TYPE) from None


def build_on_meta(config: Any, title: str) -> PreTrainedModel:
    """The model on the meta device: modules and shapes, not one weight. Of a model that also sees or hears, the text
    part.

    Raises:
        ModelError: transformers makes no language model of this configuration.
    """
    import torch
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
    )

    from thoughtmix.models.checkpoint import require_causal
    from thoughtmix.models.hardware import quiet

    makers: tuple[tuple[Any, Any], ...] = (
        (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoModelForSeq2SeqLM),
        (MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
    )
    for part in (config.get_text_config(), config):
        maker = next((make for known, make in makers if type(part) in known), None)
        if maker is None:
            continue
        try:
            if maker is AutoModelForCausalLM:
                require_causal(part, title)
            with quiet(), torch.device("meta"):
                model: PreTrainedModel = maker.from_config(part)
        except ModelError as error:
            raise ModelError(error.message, _TYPE) from None
        except Exception as error:  # whatever a model's own code raises at sizes that do not fit together
            reason = str(error).strip().partition("\n")[0][:200].rstrip(".") or type(error).__name__
            raise ModelError(f"Cannot lay out {title}: {reason}.", f"Check its config.json. {_TYPE}") from None
        return model
    raise ModelError(f"{title} is not a language model that transformers makes ({config.model_type}).", _TYPE)


def _context_length(config: Any) -> int | None:
    """Most tokens that the configuration names."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def measure(model: PreTrainedModel, title: str = "This model") -> Size:
    """Count a model by its modules, on whatever device they are.

    Raises:
        ModelError: These rules would miscount its structure.
    """
    counter = _Counter(model, title)
    config: Any = model.config
    total = sum(p.numel() for p in model.parameters())
    return Size(
        total=total,
        active=total - counter.idle,
        width=counter.width,
        vocabulary=int(config.get_text_config().vocab_size),
        outside_macs=counter.outside_macs,
        blocks=tuple(counter.blocks()),
        context=_context_length(config),
        encoder_decoder=bool(config.is_encoder_decoder),
    )


_OUT = ("o_proj", "out_proj", "o", "dense", "c_proj", "wo")
"""Names of the map out of an attention block, where a shape alone would not tell."""
_ELEMENTWISE = ("A_log",)  # decay rates of state-space models


class _Counter:
    """Walks the modules once. `maps`: block name -> [(path inside it, in, out)]."""

    def __init__(self, model: PreTrainedModel, title: str) -> None:
        self.model, self.title = model, title
        self.config: Any = model.config.get_text_config()
        head: Any = model.get_input_embeddings()
        self.width = int(getattr(self.config, "hidden_size", None) or head.weight.shape[1])
        # a module may stand in several places, and then does the work of each
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.prefixes = self._prefixes()
        self.maps: dict[str, list[tuple[str, int, int]]] = {name: [] for name in self.prefixes}
        self.experts: dict[str, tuple[str, float, int]] = {}  # block -> (path, multiply-adds a token, saved)
        self.outside_macs = self.idle = 0
        self.missed: dict[str, int] = {}
        self.routers: set[int] = set()
        inside = self._count_experts()
        for name, module in self.modules.items():
            if not any(name == path or name.startswith(f"{path}.") for path in inside):
                self._count(name, module)
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

    def _count_experts(self) -> set[str]:
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
            saved = round(matrices * share / self.width * 4 / 3)
            self.experts[block] = (path, matrices * share, saved)
            for name, parameter in layer.router.named_parameters():
                self.routers.add(id(parameter))
                if name.endswith("weight") and parameter.ndim == 2:
                    self.maps[block].append((f"{layer.name}.router", parameter.shape[1], parameter.shape[0]))
        return inside

    def _count(self, name: str, module: nn.Module) -> None:
        from torch import nn

        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim < 2 or id(parameter) in self.routers:
                continue
            shape = _map(module, own, parameter)
            block, path = self._block(name)
            if shape is None:
                if not isinstance(module, nn.Embedding) and own not in _ELEMENTWISE:
                    self.missed[f"{name}.{own}"] = parameter.numel()
            elif block:
                self.maps[block].append((path, *shape))
            else:
                self.outside_macs += shape[0] * shape[1]

    def blocks(self) -> Iterator[Block]:
        for name in self.prefixes:
            attention = tuple(self._attentions(name))
            paths = [path for path, _ in attention]
            mlp = [
                m
                for m in self.maps[name]
                if not any(m[0].startswith(f"{p}.") or m[0] == p for p in paths) and not m[0].endswith(".router")
            ]
            site = self._site(name, mlp)
            _, work, saved = self.experts.get(name, ("", 0.0, 0))
            saved += 4 * self.width + sum(a.saved for _, a in attention)
            saved += sum(2 * out for _, _, out in mlp if out != self.width or site is None)
            yield Block(
                macs=round(sum(i * o for _, i, o in self.maps[name]) + work),
                attentions=tuple(a for _, a in attention),
                site=site,
                saved=saved,
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
        layer_type = self._layer_type(block)
        if layer_type.startswith("linear") or layer_type in {"conv", "mamba", "recurrent"}:
            return None
        window = None
        if "chunked" in layer_type:
            window = getattr(config, "attention_chunk_size", None)
        elif layer_type != "full_attention":
            window = getattr(config, "sliding_window", None)
        return Attention(query, value, cached, window if isinstance(window, int) else None, latent)

    def _layer_type(self, block: str) -> str:
        """The layer's type in the configuration's list of them; "" where there is none."""
        types = getattr(self.config, "layer_types", None)
        number = int(block.rpartition(".")[2])
        return str(types[number]) if isinstance(types, (list, tuple)) and number < len(types) else ""


def _is_convolution(module: nn.Module) -> bool:
    """A real convolution, not GPT-2's `Conv1D`, which is a linear map."""
    from torch import nn

    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def _shape(module: nn.Module) -> tuple[int, int] | None:
    weight = dict(module.named_parameters(recurse=False)).get("weight")
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
