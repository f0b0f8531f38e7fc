"""The packaged sentence embedder, all-MiniLM-L6-v2 (Reimers & Gurevych 2019), over torch and tokenizers alone.

It is six layers of BERT (Devlin et al. 2019), written out here because the class in transformers takes longer to import
than torch: every `thoughtmix think` would wait for it after the thoughts are there. tests/test_models_embed.py compares
the two, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thoughtmix.core.errors import ModelError
from thoughtmix.core.interruptible import interruptible
from thoughtmix.models.packaged import EMBEDDER

if TYPE_CHECKING:
    from torch import Tensor


class MiniLM:
    """Mean of the token states, normalised; up to 256 tokens a text. Safe for many threads.

    Raises:
        ModelError: The folder holds no such model.
    """

    name = EMBEDDER.title
    max_tokens = 256

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            self.width, self.heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            self.layers, self.epsilon = int(config["num_hidden_layers"]), float(config["layer_norm_eps"])
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.tokenizer.no_truncation()  # the file says 128 and pads to it
            self.tokenizer.no_padding()
            self._weights = load_file(folder / "model.safetensors", device=device)
            self.encode(["a"])  # are all weights there?
        except Exception as error:  # parsers and safetensors each have errors of their own
            reason = (str(error) or type(error).__name__).partition("\n")[0][:200].rstrip(".")
            raise ModelError(f"Cannot load {self.name}: {reason}.", "Type: thoughtmix pull") from None

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """(len(texts), d), rows of length 1."""
        import torch

        out = np.zeros((len(texts), self.width), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # like lengths: little padding
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            ids = [self._cut(each.ids) for each in self.tokenizer.encode_batch([texts[i] for i in part])]
            longest = max(map(len, ids))
            padded = torch.tensor([[*each, *[0] * (longest - len(each))] for each in ids])
            mask = torch.arange(longest) < torch.tensor([[len(each)] for each in ids])  # (texts, tokens)
            device = self._weights["embeddings.word_embeddings.weight"].device
            with torch.inference_mode(), interruptible():
                states = self._states(padded.to(device), mask.to(device))
                real = mask.to(device)[..., None].to(states.dtype)
                mean = (states * real).sum(1) / real.sum(1)  # never 0: [CLS] and [SEP] are always there
                out[part] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return out

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text, with the special tokens, all of a text that is too long."""
        return [len(each.ids) for each in self.tokenizer.encode_batch(list(texts))]

    def _cut(self, ids: list[int]) -> list[int]:
        """At most `max_tokens`, the last of which is [SEP] still."""
        return ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], ids[-1]]

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(texts, tokens, d) after the last layer. ids, mask: (texts, tokens)."""
        import torch.nn.functional as F

        w = self._weights
        n, t = ids.shape

        def linear(name: str, x: Tensor) -> Tensor:
            return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

        def norm(name: str, x: Tensor) -> Tensor:
            return F.layer_norm(x, (self.width,), w[f"{name}.weight"], w[f"{name}.bias"], self.epsilon)

        def heads(x: Tensor) -> Tensor:  # (texts, heads, tokens, d / heads)
            return x.view(n, t, self.heads, -1).transpose(1, 2)

        seen: Any = None if bool(mask.all()) else mask[:, None, None, :].expand(n, 1, t, t)
        x = F.embedding(ids, w["embeddings.word_embeddings.weight"])
        x = x + w["embeddings.token_type_embeddings.weight"][0]  # one text, no pair
        x = norm("embeddings.LayerNorm", x + w["embeddings.position_embeddings.weight"][:t])
        for i in range(self.layers):
            layer = f"encoder.layer.{i}"
            q, k, v = (heads(linear(f"{layer}.attention.self.{name}", x)) for name in ("query", "key", "value"))
            mixed = F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).reshape(n, t, self.width)
            x = norm(f"{layer}.attention.output.LayerNorm", linear(f"{layer}.attention.output.dense", mixed) + x)
            inner = F.gelu(linear(f"{layer}.intermediate.dense", x))
            x = norm(f"{layer}.output.LayerNorm", linear(f"{layer}.output.dense", inner) + x)
        return x
