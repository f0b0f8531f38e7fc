"""The record of an experiment as one self-contained HTML page, its plots as inline SVG for light and dark grounds."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from thoughtmix.report.html import render_template
from thoughtmix.report.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#7a8496"  # readable on both grounds
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito (2008)


def page(result: Mapping[str, Any], plot: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The whole document.

    Args:
        result: The record.
        plot: The numbers that its frontiers are drawn from.
        comparisons: A row of texts for each comparison.
    """
    branches = result["branches"]
    models = [
        {
            **{k: _loss(facts.get(k)) for k in ("val_loss", "val_loss_marginal", "val_loss_0")},
            **{k: f"{facts[k]:,}" for k in ("active", "parameters", "tokens")},
            "name": name,
            "seconds": f"{facts['seconds']:.0f}",
        }
        for name, facts in result["models"].items()
    ]
    return render_template(
        "experiment.html",
        r=result,
        plan=result["plan"],
        plot=plot,
        comparisons=comparisons,
        verdict=verdict(result),
        losses=_losses(result["models"]),
        layers=_layers(result["models"]["mixture-0"]["log"]),
        ladder=_creativity(result["ladder"]),
        entropies=_entropies(branches["entropy"]) if branches else "",
        affinity=[_affinity(branches, layer) for layer in range(len(branches["affinity"]))] if branches else [],
        loss_rows=models,
        ablations=[_ablation(row) for row in result["ablations"]],
        examples=[
            {"prompt": e["prompt"], "texts": {k: [printable(t) for t in v] for k, v in e["texts"].items()}}
            for e in result["examples"]
        ],
        json=base64.b64encode(json.dumps(result, ensure_ascii=False).encode()).decode(),
    )


def verdict(result: Mapping[str, Any]) -> list[str]:
    """What the intervals allow to be said, in sentences."""
    out = []
    names = {
        "marginal": "the whole of it (all modes)",
        "drawn": "with a mode (routes, noise) drawn",
        "deterministic": "deterministically",
    }
    for name, how in names.items():
        d = result["losses"][f"difference_{name}"]
        beside = f"Validation loss, mixture {how}: {d['value']:+.4f} nats beside the baseline"
        if d["low"] is None:
            out.append(f"{beside} (one seed).")
        else:
            word = "worse" if d["low"] > 0 else "better" if d["high"] < 0 else "not told apart"
            out.append(f"{beside} ({d['low']:+.4f} to {d['high']:+.4f} over seeds): {word}.")
    for c in result["frontier"]["comparisons"]:
        i = c["interval"]
        if i["value"] is None:
            out.append(f"{c['measure']}: not reached by both.")
            continue
        told = c["adjusted"] is not None and c["adjusted"] < 0.05
        word = ("more" if i["value"] > i["null"] else "less") if told else "not told apart"
        low, high = ("?" if v is None else f"{v:.3f}" for v in (i["low"], i["high"]))
        out.append(f"{c['measure']}: {i['value']:.3f} ({low} to {high}): {word}.")
    found = [row["vendi"] for row in result["ladder"]]
    rising = all(a < b for a, b in pairwise(found))
    out.append(
        f"Creativity 0, 0.5, 1, 1.5, 2 gives {', '.join(f'{v:.2f}' for v in found)} different texts (Vendi): "
        f"{'rising throughout' if rising else 'not rising throughout'}; at 0 all thoughts are "
        f"{'identical' if result['ladder'][0]['identical'] else 'NOT identical'}."
    )
    return out


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _ablation(row: Mapping[str, Any]) -> dict[str, Any]:
    def words(i: Mapping[str, Any]) -> str:
        if i["value"] is None:
            return "not reached"
        low, high = ("∞" if v is None else f"{v:.2f}" for v in (i["low"], i["high"]))
        return f"{i['value']:.2f} ({low} to {high})"

    losses = {k: _loss(row.get(k)) for k in ("val_loss", "val_loss_0", "val_loss_marginal")}
    return {**row, **losses, "difference": words(row["difference"]), "area": words(row["hypervolume_ratio"])}


def _affinity(branches: Mapping[str, Any], layer: int) -> dict[str, Any]:
    """A small table of labels by branches."""
    table = branches["affinity"][layer]
    top = max(max(row) for row in table)
    rows = [
        {"label": label, "cells": [{"says": f"{v:.2f}", "share": round(v / top, 3)} for v in row]}
        for label, row in zip(branches["labels"], table, strict=True)
    ]
    information, p = branches["information"][layer], branches["p"][layer]
    return {"layer": layer, "information": f"{information:.4f}", "p": f"{p:.3f}", "rows": rows}


# --- plots ------------------------------------------------------------------------------------------------------------


def _axes(width: float = 6.4, height: float = 3.4) -> Axes:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    return axes


def _svg(axes: Axes) -> str:
    """The figure of these axes as an <svg> element."""
    figure: Any = axes.figure
    for each in figure.axes:  # a second scale too
        each.set_facecolor("none")
        each.spines[:].set_color(GREY)
        each.spines["top"].set_visible(False)
        each.tick_params(colors=GREY)
        for label in (each.xaxis.label, each.yaxis.label):
            label.set_color(GREY)
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg))


def _losses(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Validation loss while training, the two contenders by seed."""
    axes = _axes()
    for name, facts in models.items():
        kind, _, seed = name.partition("-")
        if kind in ("baseline", "mixture"):
            seen = [e for e in facts["log"] if "val_loss" in e]
            style = {"color": COLOURS[kind == "mixture"], "label": kind if seed == "0" else None}
            x, y = [e["step"] for e in seen], [e["val_loss"] for e in seen]
            axes.plot(x, y, "o-", markersize=3, alpha=0.8, **style)  # type: ignore[arg-type]
    axes.set(xlabel="step", ylabel="validation loss, nats")
    axes.legend(frameon=False, labelcolor=GREY)
    return _svg(axes)


def _layers(log: Sequence[Mapping[str, float]]) -> str:
    """1 - mean cosine of branch outputs, by layer, over training."""
    axes = _axes()
    for i, name in enumerate(sorted(k for k in log[0] if k.startswith("diversity_"))):
        axes.plot([e["step"] for e in log], [1 - e[name] for e in log], color=COLOURS[i % 6], label=f"layer {i}")
    axes.set(xlabel="step", ylabel="1 − cosine of branches")
    axes.legend(frameon=False, labelcolor=GREY, ncols=2)
    return _svg(axes)


def _creativity(rows: Sequence[Mapping[str, float]]) -> str:
    """Diversity and judge NLL over creativity."""
    axes = _axes()
    x = [r["creativity"] for r in rows]
    axes.plot(x, [r["vendi"] for r in rows], "o-", color=COLOURS[1])
    axes.set(xlabel="creativity (temperature 0)", ylabel="different texts, effectively (Vendi)")
    other = axes.twinx()
    other.plot(x, [r["nll"] for r in rows], "s--", color=COLOURS[0], alpha=0.8)
    other.set_ylabel("judge NLL (dashed)")
    return _svg(axes)


def _entropies(entropy: Sequence[Sequence[float]]) -> str:
    """How sure the routers are: distribution over texts, by layer."""
    axes = _axes(5.0, 3.0)
    axes.violinplot([list(e) for e in entropy], showmedians=True)
    axes.set(xlabel="layer", ylabel="router entropy, nats", xticks=range(1, len(entropy) + 1))
    axes.set_xticklabels([str(i) for i in range(len(entropy))])
    return _svg(axes)
