"""How many first branches have descendants in the end? The packaged mask predictor, by way of competing.

    python studies/diffusion/ancestors.py

Mean and least number of different ancestors over the seeds; "half" is what `diverse` promises.
"""

from __future__ import annotations

import argparse

from thoughtmix.diffusion.branching import BranchingConfig, MultiBranchDiffusion
from thoughtmix.diffusion.load import load_diffusion
from thoughtmix.diffusion.policies import make_policy
from thoughtmix.diffusion.sampler import DenoisingConfig

MOMENTS = {"0.2,0.5": (0.2, 0.5), "0.2,0.4,0.6": (0.2, 0.4, 0.6), "0.1 to 0.8": tuple(i / 10 for i in range(1, 9))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="JULIET:\nO Romeo, ")
    parser.add_argument("--branches", default="4,8")
    parser.add_argument("--compete", default="best,diverse")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    model = load_diffusion()
    denoising = DenoisingConfig(make_policy("random"), 32)
    print("| branches | compete | moments | ancestors, mean | least |", "|---|---|---|---|---|", sep="\n")
    for branches in map(int, args.branches.split(",")):
        for compete in args.compete.split(","):
            for name, moments in MOMENTS.items():
                found = []
                for seed in range(args.seeds):
                    many = MultiBranchDiffusion(
                        branches, model, branching=BranchingConfig(compete, moments), denoising=denoising
                    )
                    done = many.generate_parallel(args.prompt, args.tokens, seed=seed * branches)
                    found.append(len({one.origin for one in done}))
                print(f"| {branches} | {compete} | {name} | {sum(found) / len(found):.1f} | {min(found)} |", flush=True)


if __name__ == "__main__":
    main()
