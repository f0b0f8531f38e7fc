"""Do the leaves of a search differ? Of eight leaves: stock phrases, different beginnings, whole ones.

    python studies/search/leaves.py                  # five prompts, the thinker's defaults
    python studies/search/leaves.py "Name a bird."   # prompts of your own

A beginning is the first three words, without case. `docs/results/search.md` has the table.
"""

from __future__ import annotations

import argparse

from thoughtmix import Pipeline
from thoughtmix.asking.answers import plain_answer
from thoughtmix.core.stock import is_stock_phrase
from thoughtmix.metrics.soundness import is_complete

PROMPTS = (
    "Give me an unusual idea for a birthday party.",
    "Name an unusual use for a brick.",
    "Write a tweet about learning to swim as an adult.",
    "Suggest a title for a story about a lighthouse.",
    "Name a bird.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print the leaves, too")
    args = parser.parse_args()
    pipeline = Pipeline()
    print("| prompt | stock phrases | different beginnings | whole |", "|---|---|---|---|", sep="\n")
    for prompt in args.prompts:
        made = pipeline(prompt, 8, "search", seed=args.seed, measure=False)
        stock = sum(is_stock_phrase(text) for text in made.texts)
        begun = len({tuple(plain_answer(text).split()[:3]) for text in made.texts})
        whole = sum(is_complete(t.text, t.finish) for t in made)
        print(f"| {prompt} | {stock} | {begun} | {whole} |", flush=True)
        if args.show:
            print(*(f"    {t.finish}: {' / '.join(t.text.split(chr(10)))}" for t in made), sep="\n")


if __name__ == "__main__":
    main()
