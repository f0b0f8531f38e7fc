"""How many of 80 thoughts (10 prompts, 8 each, plain sampling at the defaults) end whole: exactly at 64 tokens, as it
was; landing within 96, as it is; and with a hint at the length in the prompt or the system message.

    python studies/answers/whole.py [--only NAME]

Prints for each: how thoughts ended, words a thought, tokens drawn, and thoughts that repeat themselves.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import thoughtmix
from thoughtmix.core.selection import repeats

PROMPTS = (
    "Name an unusual use for a brick.",
    "Write the first line of a novel about a lighthouse.",
    "Give me an idea for a birthday party.",
    "What should I cook tonight?",
    "Why is the sky blue?",
    "Tell me something surprising about bees.",
    "Describe a city of the future.",
    "How can I learn a language quickly?",
    "Write a short poem about rain.",
    "What would you ask a time traveller?",
)
HINT = "Answer in one or two sentences."
WAYS: dict[str, dict[str, Any]] = {
    "64 tokens, exactly": {"max_new_tokens": 64, "landing": 0},
    "96 tokens, exactly": {"max_new_tokens": 96, "landing": 0},
    "96 tokens, landing": {},
    "64 tokens, landing": {"max_new_tokens": 64},
    "hint in the prompt": {"hint": "user"},
    "hint in the system message": {"hint": "system"},
}


def asked(prompt: str, hint: str | None) -> Any:
    if hint == "user":
        return f"{prompt}\n\n{HINT}"
    if hint == "system":
        return [{"role": "system", "content": HINT}, {"role": "user", "content": prompt}]
    return prompt


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=WAYS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    pipeline = thoughtmix.Pipeline()
    for name, settings in WAYS.items():
        if given.only not in {None, name}:
            continue
        how = {k: v for k, v in settings.items() if k != "hint"}
        sets = [
            pipeline(asked(p, settings.get("hint")), 8, "sampling", seed=given.seed, measure=False, **how)
            for p in PROMPTS
        ]
        thoughts = [t for one in sets for t in one]
        ends = Counter(t.finish for t in thoughts)
        whole = ends["stop"] + ends["sentence"]
        words = sum(len(t.text.split()) for t in thoughts) / len(thoughts)
        tokens = sum(one.run["tokens"] for one in sets)
        loops = sum(repeats(t.text) for t in thoughts)
        print(f"{name:28s} whole {whole} of 80 {dict(ends)}, {words:.0f} words, {tokens} tokens, {loops} repeat")


if __name__ == "__main__":
    main()
