"""How much a thought's branch says about its answer: mutual information on questions that no graft practised.

    python studies/sets/information.py --wordnet DIR --graft NAME=DIR [--graft ...] [--only b,c] [--device cuda]

Eight thoughts a question, one a branch, at T 0.8. With p_k(y) the probability of answer y through branch k (at
temperature 1), each gives log2(p_k(y) / mean over branches of p_j(y)), whose expectation over y drawn from p_k is the
mutual information of branch and answer, bits, at most log2 of the number of branches; here draws are at T 0.8 and
answers cut at 24 tokens. Mean over questions and 95% BCa interval, of all answers and of right ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from judge import LONGEST, questions

from thoughtmix.bench import statistics as st
from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.engine.requests import DEFAULT_MIN_P
from thoughtmix.graft.adapter import require_graft
from thoughtmix.graft.tuning.distillation import DistillationSample
from thoughtmix.graft.tuning.objectives import Student, answer_logprobs, collate
from thoughtmix.models import load_model
from thoughtmix.practice.wordnet import SYSTEM


@torch.no_grad()
def bits(folder: str, asked: list, dtype: str, device: str) -> tuple[np.ndarray, np.ndarray]:
    """(questions,) of all answers, and of right ones (NaN where none is)."""
    lm = load_model(folder, dtype=dtype, device=device)
    graft, engine = require_graft(lm.model), LocalEngine(lm)
    k = graft.config.num_branches
    sampling, everything, right = SamplingParams(temperature=0.8, min_p=DEFAULT_MIN_P), [], []
    for at in range(0, len(asked), 16):
        part = asked[at : at + 16]
        prompts = [tuple(lm.encode(prompt)) for _, prompt, _ in part for _ in range(k)]
        seeds = [i for _ in part for i in range(k)]
        state = graft.row_state(seeds, [1.0] * len(seeds), lm.device, torch.eye(k).repeat(len(part), 1))
        rows = [SequenceRequest(p, s, sampling, LONGEST) for p, s in zip(prompts, seeds, strict=True)]
        outputs = engine.generate(rows, row_state=state).outputs
        samples = [
            DistillationSample("", p, i % k, tuple(o.token_ids), ())
            for i, (p, o) in enumerate(zip(prompts, outputs, strict=True))
        ]
        batch = {name: x.to(lm.device) for name, x in collate(samples, graft.config.tail).items()}
        student = Student(lm.model, batch, k)
        branch = batch["branch"]
        liked = torch.stack([answer_logprobs(student(torch.full_like(branch, j)), batch) for j in range(k)], 1).double()
        own = liked.gather(1, branch[:, None])[:, 0] - liked.logsumexp(1) + np.log(k)
        found = (own / np.log(2)).view(len(part), k).cpu().numpy()
        valid = np.array(
            [parse(o.text.strip()).valid for (_, _, parse), o in zip(_each(part, k), outputs, strict=True)]
        )
        valid = valid.reshape(len(part), k)
        everything += list(found.mean(1))
        right += [row[good].mean() if good.any() else np.nan for row, good in zip(found, valid, strict=True)]
    return np.array(everything), np.array(right)


def _each(part: list, k: int) -> list:
    return [question for question in part for _ in range(k)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--wordnet", type=Path, default=SYSTEM)
    parser.add_argument("--graft", action="append", default=[])
    parser.add_argument("--only", default="b,c")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    asked = [q for q in questions(given.wordnet, 60) if q[0][0] in given.only]
    for entry in given.graft:
        name, folder = entry.split("=", 1)
        for what, values in zip(("all", "right"), bits(folder, asked, given.dtype, given.device), strict=True):
            some = values[~np.isnan(values)]
            i = st.bootstrap(lambda w, x=some: w @ x, len(some), np.random.default_rng(5), null=0.0)
            print(f"{name} {what} answers, {len(some)} questions: {i.value:.3f} bits ({i.low:.3f} to {i.high:.3f})")


if __name__ == "__main__":
    main()
