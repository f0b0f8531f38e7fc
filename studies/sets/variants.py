"""What branches can be: a graft of each kind, from nothing, taught alike (`spread`, then `set`) for as many steps.

    python studies/sets/variants.py --out DIR --wordnet DIR [--only turns,plain] [--seeds 1,2,3] [--steps 100]
        [--batch-size 48] [--spread-steps 60] [--device cuda] [--known known.jsonl] [--embedder DIR] [--ask-only]

Kinds (the number of parameters is the same):

    plain      one branch of rank 64: plain LoRA, sets of eight thoughts drawn through it
    turns      eight branches of rank 8; each next right answer of a prompt is taught to the next branch
    liked      ... to the branch that likes it best, every branch as often (balanced hard EM)
    initial    ... to the branch of its first letter, which answers to other prompts have, too
    posterior  as turns; in set reward a right answer earns more the less other branches would have given it (0.5)
    both       initial, then posterior
    cold       as both, sets drawn at temperature 0.5: what differs must differ by branch

Each is written to DIR/KIND-SEED, a graft that `--model` takes, with `log.json`: what training saw at each step.
`judge.py` compares them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from peft import get_peft_model

from thoughtmix.graft import MoTConfig
from thoughtmix.graft.export import save_graft
from thoughtmix.graft.tuning.known import ask
from thoughtmix.graft.tuning.practise import tune_sets, tune_spread
from thoughtmix.graft.tuning.set_prompts import spread_over_kinds
from thoughtmix.graft.tuning.set_task import SetConfig, SetTask
from thoughtmix.models import load_model
from thoughtmix.models.adapter import peft_warnings
from thoughtmix.models.embed import load_embedder
from thoughtmix.practice.wordnet import SYSTEM, WordNet
from thoughtmix.practice.world import World, build_world
from thoughtmix.training.config import TrainConfig

THOUGHTS, PARAMETERS = 8, 64
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"branches": 1},
    "turns": {},
    "liked": {"assignment": "liked"},
    "initial": {"assignment": "initial"},
    "posterior": {"posterior": 0.5},
    "both": {"assignment": "initial", "posterior": 0.5},
    "cold": {"assignment": "initial", "posterior": 0.5, "temperature": 0.5},
}
ASKED = 4  # sets of each prompt, before training


def fresh(folder: Path, branches: int, device: str) -> None:
    """A graft that does nothing yet."""
    lm = load_model("default", dtype="bfloat16", device=device)
    config = MoTConfig(
        task_type="CAUSAL_LM", num_branches=branches, r=PARAMETERS // branches, branches_min=1, branches_max=1
    )
    with peft_warnings():
        made: Any = get_peft_model(lm.model, config)
    save_graft(made, folder, "SmolLM2-135M-Instruct")


def settings(batch_size: int, steps: int, rate: float, seed: int, minutes: float | None = None) -> TrainConfig:
    return TrainConfig(
        steps=None if minutes else steps, minutes=minutes,
        batch_size=batch_size, learning_rate=rate, warmup=10, weight_decay=0.0, evaluate_every=10**6,
        save_every=10**6, precision="no", seed=seed,
    )  # fmt: skip


def train(folder: Path, kind: dict[str, Any], seed: int, world: World, given: argparse.Namespace) -> None:
    branches = kind.get("branches", THOUGHTS)
    fresh(folder, branches, given.device)
    (folder / "training").mkdir(exist_ok=True)
    if given.known:
        shutil.copy(given.known, folder / "training" / "known.jsonl")
    sets = SetConfig(
        thoughts=THOUGHTS, posterior=kind.get("posterior", 0.0), temperature=kind.get("temperature", 0.9), kl=given.kl
    )
    lm = load_model(str(folder), dtype="bfloat16", device=given.device)
    what = (lm, folder, world.practice, world.validation, sets)
    began = time.perf_counter()
    log: dict[str, Any] = {"spread": [], "set": []}
    if given.spread_steps:
        config = settings(48, given.spread_steps, 1e-3, seed)
        log["spread"] = tune_spread(*what, config, assignment=kind.get("assignment", "turns")).log
        (folder / "training" / "state.pt").unlink()
    log["spread_seconds"] = time.perf_counter() - began
    config = settings(given.batch_size, given.steps, 1e-3, seed, given.minutes)
    embedder = load_embedder(given.embedder) if given.embedder else load_embedder()

    def told(p: Any) -> None:
        if p.step % 10 == 0 or p.step == p.steps:
            print(f"{folder.name} {p.step}/{p.steps} {time.perf_counter() - began:.0f} s", flush=True)

    log["set"] = tune_sets(*what, config, embedder=embedder, on_step=told).log
    log["seconds"] = time.perf_counter() - began
    shutil.rmtree(folder / "training")
    (folder / "log.json").write_text(json.dumps(log), encoding="utf-8")
    shown = {name: round(value, 3) for name, value in log["set"][-1].items() if name.startswith("val_")}
    print(f"{folder.name}: {given.steps} steps, {log['seconds']:.0f} s, {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, default=SYSTEM)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--steps", type=int, default=100, help="of set reward")
    parser.add_argument("--minutes", type=float, help="of set reward, in place of steps")
    parser.add_argument("--spread-steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=12, help="prompts of a step of set reward")
    parser.add_argument("--kl", type=float, default=0.1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--known", type=Path, help="what the model answers, from an earlier run")
    parser.add_argument("--embedder", help="of open answers; default: the packaged one")
    parser.add_argument("--limit", type=int, help="prompts to practise and as many to look at, for a first try")
    parser.add_argument("--ask-only", action="store_true", help="write DIR/known.jsonl and nothing else")
    given = parser.parse_args()
    world = build_world(WordNet.read(given.wordnet))
    if given.limit:
        practice = tuple(spread_over_kinds(world.practice, given.limit))
        world = World(practice, world.validation[: given.limit], world.reported)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.ask_only:
        fresh(given.out / "fresh", THOUGHTS, given.device)
        lm = load_model(str(given.out / "fresh"), dtype="bfloat16", device=given.device)
        checked = [p for p in (*world.practice, *world.validation) if p.answer is not None]
        task = SetTask(lm, checked, checked, None, SetConfig(temperature=1.0))
        ask(task, checked, given.out / "known.jsonl", lambda done, of: print(done, of, flush=True), ASKED)
        return
    for name in given.only.split(","):
        for seed in (int(text) for text in given.seeds.split(",")):
            train(given.out / f"{name}-{seed}", KINDS[name], seed, world, given)


if __name__ == "__main__":
    main()
