"""Do the experts of the small model specialise, and does steering them steer the text? After train.py:

    python studies/experts/evaluate.py --shakespeare FILE --model small-moe [--prompts 12] [--out figures.json]

1. Domains from routing: mutual information and recovery on held-out text, by permutation.
2. Steering: texts continued under each domain's discovered profile, scored by a classifier that never saw the model,
   against the same profile with its experts drawn at random within each layer; and the same with forced experts.
3. Noise: routing noise beside temperature, diversity (distinct 3-grams of tokens, 1 - self-BLEU) against likelihood
   under an n-gram model. Unit of every interval: the prompt, by bootstrap.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from classifier import DomainClassifier, NgramJudge
from corpora import DOMAINS, chunks, corpora

from thoughtmix import Request
from thoughtmix.experts import Profile, Specialization, analyze_expert_specialization
from thoughtmix.experts.branches import NOISE, think_under
from thoughtmix.experts.profile import ROUTER
from thoughtmix.metrics.text import distinct_n, self_bleu
from thoughtmix.models import LanguageModel, load_model

TOKENS, THOUGHTS = 64, 4


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


def interval(values: Sequence[float], seed: int = 0) -> list[float]:
    """[mean, low, high]: 95% bootstrap over prompts."""
    x = np.asarray(values)
    draws = x[np.random.default_rng(seed).integers(len(x), size=(4000, len(x)))].mean(1)
    return [round(float(v), 4) for v in (x.mean(), *np.quantile(draws, [0.025, 0.975]))]


def written(lm: LanguageModel, prompt: str, profiles: list[Profile], seed: int, **more: Any) -> list[str]:
    """One text under each profile."""
    request = Request(n=len(profiles), seed=seed, max_new_tokens=TOKENS, **{"temperature": 0.8, "min_p": 0.05, **more})
    thoughts, _ = think_under(lm, lm.encode(prompt, raw=True), request, profiles, read="each")
    return [t.text for t in thoughts]


def steering(
    lm: LanguageModel, found: Specialization, judge: DomainClassifier, prompts: dict[str, list[str]], kind: str
) -> dict[str, Any]:
    """For each domain: how far its profile moves the classifier towards it on prompts of the *other* domains, beyond
    the model's own text, and beyond random experts."""
    out: dict[str, Any] = {}
    every: list[list[float]] = [[], []]
    rng = np.random.default_rng(0)
    for c, domain in enumerate(DOMAINS):
        profile = found.forced(domain) if kind == "forced" else found.profile(domain, strength=float(kind))
        if not profile:
            out[domain] = None
            continue
        gain, control, hits, missed = [], [], [], []
        for other, texts in prompts.items():
            for i, prompt in enumerate(texts if other != domain else []):
                random = [shuffled(profile, found.num_experts, rng) for _ in range(THOUGHTS)]
                made = written(lm, prompt, [profile] * THOUGHTS + random + [ROUTER] * THOUGHTS, 100 * i)
                scores = np.array([judge.scores(text) for text in made])
                steered, randomly, plain = (scores[j * THOUGHTS : (j + 1) * THOUGHTS, c].mean() for j in range(3))
                gain.append(float(steered - plain))
                control.append(float(steered - randomly))
                hits.append(float((scores[:THOUGHTS].argmax(1) == c).mean()))
                missed.append(float((scores[THOUGHTS : 2 * THOUGHTS].argmax(1) == c).mean()))
        out[domain] = {"over_plain": interval(gain), "over_random_experts": interval(control)}
        out[domain] |= {"taken_for_it": round(float(np.mean(hits)), 3)}
        out[domain] |= {"random_taken_for_it": round(float(np.mean(missed)), 3)}
        every[0] += gain
        every[1] += control
    if every[0]:
        out["all"] = {"over_plain": interval(every[0]), "over_random_experts": interval(every[1])}
    return out


def frontier(lm: LanguageModel, judge: NgramJudge, prompts: list[str]) -> list[dict[str, Any]]:
    """Routing noise at a fixed temperature beside temperature alone, eight texts a prompt, prompts of all domains."""
    settings = [("temperature", t, 0.0) for t in (0.5, 0.7, 0.9, 1.1)]
    settings += [("noise at temperature 0.5", 0.5, c) for c in (0.5, 1.0, 2.0, 4.0)]
    out: list[dict[str, Any]] = []
    for name, temperature, creativity in settings:
        likely, distinct, unlike = [], [], []
        for i, prompt in enumerate(prompts):
            kind = [NOISE if creativity else ROUTER] * 8
            texts = written(lm, prompt, kind, 1000 + 100 * i, temperature=temperature, creativity=creativity or None)
            likely.append(float(np.nanmean([judge.nats_per_byte(t) for t in texts])))
            distinct.append(distinct_n(texts, 3))
            unlike.append(1 - self_bleu(texts))
        row: dict[str, Any] = {"what": name, "temperature": temperature, "creativity": creativity}
        row |= {"judge_nats_per_byte": interval(likely), "distinct_3": interval(distinct)}
        out.append(row | {"one_minus_self_bleu": interval(unlike)})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shakespeare", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=int, default=6, help="of each domain")
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
    for kind in ("1", "2", "forced"):
        figures[f"steering {kind}"] = steering(lm, found, judge, prompts, kind)
        print(kind, json.dumps(figures[f"steering {kind}"], indent=1), flush=True)
    if not args.skip_frontier:
        grams = NgramJudge("\n".join(train for train, _ in texts.values()))
        figures["frontier"] = frontier(lm, grams, [p for name in DOMAINS for p in prompts[name][:2]])
        print(json.dumps(figures["frontier"], indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
