"""The record of a bench run as one self-contained HTML page. No script or asset from elsewhere."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thoughtmix.bench import plot
from thoughtmix.bench.contestants import contestant
from thoughtmix.core.errors import UnknownName
from thoughtmix.report.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

_TITLES = {"open": "Open prompts", "coverage": "Tasks with known answers", "reasoning": "Countdown arithmetic"}
_RATES = {
    "tokens": "tokens a cell", "mean_words": "words a thought", "missing": "missing", "empty": "empty",
    "duplicate_rate": "duplicates", "unread": "no answer read", "valid": "valid",
}  # fmt: skip


def page(result: Mapping[str, Any]) -> str:
    """The whole document, from the record alone: the same record gives the same page."""
    plan = result["plan"]
    thinkers = list(plan["thinkers"])
    return _environment().get_template("bench.html").render(
        result=result,
        plan=plan,
        thinkers=[
            {"name": t, "summary": _summary(t), "ladder": [_setting(s) for s in plan["ladders"][t]]} for t in thinkers
        ],
        self_judged="open" in result["kinds"] and result["judge"] == result["model"],
        prompts=sum(len(plan[part]) for part in ("development", "held_out")),
        kinds=[_kind(name, body, thinkers) for name, body in result["kinds"].items()],
        examples=[
            {**e, "texts": {t: [printable(text) for text in texts] for t, texts in e["texts"].items()}}
            for e in result["examples"]
        ],
        duration=_duration,
        json=base64.b64encode(json.dumps(result, ensure_ascii=False).encode()).decode(),
    )  # fmt: skip


def _kind(name: str, body: Mapping[str, Any], thinkers: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "title": _TITLES[name],
        "plot": plot.frontier(body, thinkers),
        "axes": body["axes"],
        "prompts": body["prompts"],
        "comparisons": [comparison(c) for c in body["comparisons"]],
        "rate_names": [_RATES[r] for r in _rate_keys(body)],
        "rates": {t: [_number(body["rates"][t].get(r)) for r in _rate_keys(body)] for t in thinkers},
        "by_item": _by_item(body["by_item"], thinkers) if name != "open" else [],
        "distinct_k": body["distinct_k"],
        "chosen": {t: [i + 1 for i in body["chosen"][t]] for t in thinkers},
        "best": {t: body["best"][t] + 1 for t in thinkers},
    }


def _rate_keys(body: Mapping[str, Any]) -> list[str]:
    return [r for r in _RATES if any(r in rates for rates in body["rates"].values())]


def comparison(row: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table, as texts; `tells` when the interval leaves out no difference."""
    i = row["interval"]
    there = i["value"] is not None
    low = "-∞" if there and i["low"] is None else _number(i["low"])
    high = "∞" if there and i["high"] is None else _number(i["high"])
    return {
        "thinker": row["thinker"],
        "measure": row["measure"].replace("_", " "),
        "value": _number(i["value"]) if there else "not reached",
        "interval": f"{low} to {high}" if there else "",
        "p": _p(row["adjusted"]),
        "tells": row["adjusted"] is not None and row["adjusted"] < 0.05,
        "up": there and i["value"] > i["null"],
        "undefined": f"{100 * i['undefined']:.0f}%" if 0 < i["undefined"] < 1 else "",
    }


def _by_item(by_item: Mapping[str, Mapping[str, float]], thinkers: list[str]) -> list[dict[str, Any]]:
    items = next(iter(by_item.values()))
    return [
        {
            "item": item.partition("/")[2].replace("_", " "),
            "cells": [{"says": f"{by_item[t][item]:.2f}", "share": round(by_item[t][item], 3)} for t in thinkers],
        }
        for item in sorted(items)
    ]


def _summary(name: str) -> str:
    try:
        return contestant(name).summary
    except UnknownName:  # a thinker of a package that is not here now
        return ""


def _setting(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in setting.items())


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader

    return Environment(loader=PackageLoader("thoughtmix.bench"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
