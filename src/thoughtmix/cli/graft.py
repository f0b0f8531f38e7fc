"""`thoughtmix graft` and `thoughtmix export`: thought branches on a pretrained model, and thoughts as plain LoRA."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.core.errors import InputError

_DTYPE = typer.Option(help="auto, float32, bfloat16 or float16.")
_DEVICE = typer.Option(help="auto, cpu, cuda, ...")


@app.command("graft")
def graft_command(
    model: Annotated[str, typer.Argument(help="A folder, a Hugging Face id, or default.")],
    out: Annotated[Path, typer.Option(help="The folder to write; then: thoughtmix think --model FOLDER.")],
    branches: Annotated[int, typer.Option(help="Branches at each block.")] = 8,
    rank: Annotated[int, typer.Option(help="Rank of a branch.")] = 8,
    travelled: Annotated[str, typer.Option(help="How many branches a thought travels through: N, or MIN-MAX.")] = "1-2",
    route: Annotated[str, typer.Option(help="model: one route a thought; layer: each layer draws its own.")] = "model",
    router: Annotated[str, typer.Option(help="prior: learned odds; prompt: they depend on the prompt.")] = "prior",
    noise: Annotated[str, typer.Option(help="held, fresh or none.")] = "held",
    combiner: Annotated[str, typer.Option(help="router, or attention (not exact as LoRA).")] = "router",
    layers: Annotated[
        str | None, typer.Option(help="Numbers of the blocks, with commas between. Default: all.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A module to graft, by name or its ending; may be repeated.")
    ] = None,
    dtype: Annotated[str, _DTYPE] = "auto",
    device: Annotated[str, _DEVICE] = "auto",
) -> int:
    """Put thought branches on a pretrained model. They do nothing until they are tuned."""
    low, _, high = travelled.partition("-")
    if not (low.isdigit() and (high or low).isdigit()):
        raise InputError(f"--travelled is {travelled!r}.", "Pass one number, or two as in 1-2.")
    if layers is not None and not all(part.strip().isdigit() for part in layers.split(",")):
        raise InputError(f"--layers is {layers!r}.", "Pass numbers with commas between, as in 10,11,12.")
    from thoughtmix.graft.config import MoTConfig

    config = MoTConfig(
        task_type="CAUSAL_LM",
        num_branches=branches,
        r=rank,
        branches_min=int(low),
        branches_max=int(high or low),
        route=route,
        router=router,
        noise=noise,
        combiner=combiner,
        target_modules=target or None,
        layers=None if layers is None else [int(part) for part in layers.split(",")],
    )
    from peft import get_peft_model

    from thoughtmix.cli.output import progress
    from thoughtmix.graft.export import base_model_name, check_replaceable, save_graft
    from thoughtmix.models import load_model

    check_replaceable(out)  # before a model is loaded for it
    lm = load_model(model, dtype=dtype, device=device, on_progress=progress())
    before = sum(p.numel() for p in lm.model.parameters())
    made: Any = get_peft_model(lm.model, config)
    added = sum(p.numel() for n, p in made.named_parameters() if ".mot_" in n)
    save_graft(made, out, base_model_name(lm, model))
    where = ", ".join(sorted(made.peft_config["default"].target_modules)[:3])
    print(
        f"{branches} branches of rank {rank} beside {where}: {added:,} parameters, {added / before:.1%} of {lm.name}."
    )
    print(
        f"Wrote {out}. They do nothing yet; train them, then type: thoughtmix think ... --thinker mixture --model {out}"
    )
    return 0


@app.command()
def export(
    graft: Annotated[str, typer.Argument(help="The folder of a graft.")],
    lora: Annotated[Path, typer.Option(help="The folder to write: one LoRA adapter a thought.")],
    thoughts: Annotated[int, typer.Option(help="How many.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the first thought; thought i has seed + i.")] = 0,
    creativity: Annotated[float, typer.Option(help="1 is as trained, more is bolder.")] = 1.0,
    measure: Annotated[bool, typer.Option(help="Measure how near each adapter is to its thought.")] = True,
    dtype: Annotated[str, _DTYPE] = "auto",
    device: Annotated[str, _DEVICE] = "auto",
) -> int:
    """Write fixed thoughts of a graft as plain LoRA adapters, for engines that serve many of them at once."""
    from thoughtmix.models.language import adapter_folder

    if adapter_folder(graft) is None:
        raise InputError(f"{graft} is not the folder of a graft.", "Make one: thoughtmix graft MODEL --out DIR")
    from thoughtmix.cli.output import progress
    from thoughtmix.graft.export import PROMPTS, export_lora
    from thoughtmix.models import load_model

    tell = progress()
    lm = load_model(graft, dtype=dtype, device=device, on_progress=tell)
    prompts = [lm.encode(p) for p in PROMPTS] if measure else []
    facts = export_lora(lm.model, lora, thoughts, seed, creativity, prompts, tell)
    print(f"Wrote {thoughts} LoRA adapters into {lora} (scale 1, base {facts['base_model']}).")
    print(f"Noise: {facts['noise']}. Combiner: {facts['combiner']}.")
    if measure:
        print(f"Beside the thought itself, over {len(prompts)} prompts (nats a token; largest logit difference):")
        for t in facts["thoughts"]:
            print(
                f"  {t['adapter']}  seed {t['seed']}  KL {t['kl']:.2e} (base model: {t['kl_of_base']:.2e})  "
                f"max {t['max_logit_difference']:.2e}"
            )
    else:
        print("Not measured.", file=sys.stderr)
    return 0
