"""Models with an encoder: T5, BART and their kin, Switch Transformers, NLLB-MoE. The laws, beside transformers' own
`generate`, and the ways in: the command line, the pipeline, the server, expert control and grafts."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from graftland import stirred
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from serving import running
from tiny import VOCABULARY, tokenizer
from tinyland import HashEmbedder
from transformers import AutoModelForSeq2SeqLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from thoughtmix import Pipeline, cli
from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.engine.engine import SequenceRequest
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.sampling_params import SamplingParams
from thoughtmix.experts import ExpertController, analyze_expert_specialization, generate_thought_branches
from thoughtmix.experts.profile import Profile
from thoughtmix.experts.row_state import ExpertRowState
from thoughtmix.graft import MoTConfig, MoTLayer, thoughts
from thoughtmix.graft.adapter import graft_of
from thoughtmix.metrics.judge import ids_nll
from thoughtmix.models import load_model, wrap_model
from thoughtmix.models.encoder_decoder import TokenRules, answer_logits

pytestmark = pytest.mark.usefixtures("global_state_untouched")
_IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
_T5 = {**_IDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
_SPARSE = {
    "num_decoder_layers": 2,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
    "num_experts": 4,
    "expert_capacity": 64,
}
_BART = {
    **_IDS,
    "decoder_start_token_id": 2, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64, "dropout": 0.0,
    "forced_eos_token_id": None,
}  # fmt: skip
_NLLB = {**_BART, "num_experts": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2, "moe_token_dropout": 0.2}
_GEMMA = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 16, "dropout_rate": 0.0,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "t5": _T5,
    "mt5": {**_T5, "tie_word_embeddings": False},
    "switch_transformers": {**_T5, **_SPARSE},
    "nllb-moe": _NLLB,
    "m2m_100": _BART,
    "bart": _BART,
    "marian": _BART,
    "pegasus": _BART,
    "t5gemma": {"encoder": _GEMMA, "decoder": _GEMMA, "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1,
                "eos_token_id": 2},
}  # fmt: skip
every = pytest.mark.parametrize("family", FAMILIES)
PROMPTS = ((3, 17, 40, 5, 77, 23, 2), (9, 11, 2), (3, 17, 40, 5, 77, 23, 2), (30, 31, 32, 33, 2))
GREEDY = SamplingParams(temperature=0.0)
_PAD = frozenset({0})  # M2M counts its positions by what is no padding, with a cache otherwise than without


@functools.cache
def _built(family: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto: Any = AutoModelForSeq2SeqLM
        model = auto.from_config(CONFIG_MAPPING[family](**FAMILIES[family]))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.3)
    return model.eval().requires_grad_(False)


def base(family: str) -> Any:
    return copy.deepcopy(_built(family))


def wrapped(family: str, model: Any = None) -> Any:
    return wrap_model(_built(family) if model is None else model, tokenizer(), name=f"tiny-{family}")


def saved(family: str, folder: Path) -> str:
    _built(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def of_generate(model: Any, prompt: tuple[int, ...], tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, num_beams=1
    )
    return list(out[0, 1:].tolist())


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thoughts are measured without the packaged embedder."""
    import thoughtmix.models

    monkeypatch.setattr(thoughtmix.models, "load_embedder", lambda name=None, **how: HashEmbedder(), raising=False)


# --- decoding ---


@every
def test_greedy_is_what_generate_writes(family: str) -> None:
    """Law 6: prompts of several lengths in one call, some rows ending sooner, each as alone."""
    lm = wrapped(family)
    asked = [SequenceRequest(p, 0, GREEDY, max_new_tokens=n) for p, n in zip(PROMPTS, (6, 3, 5, 8), strict=True)]
    done = LocalEngine(lm).generate(asked)
    for request, output in zip(asked, done.outputs, strict=True):
        assert output.token_ids == of_generate(lm.model, request.prompt, request.max_new_tokens)  # type: ignore[arg-type]


@every
def test_logprobs_are_those_of_a_whole_forward(family: str) -> None:
    """Law 4, float32; and a judge reads the same text with the same figures."""
    lm = wrapped(family)
    asked = [SequenceRequest(PROMPTS[i], i, max_new_tokens=7, end_ids=_PAD) for i in (0, 1, 3)]
    for request, output in zip(asked, LocalEngine(lm).generate(asked, top_logprobs=2).outputs, strict=True):
        with torch.no_grad():
            logits = answer_logits(lm.model, request.prompt, torch.tensor([output.token_ids]))[0]  # type: ignore[arg-type]
        want = logits.log_softmax(-1).gather(1, torch.tensor(output.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(output.logprobs).float(), want, atol=2e-4, rtol=2e-4)
        assert [ids[0] for ids, _ in output.top] == logits.argmax(-1).tolist()
        words = " ".join(f"w{i}" for i in output.token_ids if i > 2)
        if all(i > 2 for i in output.token_ids):
            assert abs(ids_nll(request.prompt, [words, words + " w9"], lm)[0] + float(want.mean())) < 1e-4  # type: ignore[arg-type]


@every
def test_a_sequence_depends_on_its_own_seed_alone(family: str) -> None:
    """Law 5: alone, among others, in another order, and read by each row for itself."""
    engine = LocalEngine(wrapped(family))
    asked = [SequenceRequest(PROMPTS[i % 4], i, max_new_tokens=4 + i % 3) for i in range(8)]
    together = [o.token_ids for o in engine.generate(asked).outputs]
    assert together == [engine.generate([one]).outputs[0].token_ids for one in asked]
    assert together[::-1] == [o.token_ids for o in engine.generate(asked[::-1]).outputs]
    assert together == [o.token_ids for o in engine.generate(asked, read="each").outputs]
    assert len({tuple(ids) for ids in together}) > 5


def test_the_prompt_is_encoded_once_for_all_thoughts() -> None:
    model = base("t5")
    seen: list[int] = []
    LocalEngine(wrapped("t5", model)).generate([SequenceRequest(PROMPTS[0], 0, max_new_tokens=2)])  # probed now
    model.get_encoder().register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    asked = [SequenceRequest(PROMPTS[i], s, max_new_tokens=5) for i in (0, 1) for s in range(4)]
    assert LocalEngine(wrapped("t5", model)).generate(asked).path == "expanded"
    assert seen == [1, 1]


@pytest.mark.parametrize("forced", [None, 77])
def test_the_generation_config_rules_single_tokens(forced: int | None) -> None:
    """NLLB's language, Marian's bad words, suppressed tokens: as `generate`."""
    model = base("m2m_100")
    config = model.generation_config
    config.forced_bos_token_id = forced
    free = of_generate(model, PROMPTS[0], 6)
    config.suppress_tokens, config.bad_words_ids = [free[-1]], [[free[-2]], [5, 6]]
    config.begin_suppress_tokens = [free[1 if forced else 0]]
    want = of_generate(model, PROMPTS[0], 6)
    done = LocalEngine(wrapped("m2m_100", model)).generate([SequenceRequest(PROMPTS[0], 0, GREEDY, 6)])
    assert done.outputs[0].token_ids == want != free
    if forced:
        assert want[0] == forced and done.outputs[0].logprobs[0] == 0.0
    many = LocalEngine(wrapped("m2m_100", model)).generate(
        [SequenceRequest(PROMPTS[0], s, max_new_tokens=9) for s in range(20)]
    )
    assert not {free[-1], free[-2]} & {t for o in many.outputs for t in o.token_ids}
    assert TokenRules.of(model).never == (free[-1], free[-2])


def test_what_cannot_be_had_is_one_line(embedded: None) -> None:
    lm = wrapped("t5")
    with pytest.raises(InputError, match=r"search needs kept prefixes.*Choose a decoder-only model"):
        Pipeline(lm)("w3 w4", n=2, thinker="search", max_new_tokens=4)
    with pytest.raises(InputError, match="decodes by its own forward and cache alone"):
        LocalEngine(lm, path="fused").generate([SequenceRequest(PROMPTS[0], 0, max_new_tokens=4)])
    with pytest.raises(InputError, match=r"has 7 tokens and is to have 70 new ones; the model reads 64 and writes 63"):
        LocalEngine(wrapped("bart")).generate([SequenceRequest(PROMPTS[0], 0, max_new_tokens=70)])
    model = base("nllb-moe")
    for module in model.modules():
        if hasattr(module, "moe_eval_capacity_token_fraction"):
            module.moe_eval_capacity_token_fraction = 0.5
    with pytest.raises(ModelError, match=r"drops tokens by what else is in the batch"):
        LocalEngine(wrapped("nllb-moe", model)).generate([SequenceRequest(PROMPTS[0], 0, max_new_tokens=4)])
    model = base("t5")
    model.config.decoder_start_token_id = model.config.bos_token_id = None
    model.generation_config.decoder_start_token_id = model.generation_config.bos_token_id = None
    with pytest.raises(ModelError, match=r"names no token that its answers begin with.*decoder_start_token_id"):
        LocalEngine(wrapped("t5", model)).generate([SequenceRequest(PROMPTS[0], 0, max_new_tokens=4)])


# --- the ways in ---


@pytest.mark.parametrize("family", ["t5", "switch_transformers", "nllb-moe"])
def test_think_on_the_command_line(family: str, tmp_path: Path, embedded: None, capsys: Any) -> None:
    folder = saved(family, tmp_path / "model")
    typed = ["think", "w5 w6 w7", "--model", folder, "-n", "3", "--max-new-tokens", "5", "--json"]
    assert cli.main(typed) == 0
    lm = load_model(folder)
    assert lm.encoder_decoder and not lm.is_default
    found = json.loads(capsys.readouterr().out)["thoughts"]
    alone = Pipeline(lm)("w5 w6 w7", n=1, seed=2, max_new_tokens=5)
    assert [tuple(t["token_ids"]) for t in found][2] == tuple(alone[0].token_ids)


def test_pipeline_streams_and_stops(embedded: None) -> None:
    steps: list[Any] = []
    thoughts = Pipeline(wrapped("bart"))(
        "w5 w6 w7", n=4, max_new_tokens=6, temperature=0.0, stop=["w"], on_step=steps.append
    )
    assert steps and all("w" not in t.text for t in thoughts)


def test_the_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.language_model", wrapped)
    with running("t5") as server:
        body = {"model": "tiny-t5", "prompt": "w5 w6", "n": 2, "max_tokens": 4, "seed": 3, "logprobs": 1}
        said = httpx.post(f"{server.url}/v1/completions", json=body, timeout=30)
        assert said.status_code == 200, said.text
        assert len(said.json()["choices"]) == 2


def test_sentinels_are_tokens() -> None:
    """As the tokenizer has them; a decoder-only model reads the names of control tokens as text."""
    made = copy.deepcopy(tokenizer())
    made.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]}, replace_extra_special_tokens=False)
    lm = wrap_model(_built("t5"), made)
    sentinel = made.convert_tokens_to_ids("<extra_id_0>")
    assert lm.encode("w5 <extra_id_0> w6") == [5, sentinel, 6]
    assert lm.decode([5, sentinel, 6]) == made.decode([5, sentinel, 6], skip_special_tokens=True) == "w5 w6"


# --- experts ---


@pytest.mark.parametrize("family", ["switch_transformers", "nllb-moe"])
@pytest.mark.parametrize("read", ["shared", "each"])
def test_forced_experts_of_encoder_and_decoder(family: str, read: Any) -> None:
    """Each row by its own profile, beside whole forwards under that profile alone: read=shared leaves the encoder to
    the model's own routing."""
    model = _built(family)
    lm = wrapped(family)
    profiles = [Profile("own"), *(Profile(str(e), force={0: {e: 1.0}, 1: {e: 1.0}}) for e in (1, 3))]
    ids = torch.tensor([PROMPTS[0]])
    with ExpertController(model, scoped=True) as controller:
        assert [("encoder" in layer.name, "decoder" in layer.name) for layer in controller.layers] == [(1, 0), (0, 1)]
        controller.set(profiles)
        state = ExpertRowState(controller, 3)
        asked = [SequenceRequest(PROMPTS[0], 0, GREEDY, 5, end_ids=_PAD)] * 3
        done = LocalEngine(lm).generate(asked, row_state=state, read=read)
        for row, output in enumerate(done.outputs):
            answer = torch.tensor([output.token_ids])
            start = torch.tensor([[model.config.decoder_start_token_id]])
            given = {"decoder_input_ids": torch.cat([start, answer[:, :-1]], 1), "attention_mask": torch.ones_like(ids)}
            with torch.no_grad():
                with controller.using([row] if read == "each" else None):
                    encoded = model.get_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids))
                with controller.using([row]):
                    logits = model(encoder_outputs=encoded, **given, use_cache=False).logits[0]
            assert logits.argmax(-1).tolist() == output.token_ids
            want = logits.log_softmax(-1).max(-1).values
            torch.testing.assert_close(torch.tensor(output.logprobs).float(), want, atol=2e-4, rtol=2e-4)
    assert len({tuple(o.logprobs) for o in done.outputs}) == 3


def test_experts_think_and_map_of_switch(tmp_path: Path, embedded: None, capsys: Any) -> None:
    folder = saved("switch_transformers", tmp_path / "model")
    typed = ["experts", "think", folder, "w5 w6 w7", "-n", "3", "--max-new-tokens", "5", "--json"]
    assert cli.main(typed) == 0
    assert {t["origin"]["profile"] for t in json.loads(capsys.readouterr().out)["thoughts"]} == {"noise"}
    texts = {"a": ["w5 w6", "w7 w8 w9", "w6 w5"], "b": ["w90 w91", "w92 w93 w94", "w95"]}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    typed = ["experts", "map", folder, "--texts", str(tmp_path / "texts.json"), "--permutations", "19", "--json"]
    assert cli.main(typed) == 0
    assert [name.split(".")[0] for name in json.loads(capsys.readouterr().out)["layers"]] == ["encoder", "decoder"]


def test_experts_of_nllb() -> None:
    """Forcing and reading work; what its class makes impossible is said in one line."""
    lm = wrapped("nllb-moe")
    texts = {"a": ["w5 w6", "w7 w8 w9", "w6 w5"], "b": ["w90 w91", "w92 w93 w94", "w95"]}
    found = analyze_expert_specialization(lm, texts, permutations=19)
    assert len(found.layers) == 2 and found.load.sum() == pytest.approx(4.0, abs=0.1)
    made = generate_thought_branches(lm, "w5 w6", "router,all", max_new_tokens=4)
    assert [t.origin["profile"] for t in made] == ["router", "all"]
    with pytest.raises(ModelError, match=r"Bias, noise and exclusion do nothing.*Force experts"):
        generate_thought_branches(lm, "w5 w6", "noise", max_new_tokens=4)


# --- grafts ---


@pytest.mark.parametrize("family", ["t5", "bart", "switch_transformers", "nllb-moe", "t5gemma"])
@pytest.mark.parametrize("read", ["shared", "each"])
def test_grafts_on_the_decoder(family: str, read: Any) -> None:
    """Laws 1, 2 and 4: creativity 0 writes what the base model does, thoughts what whole forwards under their routes
    do, from their first token on; unloading gives the base model back."""
    bare = base(family)
    names = [n for n, _ in bare.named_modules()]
    peft = stirred(
        get_peft_model(bare, MoTConfig(num_branches=4, r=3, noise_scale=0.3, task_type="SEQ_2_SEQ_LM"))
    ).eval()
    assert all("decoder" in n for n, m in peft.named_modules() if isinstance(m, MoTLayer))
    lm = wrapped(family, peft)
    asked = [SequenceRequest(PROMPTS[i], s, GREEDY, 5, end_ids=_PAD) for i, s in ((0, 4), (1, 5), (0, 6))]
    graft = graft_of(lm.model)
    assert graft is not None
    moved = 0
    for creativity in (0.0, 1.5):
        state = graft.row_state([4, 5, 6], [creativity] * 3, torch.device("cpu"))
        done = LocalEngine(lm).generate(asked, row_state=state, read=read)
        plain = LocalEngine(lm).generate(asked)
        for request, output, own in zip(asked, done.outputs, plain.outputs, strict=True):
            with torch.no_grad(), thoughts(peft, creativity, request.seed):
                logits = answer_logits(lm.model, request.prompt, torch.tensor([output.token_ids]))[0]  # type: ignore[arg-type]
            assert logits.argmax(-1).tolist() == output.token_ids
            want = logits.log_softmax(-1).max(-1).values
            torch.testing.assert_close(torch.tensor(output.logprobs).float(), want, atol=1e-3, rtol=1e-3)
            moved += own.logprobs != output.logprobs
            assert creativity or own.token_ids == output.token_ids
    assert moved
    back = peft.unload()
    assert [n for n, _ in back.named_modules()] == names
    ids = torch.tensor([PROMPTS[0]])
    given = {"input_ids": ids, "decoder_input_ids": ids}
    assert torch.equal(back(**given).logits, _built(family)(**given).logits)


def test_a_graft_by_the_command_line(tmp_path: Path, embedded: None, capsys: Any) -> None:
    folder, out = saved("t5", tmp_path / "model"), str(tmp_path / "graft")
    assert cli.main(["graft", folder, "--out", out]) == 0
    lm = load_model(out)
    assert lm.encoder_decoder and len(Pipeline(lm)("w5 w6", n=2, thinker="mixture", max_new_tokens=4)) == 2
    capsys.readouterr()
    assert cli.main(["tune", out, "--steps", "1", "--limit", "4"]) == 2
    assert "has an encoder; tuning reads prompt and answer as one text" in capsys.readouterr().err


def test_adapters(tmp_path: Path) -> None:
    """A LoRA, as PEFT's own `generate` has it; a tuned prompt is refused."""
    folder, out = saved("t5", tmp_path / "model"), tmp_path / "lora"
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q", "v"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peft: Any = get_peft_model(base("t5"), config)
        tuned: Any = get_peft_model(base("t5"), PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3))
    peft.peft_config["default"].base_model_name_or_path = folder
    peft.save_pretrained(out)
    done = LocalEngine(load_model(str(out))).generate([SequenceRequest(PROMPTS[0], 0, GREEDY, 6)])
    assert (
        done.outputs[0].token_ids == of_generate(peft.eval(), PROMPTS[0], 6) != of_generate(base("t5"), PROMPTS[0], 6)
    )
    tuned.peft_config["default"].base_model_name_or_path = folder
    tuned.save_pretrained(tmp_path / "prompt")
    with pytest.raises(ModelError, match="is a tuned prompt, and model has an encoder"):
        load_model(str(tmp_path / "prompt"))
