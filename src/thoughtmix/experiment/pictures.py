"""The experiment's plots as inline SVG that suits light and dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#7a8496"  # readable on both grounds
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito (2008)


def _figure(draw: Any, width: float = 6.4, height: float = 3.4) -> str:
    """`draw(axes)` as an <svg> element."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    draw(axes)
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


def losses(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Validation loss while training, the two contenders by seed."""

    def draw(axes: Axes) -> None:
        for name, facts in models.items():
            kind, _, seed = name.partition("-")
            if kind not in ("baseline", "mixture"):
                continue
            seen = [e for e in facts["log"] if "val_loss" in e]
            axes.plot(
                [e["step"] for e in seen],
                [e["val_loss"] for e in seen],
                "o-",
                markersize=3,
                color=COLOURS[kind == "mixture"],
                alpha=0.8,
                label=kind if seed == "0" else None,
            )
        axes.set(xlabel="step", ylabel="validation loss, nats")
        axes.legend(frameon=False, labelcolor=GREY)

    return _figure(draw)


def layers(log: Sequence[Mapping[str, float]]) -> str:
    """1 - mean cosine of branch outputs, by layer, over training."""

    def draw(axes: Axes) -> None:
        names = sorted(k for k in log[0] if k.startswith("diversity_"))
        for i, name in enumerate(names):
            axes.plot([e["step"] for e in log], [1 - e[name] for e in log], color=COLOURS[i % 6], label=f"layer {i}")
        axes.set(xlabel="step", ylabel="1 − cosine of branches")
        axes.legend(frameon=False, labelcolor=GREY, ncols=2)

    return _figure(draw)


def ladder(rows: Sequence[Mapping[str, float]]) -> str:
    """Diversity and judge NLL over creativity."""

    def draw(axes: Axes) -> None:
        x = [r["creativity"] for r in rows]
        axes.plot(x, [r["vendi"] for r in rows], "o-", color=COLOURS[1])
        axes.set(xlabel="creativity (temperature 0)", ylabel="different texts, effectively (Vendi)")
        other = axes.twinx()
        other.spines[["top"]].set_visible(False)
        other.plot(x, [r["nll"] for r in rows], "s--", color=COLOURS[0], alpha=0.8)
        other.set_ylabel("judge NLL (dashed)")

    return _figure(draw)


def entropies(entropy: Sequence[Sequence[float]]) -> str:
    """How sure the routers are: distribution over texts, by layer."""

    def draw(axes: Axes) -> None:
        axes.violinplot([list(e) for e in entropy], showmedians=True)
        axes.set(xlabel="layer", ylabel="router entropy, nats", xticks=range(1, len(entropy) + 1))
        axes.set_xticklabels([str(i) for i in range(len(entropy))])

    return _figure(draw, 5.0, 3.0)
