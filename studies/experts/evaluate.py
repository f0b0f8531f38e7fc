"""Do the experts of the small model specialise, and does steering them steer the text? After train.py:

    python studies/experts/evaluate.py --shakespeare FILE --model small-moe [--judge small-judge] [--out figures.json]

1. Domains from routing: mutual information and recovery on held-out text, by permutation.
2. Steering: texts continued under each domain's forced experts, and under its bias profile at several strengths, scored
   by a classifier that never saw the model, against the same with its experts drawn at random within each layer.
3. Noise: routing noise at two low temperatures beside temperature alone, as many settings each; diversity (distinct
   3-grams, 1 - self-BLEU) against likelihood under another model (train.py --judge; without one, byte n-grams).

Unit of every interval: the prompt, its seeds averaged first; BCa bootstrap (bench/statistics.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from classifier import DomainClassifier, NgramJudge
from corpora import DOMAINS, chunks, corpora
from numpy.typing import NDArray

from thoughtmix import Request
from thoughtmix.bench.statistics import Curve, bootstrap, difference_at
from thoughtmix.core.files import write_whole
from thoughtmix.experts import Profile, Specialization, analyze_expert_specialization
from thoughtmix.experts.branches import NOISE, think_under
from thoughtmix.experts.profile import ROUTER
from thoughtmix.metrics.judge import judge_nll
from thoughtmix.metrics.text import distinct_n, self_bleu
from thoughtmix.models import LanguageModel, load_model

TOKENS, THOUGHTS = 64, 4
KINDS = ("forced", "bias 1", "bias 2", "bias 4")
FRONTIERS = {  # (temperature, creativity of the noise)
    "temperature": [(0.3, 0.0), (0.5, 0.0), (0.7, 0.0), (0.9, 0.0), (1.1, 0.0)],
    "noise at temperature 0.3": [(0.3, 0.25), (0.3, 0.5), (0.3, 0.75), (0.3, 1.0), (0.3, 1.5)],
    "noise at temperature 0.5": [(0.5, 0.25), (0.5, 0.5), (0.5, 0.75), (0.5, 1.0), (0.5, 1.5)],
}


def shuffled(profile: Profile, experts: Sequence[int], rng: np.random.Generator) -> Profile:
    """The same changes on random experts: each layer's experts are permuted."""
    bias, force = {}, {}
    for layer, e in enumerate(experts):
        to = rng.permutation(e)
        if layer in profile.bias:
            bias[layer] = {int(to[x]): b for x, b in profile.bias[layer].items()}
        if layer in profile.force:
            force[layer] = [int(to[x]) for x in profile.force[layer]]
    return Profile(f"random {profile.name}", force=force, bias=bias)


def interval(values: Sequence[float]) -> list[float]:
    """[mean, low, high]: 95% over prompts."""
    x = np.asarray(values)
    found = bootstrap(lambda w: w @ x, len(x), np.random.default_rng(0))
    return [round(v, 4) for v in (found.value, found.low, found.high)]


def written(lm: LanguageModel, prompt: str, profiles: list[Profile], seed: int, **more: Any) -> list[str]:
    """One text under each profile."""
    request = Request(n=len(profiles), seed=seed, max_new_tokens=TOKENS, **{"temperature": 0.8, "min_p": 0.05, **more})
    thoughts, _ = think_under(lm, lm.encode(prompt, raw=True), request, profiles, read="each")
    return [t.text for t in thoughts]


def steering(
    lm: LanguageModel, found: Specialization, judge: DomainClassifier, prompts: dict[str, list[str]], seeds: int
) -> dict[str, Any]:
    """For each domain and kind of steering: how far it moves the classifier to the domain on prompts of the *other*
    domains, beyond the model's own text and beyond random experts. {kind: {domain or all: figures}}"""
    out: dict[str, Any] = {kind: {} for kind in KINDS}
    every: dict[str, list[NDArray[np.float64]]] = {kind: [] for kind in KINDS}
    rng = np.random.default_rng(0)
    for c, domain in enumerate(DOMAINS):
        kinds = {k: found.forced(domain) if k == "forced" else found.profile(domain, float(k[5:])) for k in KINDS}
        kinds = {kind: profile for kind, profile in kinds.items() if profile}
        asked = [text for other, texts in prompts.items() if other != domain for text in texts]
        scores = np.zeros((len(asked), len(kinds), 3, seeds * THOUGHTS, len(DOMAINS)))  # steered, random, plain
        for i, prompt in enumerate(asked):
            under: list[Profile] = [ROUTER] * (seeds * THOUGHTS)
            for profile in kinds.values():
                under += [profile] * (seeds * THOUGHTS)
                under += [shuffled(profile, found.num_experts, rng) for _ in range(seeds * THOUGHTS)]
            made = np.array([judge.scores(text) for text in written(lm, prompt, under, 10_000 * (i + 1))])
            made = made.reshape(-1, seeds * THOUGHTS, len(DOMAINS))
            for j in range(len(kinds)):
                scores[i, j] = made[[2 * j + 1, 2 * j + 2, 0]]
        for j, kind in enumerate(kinds):
            moved = scores[:, j, :, :, c].mean(-1)  # (prompts, 3)
            by_seed = scores[:, j, :, :, c].reshape(len(asked), 3, seeds, THOUGHTS).mean((0, 3))
            taken = (scores[:, j].argmax(-1) == c).mean((0, 2))
            out[kind][domain] = {
                "over_plain": interval(moved[:, 0] - moved[:, 2]),
                "over_random_experts": interval(moved[:, 0] - moved[:, 1]),
                "over_random_experts_by_seed": np.round(by_seed[0] - by_seed[1], 3).tolist(),
                "taken_for_it": dict(zip(("steered", "random", "plain"), np.round(taken, 3).tolist(), strict=True)),
            }
            every[kind].append(moved)
        print(domain, json.dumps({kind: out[kind].get(domain) for kind in KINDS}), flush=True)
    for kind, parts in every.items():
        if parts:
            moved = np.concatenate(parts)
            out[kind]["all"] = {
                "over_plain": interval(moved[:, 0] - moved[:, 2]),
                "over_random_experts": interval(moved[:, 0] - moved[:, 1]),
            }
    return out


def likelihood(folder: str | None, texts: dict[str, tuple[str, str]]) -> Callable[[str, list[str]], float]:
    """The judge's mean nats a token, or a byte without a model."""
    if folder is None:
        grams = NgramJudge("\n".join(train for train, _ in texts.values()))
        return lambda prompt, made: float(np.nanmean([grams.nats_per_byte(t) for t in made]))
    judge = load_model(folder, dtype="float32")
    return lambda prompt, made: float(judge_nll(prompt, made, judge).mean())


def frontier(
    lm: LanguageModel, judge: Callable[[str, list[str]], float], asked: list[str], seeds: int
) -> dict[str, Any]:
    """Routing noise at a fixed temperature beside temperature alone, eight texts a prompt and seed, prompts of all
    domains. Quality is minus the judge's nats."""
    curves: dict[str, NDArray[np.float64]] = {}  # (3, prompts, settings)
    out: dict[str, Any] = {"settings": []}
    for name, settings in FRONTIERS.items():
        figures = np.zeros((3, len(asked), len(settings)))
        for at, (temperature, creativity) in enumerate(settings):
            more = {"temperature": temperature, "creativity": creativity or None}
            for i, prompt in enumerate(asked):
                every = written(lm, prompt, [NOISE if creativity else ROUTER] * (8 * seeds), 10_000 * (i + 1), **more)
                for seed in range(seeds):
                    texts = every[8 * seed : 8 * seed + 8]
                    figures[:, i, at] += [-judge(prompt, texts), distinct_n(texts, 3), 1 - self_bleu(texts)]
            row: dict[str, Any] = {"what": name, "temperature": temperature, "creativity": creativity}
            parts = zip(("quality", "distinct_3", "one_minus_self_bleu"), figures[:, :, at] / seeds, strict=True)
            out["settings"].append(row | {what: interval(x) for what, x in parts})
            print(json.dumps(out["settings"][-1]), flush=True)
        figures /= seeds
        curves[name] = figures
    base = curves.pop("temperature")
    ease = base[0].mean(-1, keepdims=True)  # of each prompt: qualities are compared with it, not with other prompts'
    for name, mine in curves.items():
        for at, what in ((1, "distinct_3"), (2, "one_minus_self_bleu")):
            curve, plain = (Curve(x[0] - ease, x[at]) for x in (mine, base))
            means = [c.quality.mean(0) for c in (curve, plain)]
            low, high = max(x.min() for x in means), min(x.max() for x in means)
            for share in (0.25, 0.5, 0.75):  # of the qualities that both reach
                level = low + share * (high - low)
                d = difference_at(curve, plain, level, np.random.default_rng(0))
                row = {"what": name, "diversity": what, "quality_beside_its_mean": round(float(level), 3)}
                out.setdefault("beyond_temperature", []).append(
                    row | {"difference": [round(v, 4) for v in (d.value, d.low, d.high)]}
                )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shakespeare", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--judge", help="folder of train.py --judge")
    parser.add_argument("--prompts", type=int, default=6, help="of each domain")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--skip-steering", action="store_true")
    parser.add_argument("--skip-frontier", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lm = load_model(args.model, dtype="float32")
    texts = corpora(args.shakespeare)
    judge = DomainClassifier({name: train for name, (train, _) in texts.items()})
    held = {name: chunks(text, 48, 400, seed=1) for name, (_, text) in texts.items()}
    right = [judge.scores(t[:200]).argmax() == c for c, name in enumerate(DOMAINS) for t in held[name]]
    found = analyze_expert_specialization(lm, {name: held[name][:24] for name in DOMAINS})
    figures: dict[str, Any] = {"classifier_accuracy_held_out": round(float(np.mean(right)), 3), "map": found.facts()}
    figures["over_used"] = {name: len(found.experts_of(name)) for name in DOMAINS}
    print(json.dumps(figures, indent=1), flush=True)
    prompts = {name: [t[:60] for t in held[name][24 : 24 + args.prompts]] for name in DOMAINS}
    if not args.skip_steering:
        figures["steering"] = steering(lm, found, judge, prompts, args.seeds)
        print(json.dumps({kind: x.get("all") for kind, x in figures["steering"].items()}), flush=True)
        keep(figures, args.out)
    if not args.skip_frontier:
        asked = [p for name in DOMAINS for p in prompts[name][:4]]
        figures["frontier"] = frontier(lm, likelihood(args.judge, texts), asked, args.seeds)
        print(json.dumps(figures["frontier"]["beyond_temperature"], indent=1))
        keep(figures, args.out)


def keep(figures: dict[str, Any], out: Path | None) -> None:
    if out:
        write_whole(out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
