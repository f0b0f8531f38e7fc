"""The record of a bench run as one self-contained HTML page. No script or asset from elsewhere."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from thoughtmix.bench.systems import get_system
from thoughtmix.core.errors import UnknownName
from thoughtmix.report.html import render_template
from thoughtmix.report.text import printable

_TITLES = {"open": "Open prompts", "coverage": "Tasks with known answers", "reasoning": "Countdown arithmetic"}
_RATES = {
    "tokens": "tokens a trial",
    "mean_words": "words a thought",
    "missing": "missing",
    "empty": "empty",
    "duplicate_rate": "duplicates",
    "unread": "no answer read",
    "valid": "valid",
    "sound": "sound",
    "complete": "complete",
    "repetition": "repetition",
    "relevance": "relevance",
    "parseable": "can be parsed",
    "distinct_words": "distinct by words",
    "judge_ties": "ties: the orders disagree",
    "judge_silent": "no verdict",
}
WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 50
# Okabe & Ito (2008), told apart with any kind of colour sight; then again with dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8a6d00")
DASHES = ("", "7 4", "2 4")


def page(result: Mapping[str, Any]) -> str:
    """The whole document, from the record alone: the same record gives the same page."""
    plan = result["plan"]
    systems = list(plan["thinkers"])
    rows = [
        {"name": s, "summary": _summary(s), "grid": [_setting(setting) for setting in plan["ladders"][s]]}
        for s in systems
    ]
    examples = [
        {**e, "texts": {s: [printable(text) for text in texts] for s, texts in e["texts"].items()}}
        for e in result["examples"]
    ]
    return render_template(
        "bench.html",
        "thoughtmix.bench",
        result=result,
        plan=plan,
        systems=rows,
        self_judged="open" in result["kinds"] and result["judge"] == result["model"],
        limits=limits(result),
        prompts=sum(len(plan[part]) for part in ("development", "held_out")),
        kinds=[_kind(name, body, systems) for name, body in result["kinds"].items()],
        examples=examples,
        duration=_duration,
        json=base64.b64encode(json.dumps(result, ensure_ascii=False).encode()).decode(),
    )


def _kind(name: str, body: Mapping[str, Any], systems: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "title": _TITLES[name],
        "plot": frontier_plot(body, systems),
        "axes": body["axes"],
        "prompts": body["prompts"],
        "comparisons": [comparison(c) for c in body["comparisons"]],
        "too_few": too_few(body),
        "rate_names": [_RATES[r] for r in _rate_keys(body)],
        "rates": {t: [_number(body["rates"][t].get(r)) for r in _rate_keys(body)] for t in systems},
        "by_item": _by_item(body["by_item"], systems) if name != "open" else [],
        "distinct_k": body["distinct_k"],
        "chosen": {t: [i + 1 for i in body["chosen"][t]] for t in systems},
        "best": {t: body["best"][t] + 1 for t in systems},
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


def limits(result: Mapping[str, Any]) -> list[str]:
    """What the result on open prompts cannot claim, in whole sentences; none for other kinds, whose answers are
    checked."""
    body = result["kinds"].get("open")
    if body is None:
        return []
    out, models = [], result["plan"]["models"]
    if result["judge"] is None and result.get("reward") is None:
        out.append(
            "Nobody judged the answers to open prompts. Quality is what needs no judge: an answer is sound when it is "
            "complete (the model ended it, or it ends as a sentence does), is no loop, and parses where a form was "
            "asked for; relevance is its nearness to the prompt. So nothing here says that an answer is true, useful, "
            "original or well written, nor that one thinker's answers are better than another's beyond that. "
            "For such claims name a judge (--judge, --judge-endpoint) or a reward model (--reward)."
        )
    elif models.get("judge_by") == "pairs" or models.get("judge_endpoint"):
        out.append(
            "The judge was asked in both orders, and where the orders disagree is a tie or a half. It is one model's "
            "taste: it may favour long answers and its own, and knows no more than it does."
        )
    chose = body.get("chose_by_embedder", [])
    if chose and body["equivalence"] == "embedder":
        out.append(
            f"{', '.join(chose)} may have chosen by the embedder that also counts what differs: its diversity is no "
            "finding. Name another equivalence (--equivalence words)."
        )
    elif chose:
        out.append(
            f"{', '.join(chose)} asked the embedder while answering, so diversity is counted by "
            f"{body['equivalence']}, which chose nothing; Vendi, distances and relevance are the embedder's."
        )
    if body.get("equivalence") == "words":
        out.append("Sameness by words takes a paraphrase for another answer: its counts are high for everyone.")
    return out


def too_few(body: Mapping[str, Any]) -> str:
    """What to say where so few held-out prompts can show no difference, whatever came out; else empty."""
    held_out, needed, rows = body["prompts"]["held out"], body.get("needed", 0), len(body["comparisons"])
    if not rows or held_out >= needed:
        return ""
    return (
        f"Nothing can be seen between thinkers on {held_out} held-out prompts: of {rows} comparisons, none could have "
        f"p < 0.05 (Holm) on fewer than {needed}. Honest intervals take 30 or more."
    )


def _by_item(by_item: Mapping[str, Mapping[str, float]], systems: list[str]) -> list[dict[str, Any]]:
    items = next(iter(by_item.values()))
    return [
        {
            "item": item.partition("/")[2].replace("_", " "),
            "cells": [{"says": f"{by_item[t][item]:.2f}", "share": round(by_item[t][item], 3)} for t in systems],
        }
        for item in sorted(items)
    ]


def _summary(name: str) -> str:
    try:
        return get_system(name).summary
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


def frontier_plot(result: Mapping[str, Any], systems: Sequence[str]) -> dict[str, Any]:
    """What the template draws for one kind of item of a record: axes, and per system its band, line and points."""
    bands, points = result["bands"], result["held_out"]
    xs = [p["quality"] for s in systems for p in points[s]]
    ys = [p["diversity"] for s in systems for p in points[s]]
    ys += [v for s in systems for name in ("low", "high") for v in bands[s][name] if v is not None]
    x, y = _Scale(xs, LEFT, WIDTH - RIGHT), _Scale(ys, HEIGHT - BOTTOM, TOP)
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "x_ticks": [{"at": x(v), "says": f"{v:g}"} for v in x.ticks],
        "y_ticks": [{"at": y(v), "says": f"{v:g}"} for v in y.ticks],
        "lines": [_line(name, index, bands[name], points[name], x, y) for index, name in enumerate(systems)],
        "levels": [x(v) for v in result["levels"] if x.low <= v <= x.high],
    }


def _line(
    name: str, index: int, band: Mapping[str, Any], points: Sequence[Mapping[str, Any]], x: _Scale, y: _Scale
) -> dict[str, Any]:
    rows = zip(*(band[key] for key in ("quality", "middle", "low", "high")), strict=True)
    kept = [row for row in rows if None not in row]
    edge = [(x(q), y(low)) for q, _, low, _ in kept] + [(x(q), y(high)) for q, _, _, high in reversed(kept)]
    return {
        "name": name,
        # 24 different ones
        "colour": COLOURS[index % len(COLOURS)],
        "dash": DASHES[index // len(COLOURS) % len(DASHES)],
        "line": _path([(x(q), y(middle)) for q, middle, _, _ in kept]),
        "area": _path(edge),
        "points": [
            {
                "x": x(p["quality"]),
                "y": y(p["diversity"]),
                "says": f"{name}, setting {p['setting'] + 1}: {p['quality']:.3g}, {p['diversity']:.3g}",
            }
            for p in points
        ],
    }


class _Scale:
    """Values to pixels, with round ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.5 * abs(low) or 0.5
        self.low, self.high = low - room, high + room
        self.start, self.end = start, end
        step = _round_step((self.high - self.low) / 6)
        first = math.ceil(self.low / step)
        self.ticks = [round(i * step, 10) for i in range(first, math.floor(self.high / step) + 1)]

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((m * power for m in (1, 2, 5) if m * power >= rough), 10 * power)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)
