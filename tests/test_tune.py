"""Teaching a graft: samples, objectives, resuming, calibration, and the folder they leave."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import fresh, tokenizer
from torch import Tensor

from thoughtmix.bench.tasks import coverage_tasks, family
from thoughtmix.cli import main
from thoughtmix.core.errors import InputError, ThoughtmixError
from thoughtmix.engine import SamplingParams, SequenceRequest
from thoughtmix.graft import MoTConfig, routed
from thoughtmix.graft.tuning.distillation import (
    DistillationConfig,
    DistillationSample,
    corpus_samples,
    make_samples,
)
from thoughtmix.graft.tuning.objectives import (
    CorpusObjective,
    ModesObjective,
    Student,
    StylesObjective,
    answer_logprobs,
    balanced,
    collate,
    divergence,
    recoverable,
)
from thoughtmix.graft.tuning.product_of_experts import decode_product_of_experts
from thoughtmix.graft.tuning.prompts import (
    PromptContext,
    built_in_contexts,
    built_in_prompts,
    open_prompts,
    read_contexts,
    train_validation_split,
)
from thoughtmix.graft.tuning.tune import TuningConfig, tune
from thoughtmix.models import LanguageModel, load_model, wrap_model
from thoughtmix.training.config import TrainConfig

K = 4
CONTEXTS = [PromptContext(f"c{k}", ((f"w{10 + k}", f"w{20 + 3 * k} w{21 + 3 * k}"),)) for k in range(K)]
PROMPTS = [f"w{i} w{i + 1}" for i in range(30, 42)]


def words() -> Any:
    made = copy.deepcopy(tokenizer())
    made.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    return made


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    fresh("llama").save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    assert main(["graft", str(base_folder), "--out", str(tmp_path / "graft"), "--branches", str(K), "--rank", "2"]) == 0
    return tmp_path / "graft"


def grafted(seed: int = 0, **settings: Any) -> LanguageModel:
    model = get_peft_model(fresh("llama"), MoTConfig(task_type="CAUSAL_LM", num_branches=K, r=2, tail=2, **settings))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "mot_B" in name:
                p.copy_(torch.randn(p.shape, generator=random) * 0.3)
    return wrap_model(model.get_base_model(), words())


def samples(lm: LanguageModel, **how: Any) -> list[DistillationSample]:
    return make_samples(lm, PROMPTS[:5], CONTEXTS, DistillationConfig(max_new_tokens=5, top=6, **how))


def test_prompts_are_not_the_benchs() -> None:
    asked = {item.prompt.lower() for name in ("coverage", "puzzles") for item in family(name)}
    asked |= {way.lower() for item in coverage_tasks() for way in item.paraphrases}
    own = built_in_prompts()
    assert len(own) == len(set(own)) > 300
    assert not asked & {p.lower() for p in own}
    assert not asked & {q.lower() for c in built_in_contexts() for q, _ in (*c.examples, *c.open)}
    learned, held = train_validation_split(own)
    assert not set(learned) & set(held) and sorted(learned + held) == sorted(own)


def test_samples_are_the_base_models_own_under_the_context() -> None:
    """Whatever branches are there, and whoever asks again: and the noted distribution is the base model's."""
    made, again = samples(grafted(0), temperature=0.5), samples(grafted(1), temperature=0.5)
    assert made == again
    assert {sample.branch for sample in made} == set(range(K))
    lm = wrap_model(fresh("llama"), words())
    for sample in made[:6]:
        asked = lm.encode(CONTEXTS[sample.branch].messages(sample.prompt))
        with torch.no_grad():
            logits = lm.model(torch.tensor([[*asked, *sample.ids]])).logits[0, len(asked) - 1 : -1]
        best = logits.log_softmax(-1).topk(6)
        assert [ids for ids, _ in sample.top] == [tuple(row) for row in best.indices.tolist()]
        assert torch.allclose(torch.tensor([v for _, v in sample.top]), best.values, atol=2e-2)  # packed weights


@pytest.mark.parametrize("own", [0.0, 0.5])
def test_contexts_teach_together(own: float) -> None:
    """What is noted is the mean of the contexts' log-probabilities, moved towards the own one; rows end apart."""
    lm = wrap_model(fresh("llama"), words())
    made = make_samples(lm, PROMPTS[:2], CONTEXTS, DistillationConfig(own=own, max_new_tokens=6, top=5))
    assert len(made) == 2 * 2 * K and {sample.branch for sample in made} == set(range(K))
    for sample in made:
        asked = [lm.encode(c.messages(sample.prompt)) for c in CONTEXTS]
        with torch.no_grad():
            each = torch.stack(
                [lm.model(torch.tensor([[*a, *sample.ids]])).logits[0, len(a) - 1 : -1].log_softmax(-1) for a in asked]
            )
        mean = each.mean(0)
        best = (mean + own * (each[sample.branch] - mean)).log_softmax(-1).topk(5)
        assert torch.allclose(torch.tensor([v for _, v in sample.top]), best.values, atol=2e-2)  # packed weights


def test_open_prompts_are_taught_by_each_context_alone() -> None:
    lm = wrap_model(fresh("llama"), words())
    how = DistillationConfig(own=0.0, max_new_tokens=4, top=3)
    alone = DistillationConfig(max_new_tokens=4, top=3)
    assert make_samples(lm, PROMPTS[:1], CONTEXTS, how, open=PROMPTS) == make_samples(lm, PROMPTS[:1], CONTEXTS, alone)
    assert make_samples(lm, PROMPTS[:1], CONTEXTS, how) != make_samples(lm, PROMPTS[:1], CONTEXTS, alone)


def test_an_answer_of_all_contexts_is_its_seeds_own() -> None:
    """Alone, or beside others that end before it."""
    lm = wrap_model(fresh("llama"), words())
    asked = [tuple(lm.encode(c.messages("w30 w31"))) for c in CONTEXTS]
    warm = SamplingParams(temperature=1.5)
    rows = [SequenceRequest(asked[s % K], s, warm, 12) for s in range(9)]
    together = decode_product_of_experts(lm, asked, rows, 0.5, 3)
    assert len({len(r.token_ids) for r in together.outputs}) > 1  # some end early
    for row, found in zip(rows, together.outputs, strict=True):
        assert decode_product_of_experts(lm, asked, [row], 0.5, 3).outputs[0].token_ids == found.token_ids


def test_open_prompts_come_after_their_own_examples() -> None:
    context = PromptContext("c", (("w1", "w2"),), open=(("w3", "w4 w5"),))
    assert context.messages("w6", True)[0]["content"] == "w3" and context.messages("w6")[0]["content"] == "w1"
    assert PromptContext("c", (("w1", "w2"),)).messages("w6", True)[0]["content"] == "w1"
    asked, own = open_prompts(), built_in_prompts()
    assert 0.4 < sum(p in asked for p in own) / len(own) < 0.6
    assert all(c.open for c in built_in_contexts())


def test_samples_are_kept_and_a_torn_line_costs_one_prompt(tmp_path: Path) -> None:
    lm, seen = grafted(), []
    how = DistillationConfig(max_new_tokens=4, top=3)
    first = make_samples(lm, PROMPTS[:3], CONTEXTS, how, tmp_path)
    kept = next(tmp_path.glob("lessons-*.jsonl"))
    kept.write_text(kept.read_text()[:-30])
    assert (
        make_samples(lm, PROMPTS[:3], CONTEXTS, how, tmp_path, lambda done, total: seen.append((done, total))) == first
    )
    assert seen[-1] == (3, 3)


@pytest.mark.parametrize("tail", [0, 2, 50])
def test_a_student_read_in_two_parts_is_the_plain_forward(tail: int) -> None:
    """Prompts of different lengths, read once by the base model, are what one padded forward of each answer alone says."""
    lm = grafted(noise="none")
    made = [
        *samples(lm)[:3],
        *make_samples(lm, ["w3 w4 w5 w6 w7"], CONTEXTS, DistillationConfig(max_new_tokens=3, top=4))[:2],
    ]
    batch = collate(made, tail)
    got = Student(lm.model, batch, K)(batch["branch"])
    for i, sample in enumerate(made):
        ids = torch.tensor([[*sample.prompt_ids, *sample.ids]])
        own = max(0, len(sample.prompt_ids) - tail)
        weight = torch.nn.functional.one_hot(torch.tensor([sample.branch]), K).float()
        with routed(lm.model, weight, prompt_lengths=[own]), torch.no_grad():
            want = lm.model(ids).logits[0, len(sample.prompt_ids) - 1 : -1].log_softmax(-1)
        assert torch.allclose(got[i, : len(sample.ids)], want, atol=2e-5)
        total = want.gather(1, torch.tensor(sample.ids)[:, None]).sum()
        assert float(answer_logprobs(got, batch)[i]) == pytest.approx(float(total), abs=1e-3)


def test_divergence_is_zero_for_the_teacher_and_the_kl_for_others() -> None:
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    teacher, student = logits.log_softmax(-1), (logits * 0.3).log_softmax(-1)
    top = teacher.topk(9)
    batch = {"top": top.values, "top_ids": top.indices, "counted": torch.ones(2, 3, dtype=torch.bool)}
    assert float(divergence(teacher, batch)) == pytest.approx(0, abs=1e-9)
    exact = (teacher.exp() * (teacher - student)).sum(-1).mean()
    assert float(divergence(student, batch)) == pytest.approx(float(exact), abs=1e-3)
    fewer = {**batch, "top": top.values[..., :4], "top_ids": top.indices[..., :4]}
    assert 0 < float(divergence(student, fewer)) <= float(exact) + 1e-9  # merging the rest cannot add


def test_recoverable_falls_as_the_own_branch_wins() -> None:
    own = torch.tensor([0.0, -1.0])
    values = [float(recoverable(own, own - gap)) for gap in (-2.0, 0.0, 2.0)]
    assert values[0] > values[1] > values[2] and values[1] == pytest.approx(0.6931, abs=1e-3)


def test_balanced_gives_everyone_as_much_and_the_best_where_there_is_room() -> None:
    liked = torch.randn(12, K, generator=torch.Generator().manual_seed(3))
    chosen = balanced(liked)
    assert chosen.bincount(minlength=K).tolist() == [3] * K
    clear = torch.eye(K).repeat(2, 1) * 5
    assert balanced(clear).tolist() == [0, 1, 2, 3] * 2
    everyone_wants_0 = torch.zeros(8, K)
    everyone_wants_0[:, 0] = torch.arange(8.0)
    assert balanced(everyone_wants_0).bincount(minlength=K).tolist() == [2] * K


@pytest.mark.parametrize(
    "objective", [StylesObjective(K, 0.2), ModesObjective(K, 0.2), CorpusObjective(K)], ids=["styles", "modes", "lm"]
)
def test_every_objective_reaches_branches_and_nothing_else(objective: Any) -> None:
    lm = grafted()
    for name, p in lm.model.named_parameters():
        p.requires_grad_("mot_" in name)
    batch = collate(samples(lm)[:8], 2)
    loss, logs = objective(lm.model, batch, torch.arange(8))
    loss.backward()
    assert bool(torch.isfinite(loss)) and all(bool(torch.isfinite(v)) for v in logs.values())
    for name, p in lm.model.named_parameters():
        moved = p.grad is not None and float(p.grad.abs().sum()) > 0
        assert moved == ("mot_A" in name or "mot_B" in name) or (
            "mot_prior" in name and isinstance(objective, CorpusObjective)
        )


def losses(folder: Path) -> list[float]:
    state = torch.load(folder / "training" / "state.pt", weights_only=True)
    return [entry["loss"] for entry in state["log"]]


def test_styles_learn_and_a_resumed_run_is_the_same(folder: Path, base_folder: Path, tmp_path: Path) -> None:
    import shutil

    how = TuningConfig("styles", 0.1, DistillationConfig(samples=2, max_new_tokens=4))

    def run(where: Path, steps: int, resume: bool = False, stop: int = 0) -> Any:
        config = TrainConfig(
            steps=steps,
            batch_size=8,
            learning_rate=0.05,
            warmup=2,
            weight_decay=0.0,
            evaluate_every=10,
            save_every=10,
            precision="no",
        )

        def see(progress: Any) -> None:
            if stop and progress.step == stop:
                raise KeyboardInterrupt

        return tune(load_model(str(where)), where, PROMPTS, CONTEXTS, how, config, resume=resume, on_step=see)

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    done = run(folder, 40)
    learned = [sum(entry["lm_loss"] for entry in part) for part in (done.log[:6], done.log[-6:])]
    assert learned[1] < 0.85 * learned[0]  # random weights: what a context does to them can only be learned by heart
    assert run(other, 40, stop=25).interrupted
    run(other, 40, resume=True)
    assert losses(other) == losses(folder)
    ids = torch.tensor([[30, 31, 32]])
    both = [load_model(str(where)).model for where in (folder, other)]
    weights = torch.eye(K)[:1]
    outputs: list[Tensor] = []
    for model in both:
        with routed(model, weights), torch.no_grad():
            outputs.append(model(ids).logits)
    assert torch.equal(*outputs)
    with routed(both[0], weights, creativity=0.0), torch.no_grad():
        assert torch.equal(both[0](ids).logits, load_model(str(base_folder)).model(ids).logits)
    with torch.no_grad():
        assert not torch.equal(outputs[0], load_model(str(base_folder)).model(ids).logits)


def test_calibrated_branches_move_towards_their_context(folder: Path) -> None:
    assert (
        main(
            [
                "tune",
                str(folder),
                "--objective",
                "calibrate",
                "--prompts",
                str(written(folder)),
                "--contexts",
                str(contexts_file(folder)),
            ]
        )
        == 0
    )
    lm = load_model(str(folder))
    layer = next(m for m in lm.model.modules() if hasattr(m, "mot_B"))
    assert bool((layer.mot_B["default"][:, 0].abs().sum(-1) > 0).all())
    assert float(layer.mot_B["default"][:, 1:].abs().sum()) == 0


def written(folder: Path) -> Path:
    path = folder.parent / "prompts.txt"
    path.write_text("\n".join([*PROMPTS, json.dumps({"prompt": "w60 w61"})]))
    return path


def contexts_file(folder: Path) -> Path:
    path = folder.parent / "contexts.toml"
    path.write_text(
        "\n".join(
            f'[[context]]\nname = "{c.name}"\nexamples = [["{c.examples[0][0]}", "{c.examples[0][1]}"]]'
            for c in CONTEXTS
        )
    )
    assert read_contexts(path) == CONTEXTS
    return path


def test_corpus_windows(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{3 + i % 150}" for i in range(400)))
    learned, held = corpus_samples(wrap_model(fresh("llama"), words()), text, 8)
    assert len(held) == -(-(len(learned) + len(held)) // 10)
    assert learned[1].prompt_ids == learned[0].ids and len(learned[0].ids) == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tune", "nowhere"], "nowhere is no graft"),
        (["tune", "{folder}", "--objective", "magic"], "Unknown objective 'magic'"),
        (["tune", "{folder}", "--objective", "lm"], "--objective lm --corpus FILE"),
        (["tune", "{folder}", "--prompts", "nowhere.txt"], "Cannot read the prompts"),
        (["tune", "{folder}", "--contexts", "nowhere.toml"], "Cannot read nowhere.toml"),
        (["tune", "{folder}", "--steps", "2"], "8 contexts for 4 branches"),
        (["tune", "{folder}", "--samples", "0"], "--samples 1"),
    ],
)
def test_law_8_one_line(arguments: list[str], says: str, folder: Path, capsys: Any) -> None:
    capsys.readouterr()
    assert main([a.format(folder=folder) for a in arguments]) in {1, 2}
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[-1], said


def test_contexts_need_a_chat_template() -> None:
    with pytest.raises(InputError, match="no chat template"):
        make_samples(wrap_model(fresh("llama"), tokenizer()), PROMPTS, CONTEXTS, DistillationConfig())


def test_a_full_disk_is_one_line_and_leaves_nothing(
    folder: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """While a graft is saved, and while its trained weights are: both by writers whose errors are no OSError."""
    from thoughtmix.graft import export

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    def files() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.parent.rglob("*") if p.is_file() and "training" not in p.parts}

    monkeypatch.setattr(export, "save_file", full)
    monkeypatch.setattr(export.PeftModel, "save_pretrained", full)
    before = files()
    capsys.readouterr()
    assert main(["graft", str(base_folder), "--out", str(folder.parent / "new"), "--branches", "4", "--rank", "2"]) == 1
    with pytest.raises(ThoughtmixError) as found:
        export.save_weights(load_model(str(folder)), folder)
    for said in (capsys.readouterr().err.splitlines()[-1], str(found.value)):
        assert "no space left. Free some space, then type the same again." in said
    assert files() == before and not list(folder.parent.glob("**/.*"))
