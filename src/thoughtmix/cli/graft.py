"""`thoughtmix graft`, `export` and `tune`: thought branches on a pretrained model, and thoughts as plain LoRA."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import Count, DeviceOptions, option
from thoughtmix.cli.reporting import Reporter
from thoughtmix.cli.training import stopped, training_words
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.graft.config import MoTConfig
    from thoughtmix.graft.tuning.prompts import PromptContext
    from thoughtmix.graft.tuning.set_task import SetConfig
    from thoughtmix.graft.tuning.tune import TuningConfig
    from thoughtmix.models import LanguageModel
    from thoughtmix.practice.world import World
    from thoughtmix.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class GraftOptions:
    """The shape of a graft."""

    branches: Annotated[int, option("Branches at each block.")] = 8
    rank: Annotated[int, option("Rank of a branch.")] = 8
    travelled: Annotated[str, option("How many branches a thought travels through: N, or MIN-MAX.")] = "1-2"
    route: Annotated[str, option("model: one route a thought; layer: each layer draws its own.")] = "model"
    router: Annotated[str, option("prior: learned odds; prompt: they depend on the prompt.")] = "prior"
    noise: Annotated[str, option("held, fresh or none.")] = "held"
    combiner: Annotated[str, option("router, or attention (not exact as LoRA).")] = "router"
    blocks: Annotated[
        str | None, option("Numbers of the blocks to graft, with commas between.", default="all", metavar="N,N")
    ] = None
    target: Annotated[
        list[str] | None,
        option("A module to graft, by name or its ending; may be repeated.", default="the last of each feed-forward"),
    ] = None

    def config(self) -> MoTConfig:
        """As PEFT has it. Raises `InputError`."""
        low, _, high = self.travelled.partition("-")
        if not (low.isdigit() and (high or low).isdigit()):
            raise InputError(f"--travelled is {self.travelled!r}.", "Pass one number, or two as in 1-2.")
        if self.blocks is not None and not all(part.strip().isdigit() for part in self.blocks.split(",")):
            raise InputError(f"--blocks is {self.blocks!r}.", "Pass numbers with commas between, as in 10,11,12.")
        from thoughtmix.graft.config import MoTConfig

        return MoTConfig(
            task_type="CAUSAL_LM",
            num_branches=self.branches,
            r=self.rank,
            branches_min=int(low),
            branches_max=int(high or low),
            route=self.route,
            router=self.router,
            noise=self.noise,
            combiner=self.combiner,
            target_modules=self.target or None,
            layers=None if self.blocks is None else [int(part) for part in self.blocks.split(",")],
        )


@app.command("graft")
@with_options
def graft_command(
    model: Annotated[str, typer.Argument(help="A folder, a Hugging Face id, or default.")],
    out: Annotated[Path, option("The folder to write; then: thoughtmix think --model FOLDER.", metavar="FOLDER")],
    own: GraftOptions,
    device: DeviceOptions,
    report: Reporter,
) -> int:
    """Put thought branches on a pretrained model. They do nothing until they are tuned."""
    report.start("torch", "transformers", "peft")
    config = own.config()
    from peft import get_peft_model

    from thoughtmix.graft.export import base_model_name, check_replaceable, save_graft
    from thoughtmix.models import load_model
    from thoughtmix.models.adapter import peft_warnings

    check_replaceable(out)  # before a model is loaded for it
    with report.work("Loading the model"):
        lm = load_model(model, dtype=device.dtype, device=device.device, on_progress=report.step)
    if lm.encoder_decoder:
        config.task_type = "SEQ_2_SEQ_LM"
    before = sum(p.numel() for p in lm.model.parameters())
    with peft_warnings():
        made: Any = get_peft_model(lm.model, config)
    added = sum(p.numel() for n, p in made.named_parameters() if ".mot_" in n)
    save_graft(made, out, base_model_name(lm, model))
    where = ", ".join(sorted(made.peft_config["default"].target_modules)[:3])
    print(
        f"{own.branches} branches of rank {own.rank} beside {where}: "
        f"{added:,} parameters, {added / before:.1%} of {lm.name}."
    )
    report.note(f"Wrote {out}")
    print(f"They do nothing until they are tuned. Now type: thoughtmix tune {out}")
    return 0


@app.command()
@with_options
def export(
    graft: Annotated[str, typer.Argument(help="The folder of a graft.")],
    lora: Annotated[
        Path | None, option("The folder to write: one LoRA adapter a thought.", default="name one", metavar="FOLDER")
    ] = None,
    vllm: Annotated[
        Path | None,
        option(
            "The same, and what serves them: prints the command for vLLM, and writes it as serve.sh.",
            default="adapters alone",
            metavar="FOLDER",
        ),
    ] = None,
    n: Count = 8,
    seed: Annotated[int, option("Thought i is that of seed + i - 1.", "-s", "--seed")] = 0,
    creativity: Annotated[float, option("1 is as trained, more is bolder.")] = 1.0,
    measure: Annotated[bool, option("Measure how near each adapter is to its thought.")] = True,
    *,
    device: DeviceOptions,
    report: Reporter,
) -> int:
    """Write fixed thoughts of a graft as plain LoRA adapters, for engines that serve many of them at once."""
    report.start("torch", "transformers")
    from thoughtmix.models.adapter import adapter_folder

    out = lora if vllm is None else vllm
    if out is None or (lora is not None and vllm is not None):
        raise InputError("Name one folder to write.", "Pass --lora DIR, or --vllm DIR.")
    if adapter_folder(graft) is None:
        raise InputError(f"{graft} is not the folder of a graft.", "Make one: thoughtmix graft MODEL --out DIR")
    from thoughtmix.graft.export import PROMPTS, export_lora
    from thoughtmix.models import load_model

    with report.work("Loading the graft") as say:
        lm = load_model(graft, dtype=device.dtype, device=device.device, on_progress=report.step)
        measure = measure and not lm.encoder_decoder  # what is measured is whole texts after their prompts
        prompts = [lm.encode(p) for p in PROMPTS] if measure else []
        facts = export_lora(lm.model, out, n, seed, creativity, prompts, lambda line: say(line[:1].upper() + line[1:]))
    report.note(f"Wrote {out}")
    print(f"{n} LoRA adapters (scale 1, base {facts['base_model']}).")
    print(f"Noise: {facts['noise']}. Combiner: {facts['combiner']}.")
    if measure:
        print(f"Beside the thought itself, over {len(prompts)} prompts (nats a token; largest logit difference):")
        for t in facts["thoughts"]:
            print(
                f"  {t['adapter']}  seed {t['seed']}  KL {t['kl']:.2e} (base model: {t['kl_of_base']:.2e})  "
                f"max {t['max_logit_difference']:.2e}"
            )
    else:
        report.note("Not measured.")
    if vllm is not None:
        from thoughtmix.graft.vllm import serve_command, write_serve_script

        command = serve_command(vllm, facts)
        print(f"Wrote {write_serve_script(vllm, command)}. It serves each as a model of its name:")
        print(shlex.join(command))
        print('Then: thoughtmix think "Name a fruit." -e http://localhost:8000 -m thought-0')
    return 0


_HOW = "How it is trained"
_PRACTISED = ("spread", "set")
"""Objectives over WordNet's categories, puzzles and their like."""


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What is typed after `thoughtmix tune`."""

    objective: Annotated[
        str,
        option(
            "styles, modes, lm (needs --corpus), spread or set (need WordNet), or calibrate (seconds, no gradient)."
        ),
    ] = "styles"
    prompts: Annotated[
        Path | None, option("A file of prompts to learn from, JSONL or plain lines.", default="built in")
    ] = None
    limit: Annotated[int | None, option("Take only so many of the prompts.", default="all")] = None
    contexts: Annotated[
        Path | None, option("TOML with the context of each branch.", default="eight that are built in")
    ] = None
    corpus: Annotated[Path | None, option("A UTF-8 text (lm).", default="none")] = None
    samples: Annotated[int, option("Answers of the teacher for each prompt and branch.")] = 2
    own: Annotated[
        float, option("How far each context teaches alone where one answer is asked: 1 alone, 0 all together.")
    ] = 1.0
    temperature: Annotated[float | None, option("Of the answers.", default="1; of set 0.9")] = None
    max_new_tokens: Annotated[
        int | None, option("Most tokens of an answer.", default="32; of set 10, and 24 for open prompts")
    ] = None
    wordnet: Annotated[Path, option("The folder of WordNet's data.noun (set).")] = Path("/usr/share/wordnet")
    thoughts: Annotated[int | None, option("Thoughts of a set (set).", default="one a branch", group=_HOW)] = None
    kl: Annotated[float, option("Weight of the KL from the base model (set).", group=_HOW)] = 0.1
    posterior: Annotated[
        float, option("Credit of a right answer that its branch alone would give (set).", group=_HOW)
    ] = 0.0
    assignment: Annotated[
        str, option("Which branch is taught which answer: turns, liked or initial (spread).", group=_HOW)
    ] = "turns"
    contrast: Annotated[float, option("Weight of keeping branches apart; 0: off.", group=_HOW)] = 0.1
    steps: Annotated[int | None, option("Optimizer steps.", default="what --minutes allow")] = None
    minutes: Annotated[float | None, option("Train for about this long.", default="15, or what --steps take")] = None
    batch_size: Annotated[
        int | None, option("Answers of a step; of set, prompts.", default="16; of set 12, of spread 48", group=_HOW)
    ] = None
    learning_rate: Annotated[
        float | None, option("The peak.", default="3e-3; of set 8e-4, of spread 1e-3", group=_HOW)
    ] = None
    evaluate_every: Annotated[int, option("Steps between evaluations and checkpoints.", group=_HOW)] = 100
    reach: Annotated[float, option("How far calibrated branches go at creativity 1.", group=_HOW)] = 1.0
    seed: Annotated[int, option("Of lessons, batches and draws.")] = 0
    resume: Annotated[bool, option("Go on from the last checkpoint.", "--resume")] = False

    def tuning(self) -> TuningConfig:
        """What is taught. Raises `InputError`."""
        from thoughtmix.graft.tuning.distillation import DistillationConfig
        from thoughtmix.graft.tuning.tune import OBJECTIVES, TuningConfig

        known = [*OBJECTIVES, *_PRACTISED, "calibrate"]
        if self.objective not in known:
            raise InputError(f"Unknown objective {self.objective!r}.", f"Pass one of {', '.join(known)}.")
        objective = self.objective if self.objective in OBJECTIVES else "styles"
        temperature = 1.0 if self.temperature is None else self.temperature
        longest = 32 if self.max_new_tokens is None else self.max_new_tokens
        distillation = DistillationConfig(self.samples, self.own, temperature, max_new_tokens=longest)
        return TuningConfig(objective, self.contrast, distillation, self.corpus)

    def sets(self) -> SetConfig:
        """How sets are drawn. Raises `InputError`."""
        from thoughtmix.graft.tuning.set_task import SetConfig

        given: dict[str, Any] = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        given = {name: value for name, value in given.items() if value is not None}
        return SetConfig(kl=self.kl, thoughts=self.thoughts, posterior=self.posterior, **given)

    def training(self) -> TrainConfig:
        """How it is trained. Raises `InputError`."""
        from thoughtmix.training.config import TrainConfig

        rows, rate, warmup = {"set": (12, 8e-4, 10), "spread": (48, 1e-3, 10)}.get(self.objective, (16, 3e-3, 20))
        return TrainConfig(
            steps=self.steps,
            minutes=15.0 if self.steps is None and self.minutes is None else self.minutes,
            batch_size=rows if self.batch_size is None else self.batch_size,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            warmup=warmup,
            weight_decay=0.0,
            evaluate_every=self.evaluate_every,
            save_every=self.evaluate_every,
            precision="no",
            seed=self.seed,
        )


@app.command()
@with_options
def tune(
    folder: Annotated[Path, typer.Argument(help="A graft: the folder that `thoughtmix graft` wrote.")],
    own: TuneOptions,
    device: DeviceOptions,
    report: Reporter,
) -> int:
    """Teach the thoughts of a graft; the base model stays as it is."""
    report.start("torch", "transformers", "peft")
    from thoughtmix.graft.tuning.calibrate import calibrate
    from thoughtmix.graft.tuning.prompts import built_in_contexts, built_in_prompts, read_contexts, read_prompts
    from thoughtmix.models import load_model
    from thoughtmix.models.hardware import bf16_hardware

    tuning = own.tuning()
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} is no graft.", f"Type: thoughtmix graft SmolLM2-135M-Instruct --out {folder}")
    prompts = read_prompts(own.prompts) if own.prompts else built_in_prompts(own.seed)
    prompts = prompts[: own.limit or len(prompts)]
    contexts = read_contexts(own.contexts) if own.contexts else built_in_contexts()
    config = own.training()
    # The base only reads; the branches learn in float32.
    dtype = "bfloat16" if device.dtype == "auto" and bf16_hardware() else device.dtype
    world = _world(own) if own.objective in _PRACTISED else None
    with report.work("Loading the graft"):
        lm = load_model(str(folder), dtype=dtype, device=device.device, on_progress=report.step)
    if world is not None:
        return _practise(lm, folder, world, own, config, report)
    if own.objective != "calibrate":
        return _train(lm, folder, prompts, contexts, tuning, config, own.resume, report)
    with report.work("Reading answers under each context"):
        moved = calibrate(lm, folder, prompts, contexts, own.reach)
    report.note(f"Wrote {folder}")
    print(f"{len(contexts)} branches set from {moved} answers each. Now type: {_think(folder)}")
    return 0


def _train(
    lm: LanguageModel,
    folder: Path,
    prompts: list[str],
    contexts: list[PromptContext],
    tuning: TuningConfig,
    config: TrainConfig,
    resume: bool,
    report: Reporter,
) -> int:
    from thoughtmix.graft.tuning.tune import tune

    try:
        with report.work("Writing answers to learn from") as say:

            def report_samples(done: int, total: int) -> None:
                say(f"Writing answers to learn from: {done} of {total} prompts")

            on_step = training_words(report, say)
            how: dict[str, Any] = {"resume": resume, "on_sample": report_samples, "on_step": on_step}
            done = tune(lm, folder, prompts, contexts, tuning, config, **how)
    except KeyboardInterrupt:  # training returns; what comes before it is kept prompt by prompt
        report.warn("Stopped; lessons are kept. Type the same again to go on.")
        return 130
    if done.interrupted:
        report.warn(stopped(done))
        return 130
    recovered = done.best["val_recovered"]
    print(f"{tuning.objective}: {done.steps} steps in {done.seconds:.0f} s; on prompts not learned from: ", end="")
    print(f"{done.best['val_loss']:.4f} nats a token, branch recovered from its answer {recovered:.0%} (chance 25%)")
    report.note(f"Wrote {folder}")
    print(f"Now type: {_think(folder)}")
    return 0


def _world(own: TuneOptions) -> World:
    """What is practised on. Raises `InputError`, before a model is loaded for it."""
    from thoughtmix.practice.wordnet import WordNet
    from thoughtmix.practice.world import build_world

    own.sets()
    return build_world(WordNet.read(own.wordnet))


def _practise(
    lm: LanguageModel, folder: Path, world: World, own: TuneOptions, config: TrainConfig, report: Reporter
) -> int:
    from thoughtmix.graft.tuning.practise import tune_sets, tune_spread
    from thoughtmix.models.embed import load_embedder

    try:
        with report.work("Asking what it knows") as say:

            def report_asked(done: int, total: int) -> None:
                say(f"Asking what it knows: {done} of {total} prompts")

            how: dict[str, Any] = {
                "resume": own.resume,
                "on_step": training_words(report, say),
                "on_asked": report_asked,
            }
            what = (lm, folder, world.practice, world.validation, own.sets(), config)
            if own.objective == "spread":
                done = tune_spread(*what, assignment=own.assignment, **how)  # type: ignore[arg-type]  # checked there
            else:
                done = tune_sets(*what, embedder=load_embedder(on_progress=report.step), **how)
    except KeyboardInterrupt:  # training returns; what comes before it is kept prompt by prompt
        report.warn("Stopped; answers are kept. Type the same again to go on.")
        return 130
    if done.interrupted:
        report.warn(stopped(done))
        return 130
    last = next(entry for entry in reversed(done.log) if "val_loss" in entry)
    print(f"{own.objective}: {done.steps} steps in {done.seconds:.0f} s; on prompts not learned from: ", end="")
    if own.objective == "set":
        print(f"{last['val_valid']:.3f} valid, {last['val_distinct']:.3f} distinct valid of a set")
    else:
        print(f"{last['val_loss']:.4f} nats a token")
    report.note(f"Wrote {folder}")
    print(f"Now type: {_think(folder)}")
    return 0


def _think(folder: Path) -> str:
    return f"thoughtmix think --model {folder} --thinker mixture 'Name a fruit.'"
