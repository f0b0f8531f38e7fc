"""The sampler on models of others: Hugging Face masked language models and block diffusion, tiny and random."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.diffusion.denoiser import BlockDenoiser, MaskPredictor
from thoughtmix.diffusion.load import DiffusionModel, load_diffusion, wrap_diffusion
from thoughtmix.diffusion.policies import POLICIES, EntropyBound, make_policy
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost, denoise, denoise_step, predict_logits
from thoughtmix.diffusion.state import DiffusionState

WORDS = {"<pad>": 0, "<cls>": 1, "<sep>": 2, "<mask>": 3, "<unk>": 4, **{f"w{i}": i for i in range(5, 64)}}
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "mask_token_id": 3,
    "type_vocab_size": 1,
}


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("<sep>", 2), ("<cls>", 1))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        mask_token="<mask>",
        pad_token="<pad>",
        cls_token="<cls>",
        sep_token="<sep>",
    )


@functools.cache
def masked_lm(family: str) -> DiffusionModel:
    drop = {"modernbert": {"type_vocab_size"}}.get(family, set())
    config = CONFIG_MAPPING[family](**{k: v for k, v in SIZES.items() if k not in drop})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(config)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1:
                    p.normal_(0.0, 0.3)
    return wrap_diffusion(model.requires_grad_(False), tokenizer(), family)


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_masked_language_models(family: str, name: str) -> None:
    """Framed, filled, nothing special in between, what was given kept, and a row is the same alone."""
    model = masked_lm(family)
    assert model.before == (1,) and model.after == (2,)
    config = DenoisingConfig(make_policy(name))
    out = denoise(model.denoiser, model.prompt_state(["w5 w6", "w7"], [6, 4], seeds=[3, 4]), config)
    for ids, real, prompt in zip(out.ids, out.real, ([5, 6], [7]), strict=True):
        row = ids[real].tolist()
        assert row[: 1 + len(prompt)] == [1, *prompt] and row[-1] == 2
        assert all(i >= 5 for i in row[1:-1])
    alone = denoise(model.denoiser, model.prompt_state("w7", 4, seeds=[4]), config)
    assert alone.ids[0].tolist() == out.ids[1, : alone.ids.shape[1]].tolist()
    assert len(model.texts(out, prompt=False)[0].split()) >= 6


def test_gaps_between_given_words() -> None:
    model = masked_lm("bert")
    state = model.infill_state("w5 <mask:3> w9 <mask:2>", seeds=3)
    out = denoise(model.denoiser, state)
    assert torch.equal(out.ids[state.locked], state.ids[state.locked])
    assert state.masked.sum(1).tolist() == [5, 5, 5]
    with pytest.raises(InputError, match="no gap to fill"):
        model.infill_state("w5 w6")


def test_what_does_not_fit_is_one_line() -> None:
    model = masked_lm("roberta")
    with pytest.raises(InputError, match="reads 63"):
        model.prompt_state("w5", 63)
    plain = tokenizer()
    plain.mask_token = None
    with pytest.raises(ModelError, match="no mask token"):
        wrap_diffusion(model.denoiser.model, plain, "x")  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="There is no model folder"):
        load_diffusion("nowhere")


# --- block diffusion --------------------------------------------------------------------------------------------------


@functools.cache
def gemma(window: int = 64) -> Any:
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, DiffusionGemmaTextConfig
    from transformers.models.gemma4.configuration_gemma4 import Gemma4VisionConfig

    text = DiffusionGemmaTextConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        global_head_dim=16,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=16,
        sliding_window=window,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vision = Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    config = DiffusionGemmaConfig(
        text_config=text, vision_config=vision, canvas_length=12, boi_token_id=57, eoi_token_id=58, image_token_id=59
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffusionGemmaForBlockDiffusion(config).eval().requires_grad_(False)
        for p in model.parameters():
            if p.ndim > 1:
                p.data.normal_(0.0, 0.2)
    return model


@pytest.mark.parametrize("window", [64, 4])
def test_block_diffusion_logits_are_the_models_own(window: int) -> None:
    """At the first step and, told its logits of the one before, at the second; also with a prefix beyond the window."""
    model, prompt = gemma(window), [2, 5, 6, 9, 11, 12, 7]
    denoiser = BlockDenoiser(model, len(prompt))
    state, first = predict_logits(denoiser, DiffusionState.from_prompts([prompt] * 2, 12, [0, 1], 0))
    shown = []
    inner = model.forward

    def spy(**more: Any) -> Any:
        shown.append(more["decoder_input_ids"])
        return inner(**more)

    model.forward = spy
    try:
        state, _ = denoise_step(state, first, DenoisingConfig(EntropyBound(bound=3.0, revise=True), steps=6), denoiser)
        _, second = predict_logits(denoiser, state)
        _, again = predict_logits(denoiser, DiffusionState.from_prompts([prompt] * 2, 12, [0, 1], 0))
    finally:
        del model.forward
    at = slice(len(prompt), None)
    assert torch.equal(again, first)
    told = model(torch.tensor([prompt] * 2), decoder_input_ids=shown[1])
    forbidden = torch.tensor(denoiser.forbidden)
    kept = [i for i in range(60) if i not in denoiser.forbidden]
    assert torch.allclose(first[:, at, kept], told.logits[:, :, kept], atol=1e-5)
    assert bool((first[..., forbidden] == -torch.inf).all())
    told = model(torch.tensor([prompt] * 2), decoder_input_ids=shown[0], self_conditioning_logits=told.logits)
    assert torch.allclose(second[:, at, kept], told.logits[:, :, kept], atol=1e-5)
    assert torch.equal(shown[0][~state.masked[:, at]], state.ids[:, at][~state.masked[:, at]])


def test_block_diffusion_ends_and_a_row_is_the_same_alone() -> None:
    denoiser = BlockDenoiser(gemma(), 3)
    for config in (
        DenoisingConfig(EntropyBound(bound=2.0, revise=True), steps=8),
        DenoisingConfig(make_policy("confidence"), steps=5),
        DenoisingConfig(steps=6),
    ):
        cost = ForwardCost()
        out = denoise(denoiser, DiffusionState.from_prompts([[2, 5, 6], [2, 8, 9]], 12, [7, 8], 0), config, cost=cost)
        assert not bool(out.masked.any()) and not {0, 57, 58, 59} & set(out.ids.flatten().tolist())
        assert out.ids[:, :3].tolist() == [[2, 5, 6], [2, 8, 9]]
        assert cost.row_passes <= 16
        for row, prompt, seed in ((0, [2, 5, 6], 7), (1, [2, 8, 9], 8)):
            assert denoise(denoiser, DiffusionState.from_prompts([prompt], 12, [seed], 0), config).ids.tolist() == [
                out.ids[row].tolist()
            ]


def test_the_entropy_bound_is_transformers_own() -> None:
    """The same positions from the same logits, over many random ones."""
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
        EntropyBoundSampler,
        EntropyBoundSamplerConfig,
    )

    draw = torch.Generator().manual_seed(0)
    denoiser = BlockDenoiser(gemma(), 1)
    for bound in (0.05, 0.7, 3.0):
        logits = 6 * torch.randn(16, 13, 60, generator=draw)
        logits[..., denoiser.forbidden] = -torch.inf
        theirs = EntropyBoundSampler(EntropyBoundSamplerConfig(bound), 12, 60, 8)
        block = torch.zeros(16, 12, dtype=torch.int64)
        theirs.accept_canvas(block, block, logits[:, 1:].clamp(min=-1e4), 8)
        state = DiffusionState.from_prompts([[2]] * 16, 12, range(16), 0)
        state, record = denoise_step(
            state, logits, DenoisingConfig(EntropyBound(bound=bound, revise=True), steps=8), denoiser
        )
        assert torch.equal(record.kept[:, 1:], theirs.accepted_token_mask)
        # and again from the half-filled state: all are judged anew
        logits = logits.flip(0)
        theirs.accept_canvas(block, block, logits[:, 1:].clamp(min=-1e4), 7)
        state, record = denoise_step(
            state, logits, DenoisingConfig(EntropyBound(bound=bound, revise=True), steps=8), denoiser
        )
        busy = ~record.before.masked.any(1)
        assert torch.equal(~state.masked[~busy, 1:], theirs.accepted_token_mask[~busy])


def test_block_diffusion_refuses_what_it_cannot() -> None:
    with pytest.raises(InputError, match="prefix of one token"):
        BlockDenoiser(gemma(), 0)
    with pytest.raises(InputError, match="this model has none"):
        predict_logits(BlockDenoiser(gemma(), 1), DiffusionState.from_prompts([[2]], 4, [0], 0), guidance=1.0)


def test_any_function_of_ids_and_mask() -> None:
    denoiser = MaskPredictor(lambda ids, mask: torch.zeros(*ids.shape, 5), mask_id=4, vocab=5)
    out = denoise(
        denoiser,
        DiffusionState.from_tokens(
            torch.zeros(2, 6, dtype=torch.int64), torch.ones(2, 6, dtype=torch.bool), [0, 1], fill=4
        ),
    )
    assert int(out.ids.max()) < 4 and out.ids[0].tolist() != out.ids[1].tolist()
    with pytest.raises(InputError, match="outside the vocabulary"):
        MaskPredictor(lambda ids, mask: ids, mask_id=5, vocab=5)
