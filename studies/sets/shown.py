"""Eight thoughts of each of four prompts, as they come: nothing is chosen, nothing left out.

    python studies/sets/shown.py DIR [DIR ...] [--dtype bfloat16]

Of each graft: seeds 0 to 7, drawn independently at T 0.7 and min-p 0.1, at most 40 tokens, as Markdown.
"""

from __future__ import annotations

import argparse

from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.graft.adapter import require_graft
from thoughtmix.models import load_model

PROMPTS = (
    "Name a kind of chair.",
    "Name a bird.",
    "Name a use for a brick.",
    "Give me an unusual idea for a birthday party.",
)
N, LONGEST = 8, 40


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("graft", nargs="+")
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    shown: dict[str, list[str]] = {prompt: [] for prompt in PROMPTS}
    for folder in given.graft:
        model = load_model(folder, dtype=given.dtype)
        seeds = list(range(N)) * len(PROMPTS)
        state = require_graft(model.model).row_state(seeds, [1.0] * len(seeds), model.device)
        sampling = SamplingParams(temperature=0.7, min_p=0.1)
        prompts = [tuple(model.encode(prompt)) for prompt in PROMPTS for _ in range(N)]
        rows = [SequenceRequest(p, s, sampling, LONGEST) for p, s in zip(prompts, seeds, strict=True)]
        texts = [o.text.strip() for o in LocalEngine(model).generate(rows, row_state=state).outputs]
        for i, prompt in enumerate(PROMPTS):
            own = " / ".join(" ".join(text.split()) for text in texts[i * N : (i + 1) * N])
            shown[prompt].append(f"* `{folder}`: {own}")
    for prompt, lines in shown.items():
        print(f"**{prompt}**\n", *lines, "", sep="\n")


if __name__ == "__main__":
    main()
