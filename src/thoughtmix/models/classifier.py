"""Models that judge texts by a number: whether two say the same, and how good an answer is. NoveltyBench's own by name.

`load_sameness` and `load_reward` take a folder, a Hugging Face id, or "novelty-bench" for what that benchmark uses
(Zhang et al. 2025): a DeBERTa-v3 classifier of pairs, and Skywork's reward model on Gemma 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thoughtmix.core.errors import InputError, ModelError, NumericsError
from thoughtmix.models.chat_template import render
from thoughtmix.models.checkpoint import locate
from thoughtmix.models.hardware import quiet, usable_device
from thoughtmix.models.text_encoder import TextEncoder

NOVELTY_BENCH = "novelty-bench"
SAMENESS, SAMENESS_TOKENIZER = "yimingzhang/deberta-v3-large-generation-similarity", "microsoft/deberta-v3-large"
SAMENESS_THRESHOLD = 0.102
REWARD = "Skywork/Skywork-Reward-Gemma-2-27B-v0.2"
GRADES = (-7.71875, -6.28125, -6.0, -5.71875, -5.5, -5.0, -4.375, -3.4375, -2.046875)
"""NoveltyBench's thresholds between its grades 1 to 10, of that reward model alone."""
Floats = NDArray[np.float64]


class Sameness:
    """A classifier of pairs: the probability that two answers say the same, label 1 of a two-label model.

    A pair is read as [CLS] a [SEP] b [SEP], each text cut after 128 tokens, as NoveltyBench has it.
    """

    longest = 128
    """Tokens of a text that are read."""

    def __init__(self, model: Any, tokenizer: Any, name: str, threshold: float = 0.5) -> None:
        lacks = [mark for mark in ("cls_token_id", "sep_token_id") if getattr(tokenizer, mark, None) is None]
        if model.config.num_labels != 2 or lacks:
            raise ModelError(
                f"{name} is no classifier of pairs: {model.config.num_labels} labels, {2 - len(lacks)} of CLS, SEP.",
                "Name one with two labels, or pass novelty-bench.",
            )
        self.model, self.tokenizer, self.name, self.threshold = model, tokenizer, name, threshold

    def probabilities(self, pairs: Sequence[tuple[str, str]], batch_size: int = 16) -> Floats:
        """(pairs,) P(the same). Raises `NumericsError` when the model gives NaN."""
        import torch

        rows = [self._row(a, b) for a, b in pairs]
        out, fills = np.zeros(len(rows)), (self._pad, 0, 0)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
        with torch.inference_mode():
            for at in range(0, len(order), batch_size):
                part = order[at : at + batch_size]
                width = max(len(rows[i][0]) for i in part)
                padded = [[_padded(x, width, fill) for x, fill in zip(rows[i], fills, strict=True)] for i in part]
                ids, kinds, mask = torch.tensor(padded, device=self.model.device).unbind(1)  # (part, width) each
                more = {"token_type_ids": kinds} if getattr(self.model.config, "type_vocab_size", 0) else {}
                logits = self.model(input_ids=ids, attention_mask=mask, **more).logits.double()
                out[part] = logits.softmax(-1)[:, 1].cpu().numpy()
        return _finite(out, self.name)

    def same(self, a: str, b: str) -> bool:
        """Whether a pair is the same: its probability exceeds the threshold."""
        return bool(self.probabilities([(a, b)])[0] > self.threshold)

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    def _row(self, a: str, b: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Token ids, which text each is of, and ones."""
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        first, second = (self._ids(text) for text in (a, b))
        ids = (cls, *first, sep, *second, sep)
        return ids, (*[0] * (len(first) + 2), *[1] * (len(second) + 1)), (1,) * len(ids)

    def _ids(self, text: str) -> list[int]:
        found = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=self.longest, verbose=False)
        return list(found["input_ids"])


class Reward:
    """A reward model: one number for an answer to a prompt, read after the whole conversation in its chat template.

    The names of control tokens in a prompt or an answer are text to it, so that no answer can end its turn and praise
    itself.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, grades: Sequence[float] = ()) -> None:
        if model.config.num_labels != 1 or not tokenizer.chat_template:
            lacks = "no chat template" if model.config.num_labels == 1 else f"{model.config.num_labels} labels"
            raise ModelError(
                f"{name} is no reward model: it has {lacks}.", "Name one of chats (--reward novelty-bench)."
            )
        self.model, self.tokenizer, self.name, self.grades = model, tokenizer, name, tuple(grades)
        """grades: thresholds that rise, between grades from 1."""
        self.encoder = TextEncoder(tokenizer, name)
        self._end = self._closing()

    def __call__(self, prompt: str, answers: Sequence[str]) -> Floats:
        """(n,) rewards, higher is better.

        Raises:
            InputError: A conversation is longer than the model reads.
            NumericsError: The model gives NaN or infinity.
        """
        import torch

        most = getattr(self.model.config, "max_position_embeddings", None)
        out = np.zeros(len(answers))
        with torch.inference_mode():
            for i, answer in enumerate(answers):  # one by one: where padding ends differs from model to model
                ids = [*self.encoder.chat(self._chat(prompt, answer)), *self._end]
                if most is not None and len(ids) > most:
                    raise InputError(
                        f"Prompt and answer have {len(ids)} tokens, {self.name} reads {most}.", "Lower --budget."
                    )
                row = torch.tensor([ids], device=self.model.device)
                out[i] = float(self.model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, 0])
        return _finite(out, self.name)

    def _chat(self, prompt: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer.strip() or "."}]

    def _closing(self) -> list[int]:
        """What the template puts after an answer."""
        chat = self._chat("x", "x")
        whole, begun = (render(self.tokenizer, chat, goes_on=goes_on) for goes_on in (False, True))
        tail = whole[len(begun) :] if whole.startswith(begun) else ""
        return list(self.tokenizer(tail, add_special_tokens=False)["input_ids"]) if tail else []


def load_sameness(name: str, device: str = "auto") -> Sameness:
    """A classifier of pairs. NoveltyBench's has its tokenizer elsewhere, and a threshold of 0.102.

    Raises:
        InputError: The device does not exist.
        ModelError: It cannot be loaded, or classifies no pairs.
    """
    own = name in {NOVELTY_BENCH, SAMENESS}
    model, tokenizer, title = _load(
        SAMENESS if own else name, SAMENESS_TOKENIZER if own else None, device, "float32", 2
    )
    return Sameness(model, tokenizer, title, SAMENESS_THRESHOLD if own else 0.5)


def load_reward(name: str, device: str = "auto", dtype: str = "auto") -> Reward:
    """A reward model of one label. Of NoveltyBench's the grades are known.

    Raises:
        InputError: The device does not exist.
        ModelError: It cannot be loaded, or gives no reward.
    """
    own = name in {NOVELTY_BENCH, REWARD}
    model, tokenizer, title = _load(REWARD if own else name, None, device, dtype, 1)
    return Reward(model, tokenizer, title, GRADES if own else ())


def _load(name: str, tokenizer_name: str | None, device: str, dtype: str, labels: int) -> tuple[Any, Any, str]:
    """Model, tokenizer and title."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    device = usable_device(device)
    source, title, hub = locate(name, "config.json")
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    auto: Any = AutoModelForSequenceClassification
    try:
        with quiet(downloads=hub):
            tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_name or source, local_files_only=not hub)
            config: Any = AutoConfig.from_pretrained(source, local_files_only=not hub)
            kinds = config.architectures or []
            if name == REWARD:
                config.num_labels = labels
            if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
                raise ModelError(f"{title} classifies no texts ({', '.join(kinds) or 'no class'}).", _HINT[labels])
            model = auto.from_pretrained(source, config=config, dtype=getattr(torch, dtype), local_files_only=not hub)
    except ModelError:
        raise
    except Exception as error:  # parsers, safetensors and the hub each have errors of their own
        reason = str(error).strip().partition("\n")[0][:200].rstrip(".")
        raise ModelError(f"Cannot load {title}: {reason}.", _HINT[labels]) from None
    return model.to(device).eval().requires_grad_(False), tokenizer, title


_HINT = {
    1: "Name a reward model, or leave --reward out.",
    2: "Name a classifier of pairs, or pass --equivalence words.",
}


def _padded(row: Sequence[int], width: int, fill: int) -> list[int]:
    return [*row, *[fill] * (width - len(row))]


def is_classifier(name: str) -> bool:
    """Whether a model that can be found classifies texts, by its config. Raises `ModelError` where it is not found."""
    from transformers import AutoConfig

    source, title, hub = locate(name, "modules.json", "config.json")
    try:
        config: Any = AutoConfig.from_pretrained(source, local_files_only=not hub)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200].rstrip(".")
        raise ModelError(f"Cannot read the config of {title}: {reason}.", _HINT[2]) from None
    return any(kind.endswith("ForSequenceClassification") for kind in config.architectures or [])


def _finite(values: Floats, name: str) -> Floats:
    if not np.isfinite(values).all():
        raise NumericsError(f"{name} gave NaN or infinity.", "Try --dtype float32.")
    return values
