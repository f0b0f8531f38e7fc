"""The record of an experiment as one self-contained HTML page."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from thoughtmix.bench.report import comparison, frontier_plot
from thoughtmix.experiment import pictures
from thoughtmix.report.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def page(result: Mapping[str, Any]) -> str:
    """The whole document, from the record alone."""
    rows = [comparison({**c, "thinker": "mixture"}) for c in result["frontier"]["comparisons"]]
    return _environment().get_template("experiment.html").render(
        r=result,
        plan=result["plan"],
        plot=frontier_plot(result["frontier"], ["baseline", "mixture"]),
        comparisons=rows,
        verdict=verdict(result),
        losses=pictures.losses(result["models"]),
        layers=pictures.layers(result["models"]["mixture-0"]["log"]),
        ladder=pictures.ladder(result["ladder"]),
        entropies=pictures.entropies(result["branches"]["entropy"]) if result["branches"] else "",
        affinity=_affinity(result["branches"]),
        loss_rows=_loss_rows(result),
        ablations=[_ablation(a) for a in result["ablations"]],
        examples=[
            {"prompt": e["prompt"], "texts": {k: [printable(t) for t in v] for k, v in e["texts"].items()}}
            for e in result["examples"]
        ],
        json=base64.b64encode(json.dumps(result, ensure_ascii=False).encode()).decode(),
    )  # fmt: skip


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
        if d["low"] is None:
            out.append(f"Validation loss, mixture {how}: {d['value']:+.4f} nats beside the baseline (one seed).")
        else:
            word = "worse" if d["low"] > 0 else "better" if d["high"] < 0 else "not told apart"
            out.append(
                f"Validation loss, mixture {how}: {d['value']:+.4f} nats beside the baseline "
                f"({d['low']:+.4f} to {d['high']:+.4f} over seeds): {word}."
            )
    for c in result["frontier"]["comparisons"]:
        i = c["interval"]
        if i["value"] is None:
            out.append(f"{c['measure']}: not reached by both.")
            continue
        told = c["adjusted"] is not None and c["adjusted"] < 0.05
        word = ("more" if i["value"] > i["null"] else "less") if told else "not told apart"
        low, high = ("?" if v is None else f"{v:.3f}" for v in (i["low"], i["high"]))
        out.append(f"{c['measure']}: {i['value']:.3f} ({low} to {high}): {word}.")
    steps = [row["vendi"] for row in result["ladder"]]
    rising = all(a < b for a, b in pairwise(steps))
    out.append(
        f"Creativity 0, 0.5, 1, 1.5, 2 gives {', '.join(f'{v:.2f}' for v in steps)} different texts (Vendi): "
        f"{'rising throughout' if rising else 'not rising throughout'}; at 0 all thoughts are "
        f"{'identical' if result['ladder'][0]['identical'] else 'NOT identical'}."
    )
    return out


def _loss_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "loss": f"{facts['val_loss']:.4f}",
            "loss_0": f"{facts['val_loss_0']:.4f}",
            "marginal": _loss(facts.get("val_loss_marginal")),
            "active": f"{facts['active']:,}",
            "parameters": f"{facts['parameters']:,}",
            "tokens": f"{facts['tokens']:,}",
            "seconds": f"{facts['seconds']:.0f}",
        }
        for name, facts in result["models"].items()
    ]


def _ablation(row: Mapping[str, Any]) -> dict[str, Any]:
    def words(i: Mapping[str, Any]) -> str:
        if i["value"] is None:
            return "not reached"
        low, high = ("∞" if v is None else f"{v:.2f}" for v in (i["low"], i["high"]))
        return f"{i['value']:.2f} ({low} to {high})"

    losses = {f"{k}_says": _loss(row.get(k)) for k in ("val_loss", "val_loss_0", "val_loss_marginal")}
    return {**row, **losses, "difference": words(row["difference"]), "area": words(row["hypervolume_ratio"])}


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _affinity(branches: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per layer a small table: labels by branches."""
    if not branches:
        return []
    out = []
    for layer, table in enumerate(branches["affinity"]):
        top = max(max(row) for row in table)
        out.append(
            {
                "layer": layer,
                "information": f"{branches['information'][layer]:.4f}",
                "p": f"{branches['p'][layer]:.3f}",
                "rows": [
                    {"label": label, "cells": [{"says": f"{v:.2f}", "share": round(v / top, 3)} for v in row]}
                    for label, row in zip(branches["labels"], table, strict=True)
                ],
            }
        )
    return out


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader

    return Environment(
        loader=PackageLoader("thoughtmix.experiment"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
