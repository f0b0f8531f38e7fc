"""How a question with one right answer is answered by a pool, and by plain sampling: what `auto` does with such.

    python studies/ways/facts.py --seeds 3

Thirty questions that a child may know, eight answers each as `thoughtmix think` would give them. Told for each way: the
share of right answers; of questions whose most frequent answer (`asking.one_answer`) is right, and of those for which
one is told that is wrong; tokens an answer. Intervals: BCa bootstrap over questions of the paired difference to the
first way, seeds averaged.
"""

from __future__ import annotations

import argparse
import re

import numpy as np

from thoughtmix import Pipeline
from thoughtmix.asking.one_answer import one_answer
from thoughtmix.asking.question import kind_of_answer
from thoughtmix.bench import statistics as st

N = 8
WAYS = (("sampling", {}), ("sampling", {"temperature": 0.5}), ("pool", {}), ("pool", {"temperature": 1.0}))
NAMES = ("right", "most frequent right", "most frequent wrong", "tokens")
FACTS = {
    "What is the capital of France?": "paris",
    "What is the capital of Italy?": "rome",
    "What is the capital of Japan?": "tokyo",
    "What is the capital of Egypt?": "cairo",
    "What is the capital of Germany?": "berlin",
    "Who wrote Hamlet?": "shakespeare",
    "Who wrote Don Quixote?": "cervantes",
    "Who painted the Mona Lisa?": "vinci",
    "Who was the first president of the United States?": "washington",
    "Who developed the theory of relativity?": "einstein",
    "What is the largest planet in the solar system?": "jupiter",
    "What is the largest ocean?": "pacific",
    "What is the longest river in Africa?": "nile",
    "What is the highest mountain in the world?": "everest",
    "What is the chemical symbol for gold?": "au",
    "What is the chemical symbol for water?": "h2o|h₂o",
    "Which gas do plants take in from the air?": "carbon dioxide|co2|co₂",
    "What is the opposite of hot?": "cold",
    "What is the opposite of day?": "night",
    "How many days are there in a week?": "7|seven",
    "How many months are there in a year?": "12|twelve",
    "How many legs does a spider have?": "8|eight",
    "How many minutes are there in an hour?": "60|sixty",
    "How many continents are there?": "7|seven",
    "What is 2 + 2?": "4|four",
    "What is 7 times 8?": "56|fifty-six",
    "What is the square root of 81?": "9|nine",
    "Which planet is nearest to the sun?": "mercury",
    "Which animal is the king of the jungle?": "lions?",
    "What is the boiling point of water in degrees Celsius?": "100|hundred",
}
"""Question -> what a right answer has in it."""


def is_right(question: str, text: str) -> bool:
    return re.search(rf"\b(?:{FACTS[question]})\b", text, re.IGNORECASE) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    known = [kind_of_answer(question) for question in FACTS].count("one")
    print(f"{known} of {len(FACTS)} are read as questions with one answer")
    pipeline, rng = Pipeline(), np.random.default_rng(3)
    print(f"\n| way | {' | '.join(NAMES)} |\n{'|---' * (len(NAMES) + 1)}|")
    first: st.Floats | None = None
    for thinker, how in WAYS:
        told = np.zeros((len(FACTS), len(NAMES)))
        for seed in range(args.seeds):
            sets = pipeline(list(FACTS), N, thinker, seed=1000 * seed, measure=False, **how)
            for i, (question, made) in enumerate(zip(FACTS, sets, strict=True)):
                most = one_answer(question, made.texts)["answer"]
                right = np.mean([is_right(question, text) for text in made.texts])
                agreed = most is not None and is_right(question, most)
                told[i] += [right, agreed, most is not None and not agreed, np.mean([len(t.token_ids) for t in made])]
        told /= args.seeds
        first = told if first is None else first
        cells = [f"{told[:, i].mean():.3f}" for i in range(len(NAMES))]
        for i in range(len(NAMES)) if told is not first else ():
            d = st.mean_difference(told[:, i], first[:, i], rng)
            cells[i] += f" ({d.value:+.3f}: {d.low:+.3f} to {d.high:+.3f})"
        print(f"| {thinker} {how or ''} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
