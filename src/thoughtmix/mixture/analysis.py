"""What the branches do: who serves which text, how sure the router is, how much of the label a route gives away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import written
from thoughtmix.mixture.model import MixtureOfThoughtsTransformer
from thoughtmix.mixture.state import BranchState
from thoughtmix.models.text_encoder import TextEncoder

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ThoughtPatterns:
    """Which branches serve texts of which label.

    labels: of the texts, sorted. affinity (layers, labels, k): the router's mean probability of each branch after
    (where routes follow the text: while) reading a text of that label. usage (layers, k): its mean over labels. entropy
    (layers, texts): of the router, nats. information (layers,): mutual information of label and branch in nats, and `p`
    (layers,), how often shuffled labels give as much (permutation test).
    """

    labels: tuple[str, ...]
    affinity: Floats
    usage: Floats
    entropy: Floats
    information: Floats
    p: Floats


@torch.no_grad()
def router_probabilities(model: MixtureOfThoughtsTransformer, tokenizer: Any, texts: Sequence[str]) -> Floats:
    """What the router of each layer would draw from for a continuation of each text.

    Returns:
        (layers, texts, k); where routes follow the text, the mean over its tokens.

    Raises:
        InputError: The model has one branch, or a text is empty.
    """
    if model.config.num_branches < 2:
        raise InputError("This model has one branch.", "Pass a mixture (thoughtmix train mixture ...).")
    out, encoder = [], TextEncoder(tokenizer, "this model")
    for text in texts:
        ids = encoder.text(text, frame=False)
        if not ids:
            raise InputError("A text is empty.", "Pass texts with words.")
        x = torch.tensor([[*ids, ids[-1]]], device=model.device)  # one token of continuation, at creativity 0
        state = BranchState.create([0], 0.0, len(ids), model.device)
        _, traces = model.trace(x, state, None, None, torch.arange(x.shape[1], device=x.device)[None], None)
        p = [trace.route.log_prob[0].exp().double().cpu().numpy() for trace in traces]  # (segments or tokens, k)
        out.append([each[:-1].mean(0) if model.config.follow else each[1] for each in p])
    return np.array(out).transpose(1, 0, 2)


@overload
def analyze_thought_patterns(
    model: MixtureOfThoughtsTransformer, tokenizer: Sequence[tuple[str, Any]]
) -> list[dict[str, Any]]: ...
@overload
def analyze_thought_patterns(
    model: MixtureOfThoughtsTransformer,
    tokenizer: Any,
    texts: Mapping[str, Sequence[str]],
    shuffles: int = 999,
    seed: int = 0,
) -> ThoughtPatterns: ...
def analyze_thought_patterns(
    model: MixtureOfThoughtsTransformer,
    tokenizer: Any,
    texts: Mapping[str, Sequence[str]] | None = None,
    shuffles: int = 999,
    seed: int = 0,
) -> ThoughtPatterns | list[dict[str, Any]]:
    """Find out whether branches specialise in texts of one label.

    `analyze_thought_patterns(model, [(text, ids), ...])`, the original prototype's call, reads each text and tests
    nothing: a list of {"text", "metrics"}, metrics as a forward gives them, as JSON takes it.

    Args:
        model: A mixture.
        tokenizer: The model's, or pairs of a text and its ids, (t,) or (1, t).
        texts: Label -> texts.
        shuffles: How often labels are shuffled for the permutation test.
        seed: Of the shuffles.

    Raises:
        InputError: There are fewer than two labels, or one has no text.
    """
    if texts is None:
        return _patterns_by_text(model, tokenizer)
    if len(texts) < 2 or not all(texts.values()):
        raise InputError("Specialisation needs texts of two labels.", "Pass {label: [text, ...], ...}.")
    labels = sorted(texts)
    flat = [t for label in labels for t in texts[label]]
    which = np.repeat(np.arange(len(labels)), [len(texts[label]) for label in labels])
    p = router_probabilities(model, tokenizer, flat)  # (layers, texts, k)
    rng = np.random.default_rng(seed)
    information = _mutual_information(p, which, len(labels))
    beaten = sum(_mutual_information(p, rng.permutation(which), len(labels)) >= information for _ in range(shuffles))
    affinity = np.stack([p[:, which == i].mean(1) for i in range(len(labels))], 1)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(-1)
    return ThoughtPatterns(
        tuple(labels), affinity, affinity.mean(1), entropy, information, (1 + np.asarray(beaten)) / (1 + shuffles)
    )


@torch.no_grad()
def _patterns_by_text(model: MixtureOfThoughtsTransformer, pairs: Any) -> list[dict[str, Any]]:
    hint = "Pass [(text, ids), ...], or a tokenizer and {label: [text, ...], ...}."
    if not isinstance(pairs, (list, tuple)) or not pairs:
        raise InputError("There are no texts to read.", hint)
    out = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise InputError("A text does not come with its ids.", hint)
        x = torch.as_tensor(pair[1], device=model.device)
        x = x[None] if x.ndim == 1 else x
        if x.ndim != 2 or x.shape[0] != 1 or not x.shape[1] or x.is_floating_point():
            raise InputError(f"The ids of a text have shape {tuple(x.shape)}.", "Pass whole numbers, (t,) or (1, t).")
        out.append({"text": pair[0], "metrics": model(x).metrics})
    return out


def _mutual_information(p: Floats, which: NDArray[np.int64], count: int) -> Floats:
    """(layers,) I(label; branch) = H(branch) - H(branch | label), nats."""
    share = np.bincount(which, minlength=count) / len(which)
    by_label = np.stack([p[:, which == i].mean(1) for i in range(count)], 1)  # (layers, labels, k)

    def entropy(q: Floats) -> Floats:
        return np.asarray(-(q * np.log(np.maximum(q, 1e-300))).sum(-1))

    mean = (by_label * share[:, None]).sum(1)
    return np.asarray(entropy(mean) - (entropy(by_label) * share).sum(-1))


def visualize_branch_activity(
    metrics: Sequence[Mapping[str, Any]], path: str | Path | None = None, width: int = 40
) -> str:
    """How much each branch of each layer was visited.

    Args:
        metrics: What `MixtureOfThoughtsTransformer` returns, one dict a layer.
        path: Draw it as a picture here, too (.svg, .png).
        width: Of the longest bar, in characters.

    Returns:
        Bars of text.

    Raises:
        InputError: There are no metrics.
    """
    usage = [np.asarray(m["branch_usage"], dtype=np.float64) for m in metrics]
    if not usage:
        raise InputError("There are no metrics.", "Pass model(ids).metrics of a mixture.")
    lines = []
    for m, shares in zip(metrics, usage, strict=True):
        lines.append(
            f"layer {m['layer']}: diversity {float(m['diversity_score']):.2f}, router entropy "
            f"{float(m['router_entropy']):.2f} nats, {float(m['active_branches']):.1f} branches a token"
        )
        lines += [f"  branch {k} {'█' * round(width * s)}{'▏' if s else ''} {s:.0%}" for k, s in enumerate(shares)]
    if path is not None:
        _draw_usage(np.stack(usage), Path(path))
    return "\n".join(lines)


def _draw_usage(usage: Floats, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 0.6 * usage.shape[1], 1.2 + 0.5 * len(usage)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(usage, cmap="viridis", vmin=0)
    axes.set(xlabel="branch", ylabel="layer", xticks=range(usage.shape[1]), yticks=range(len(usage)))
    figure.colorbar(image, label="share of visits")
    with written(path) as part:
        figure.savefig(part)
