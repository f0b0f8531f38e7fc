"""What a model's experts are for, as one self-contained HTML page, or as plain text. Nothing from elsewhere."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtmix.report.html import render_template

if TYPE_CHECKING:
    from thoughtmix.experts.analysis import Specialization

SHOWN = 6  # experts a label with their prompts
CELL = 16


def experts_page(found: Specialization) -> str:
    """Summary, a heat-map a label, load, what runs together, a line a layer, experts with their prompts, the JSON."""
    best = int(np.argmax(found.information))
    largest = float(np.abs(found.difference).max()) or 1.0
    maps = [
        {
            "title": label,
            "cells": [
                _cell(x, y, d / largest, bool(found.significant[c, y, x]), f"{name}, expert {x}: {d:+.1%}")
                for y, name in enumerate(found.layers)
                for x in range(found.num_experts[y])
                for d in [float(found.difference[c, y, x])]
            ],
        }
        for c, label in enumerate(found.labels)
    ]
    load = [
        _cell(x, y, v / float(found.load.max()), False, f"{name}, expert {x}: runs for {v:.1%} of tokens")
        for y, name in enumerate(found.layers)
        for x in range(found.num_experts[y])
        for v in [float(found.load[y, x])]
    ]
    return render_template(
        "experts.html",
        found=found,
        headline=headline(found),
        maps=maps,
        load=load,
        pairs=_pairs(found, best),
        best=found.layers[best],
        best_experts=found.num_experts[best],
        cell=CELL,
        wide=max(found.num_experts),
        tall=len(found.layers),
        layers=_layers(found),
        labels=_labels(found),
    )


def headline(found: Specialization) -> str:
    """One line: whether routing tells the labels apart, and how sure that is."""
    chance = max(np.bincount(found.text_labels)) / len(found.texts)
    over = sum(len(found.experts_of(label)) for label in found.labels)
    return (
        f"{len(found.texts)} texts, {int(found.tokens.sum())} tokens, {sum(found.num_experts)} experts in "
        f"{len(found.layers)} layers. Mutual information of label and expert {found.total_information:.3f} nats "
        f"(p = {found.total_p:.3g}); label recovered from routing for {found.accuracy:.0%} of texts "
        f"(chance about {chance:.0%}, p = {found.accuracy_p:.3g}); {over} experts over-used by a label beyond chance."
    )


def experts_plain(found: Specialization) -> str:
    """The same for a terminal or a pipe."""
    lines = [f"{found.model}: {line}" if i == 0 else line for i, line in enumerate(textwrap.wrap(headline(found), 100))]
    lines += ["", f"{'layer':32} {'information':>11} {'p':>7} {'entropy':>8} {'imbalance':>9}"]
    for row in _layers(found):
        lines.append(
            f"{row['name'][-32:]:32} {row['information']:>11} {row['p']:>7} {row['entropy']:>8} {row['imbalance']:>9}"
        )
    for label in _labels(found):
        lines += ["", f"{label['name']}: {label['count']} experts over-used beyond chance"]
        lines += [
            f"  layer {x['layer']}, expert {x['expert']}: {x['difference']}  {x['most'][0][:60]}"
            for x in label["experts"]
        ]
    return "\n".join(lines)


def _cell(x: int, y: int, share: float, strong: bool, title: str) -> dict[str, Any]:
    return {
        "x": x * CELL,
        "y": y * CELL,
        "share": round(abs(share), 3),
        "sign": "over" if share > 0 else "under",
        "strong": strong,
        "title": title,
    }


def _pairs(found: Specialization, layer: int) -> list[dict[str, Any]]:
    """How much more often two experts run together than independent ones of their load would; log2, cut at 2."""
    e = found.num_experts[layer]
    load = np.diag(found.together[layer])
    out = []
    for a in range(e):
        for b in range(e):
            expected = load[a] * load[b]
            if a == b or expected <= 0:
                continue
            lift = float(found.together[layer, a, b] / expected)
            share = max(-2.0, min(2.0, math.log2(max(lift, 1e-9)))) / 2
            out.append(_cell(b, a, share, False, f"experts {a} and {b}: {lift:.2f} times as often as by chance"))
    return out


def _layers(found: Specialization) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "information": f"{found.information[i]:.4f}",
            "p": f"{found.information_p[i]:.3g}",
            "entropy": f"{found.entropy[:, i].mean() / math.log(found.num_experts[i]):.0%}",
            "imbalance": f"{found.imbalance[i]:.2f}",
        }
        for i, name in enumerate(found.layers)
    ]


def _labels(found: Specialization) -> list[dict[str, Any]]:
    out = []
    for label in found.labels:
        experts = found.experts_of(label)
        shown = []
        for layer, expert, difference in experts[:SHOWN]:
            most, least = found.typical(layer, expert)
            shown.append(
                {
                    "layer": layer,
                    "expert": expert,
                    "difference": f"{difference:+.1%}",
                    "most": [_short(found, i) for i in most],
                    "least": [_short(found, i) for i in least],
                }
            )
        out.append({"name": label, "count": len(experts), "experts": shown})
    return out


def _short(found: Specialization, text: int) -> str:
    said = " ".join(found.texts[text].split())
    return f"[{found.labels[found.text_labels[text]]}] {said[:110]}{'…' if len(said) > 110 else ''}"
