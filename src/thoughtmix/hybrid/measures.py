"""What a stage added, measured by scorers that selected nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from thoughtmix.metrics.embedding import mean_distance, relevance
from thoughtmix.metrics.judge import ids_nll
from thoughtmix.metrics.text import distinct_n

if TYPE_CHECKING:
    from thoughtmix.models import Embedder, LanguageModel


def likelihood(model: LanguageModel, prompt_ids: Sequence[int], texts: Sequence[str]) -> list[float]:
    """Log-likelihood of a token of each text as an answer to the prompt, in nats: alike for drafts and for what was
    rewritten under another prompt. Raises `InputError` for a model that does not read from left to right."""
    return [-float(v) for v in ids_nll(prompt_ids, texts, model)]


def question(model: LanguageModel, prompt_ids: Sequence[int]) -> str:
    """The text that a prompt's tokens ask, without the chat template around it, as far as that can be told."""
    whole = str(model.tokenizer.decode(list(prompt_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if model.tokenizer.chat_template:
        mark = "thoughtmix was here"
        turn = [{"role": "user", "content": mark}]
        frame = str(model.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        before, _, after = (part.strip() for part in frame.partition(mark))
        if whole.startswith(before) and whole.rstrip().endswith(after):
            return whole.rstrip()[len(before) : len(whole.rstrip()) - len(after)].strip()
    return model.decode(prompt_ids).strip()


def measured(
    texts: Sequence[str],
    asked: str,
    prompt_ids: Sequence[int],
    model: LanguageModel,
    embedder: Embedder,
    judge: LanguageModel | None,
    without: Collection[str],
) -> dict[str, dict[str, float]]:
    """quality: likelihood (nats a token under the generator), relevance (cosine to the question), judge (nats a token
    under another model, if there is one). diversity: distance (mean 1 - cosine over pairs), distinct_2. All higher is
    better. without: scorers (generator, embedder) that selected; what needs them is left out."""
    quality: dict[str, float] = {}
    diversity: dict[str, float] = {"distinct_2": distinct_n(texts, 2)}
    if "embedder" not in without:
        vectors = embedder.encode([asked or ".", *(t.strip() or "." for t in texts)])
        quality["relevance"] = float(relevance(vectors[1:], vectors[0]).mean())
        diversity["distance"] = mean_distance(vectors[1:])
    if "generator" not in without and model.causal:
        quality["likelihood"] = _mean(likelihood(model, prompt_ids, texts))
    if judge is not None:
        quality["judge"] = _mean(likelihood(judge, judge.encode(asked), texts))
    return {name: {k: round(v, 4) for k, v in values.items()} for name, values in
            (("quality", quality), ("diversity", diversity))}  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
