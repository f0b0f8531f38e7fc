"""Reading experts: their own outputs, without changing the run; on disk as in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_experts_control import EXPERT, _gated, _llama4, logits
from tiny_moe import EXPERTS, FAMILIES, inputs, tiny_moe

from thoughtmix.core.errors import InputError, ModelError, ThoughtmixError
from thoughtmix.experts import Activations, ExpertActivationExtractor, ExpertController, find_moe_layers
from thoughtmix.experts.hooks import _HOOKED

HEARD = tuple(f for f in FAMILIES if f != "nllb-moe")


@pytest.mark.parametrize("outputs", ["selected", "all"])
@pytest.mark.parametrize("family", HEARD)
def test_outputs_are_each_experts_own(family: str, outputs: Any, global_state_untouched: None) -> None:
    """Against raw parameters; and the model's result is what it was."""
    model, x = tiny_moe(family), inputs(family, 2)
    blocks: list[Any] = []
    parts = [layer.experts if family == "gemma4_text" else layer.block for layer in find_moe_layers(model)]
    hooks = [
        part.register_forward_hook(lambda _m, args, _o: blocks.append(args[0].reshape(-1, args[0].shape[-1])))
        for part in parts
    ]
    plain = logits(model, x)
    for hook in hooks:
        hook.remove()
    with ExpertActivationExtractor(model, outputs=outputs) as reader:
        watched = logits(model, x)
    torch.testing.assert_close(watched, plain, atol=2e-5, rtol=1e-5)
    assert torch.equal(logits(model, x), plain) and not _HOOKED
    for layer, hidden in zip(reader.layers, blocks, strict=True):
        seen = reader.activations[layer.number]
        assert seen.name == layer.name and seen.batches == ((2, 7),)
        assert seen.selected.shape == seen.weights.shape == (14, layer.top_k)
        torch.testing.assert_close(seen.probabilities.sum(1), torch.ones(14))
        assert seen.outputs is not None
        for e in range(EXPERTS):
            token, slot = (seen.selected == e).nonzero(as_tuple=True)
            if outputs == "all":
                token, slot = torch.arange(14), torch.full((14,), e)
            given, got = hidden[token], seen.outputs[token, slot]
            with torch.no_grad():
                if family == "llama4_text":  # its experts get their input scaled; the others get 0
                    weight = (seen.weights * (seen.selected == e)).sum(1)[token, None]
                    want = _llama4(layer.experts, e, given * weight)
                else:
                    want = EXPERT.get(family, _gated)(layer.experts, e, given)
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoe", "jamba"])
def test_reading_changes_not_one_bit(family: str) -> None:
    """Where the class uses transformers' grouped products, the tapped run is the run."""
    model, x = tiny_moe(family), inputs(family, 2)
    plain = logits(model, x)
    with ExpertActivationExtractor(model):
        assert torch.equal(logits(model, x), plain)


def test_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many (token, expert) pairs go through the experts as without reading."""
    from transformers.integrations import moe

    model, x = tiny_moe("mixtral"), inputs("mixtral", 2)
    pairs: list[int] = []
    original = moe.grouped_mm_experts_forward

    def counting(self: Any, hidden: Any, index: Any, weight: Any) -> Any:
        pairs.append(index.numel())
        return original(self, hidden, index, weight)

    monkeypatch.setitem(moe.ALL_EXPERTS_FUNCTIONS._global_mapping, "grouped_mm", counting)
    logits(model, x)
    plain = pairs.copy()
    pairs.clear()
    with ExpertActivationExtractor(model):
        logits(model, x)
    assert pairs == plain and plain


def test_what_controllers_change_is_seen_whatever_came_first() -> None:
    model, x = tiny_moe("mixtral"), inputs("mixtral")
    with ExpertActivationExtractor(model, layers=[1]) as reader, ExpertController(model) as c:
        c.force([3, 0, 1], [0.5, 0.25, 0.25])
        logits(model, x)
        seen = reader.activations[1]
        assert seen.selected.tolist() == [[3, 0, 1]] * 7 and seen.weights.tolist() == [[0.5, 0.25, 0.25]] * 7
        assert list(reader.activations) == [1]
        c.reset()
        with pytest.raises(InputError, match=r"another number of experts than before.*Record each"):
            logits(model, x)


def test_several_forwards_follow_each_other_and_two_readers_agree() -> None:
    model = tiny_moe("mixtral")
    with ExpertActivationExtractor(model, outputs="all") as every, ExpertActivationExtractor(model) as some:
        for rows, tokens in ((1, 3), (2, 5)):
            logits(model, inputs("mixtral", rows, tokens))
    a, b = every.activations[0], some.activations[0]
    assert a.batches == b.batches == ((1, 3), (2, 5))
    assert torch.equal(a.selected, b.selected) and len(a.logits) == 13
    assert a.outputs is not None and b.outputs is not None
    picked = a.outputs.gather(1, b.selected[..., None].expand(-1, -1, a.outputs.shape[-1]))
    assert torch.equal(picked, b.outputs)
    some.clear()
    assert some.activations == {}


def test_streamed_to_disk_as_in_memory(tmp_path: Path) -> None:
    model, folder = tiny_moe("qwen3_moe"), tmp_path / "new" / "run"
    with ExpertActivationExtractor(model) as held, ExpertActivationExtractor(model, folder=folder) as streamed:
        for rows in (2, 1):
            logits(model, inputs("qwen3_moe", rows))
        with pytest.raises(InputError, match="no whole recording"):
            _ = streamed.activations
    for number, want in held.activations.items():
        got = Activations.load(folder)[number]
        assert got.name == want.name and got.batches == want.batches
        for part in ("logits", "probabilities", "selected", "weights", "outputs"):
            assert torch.equal(getattr(got, part), getattr(want, part))
    with pytest.raises(InputError, match="Name a new folder"):
        ExpertActivationExtractor(model, folder=folder)
    (folder / "0.outputs").write_bytes(b"short")
    with pytest.raises(InputError, match=r"0.outputs is missing or cut short.*Record it again"):
        Activations.load(folder)


def test_a_broken_run_leaves_no_folder(tmp_path: Path) -> None:
    def broken() -> None:
        with ExpertActivationExtractor(tiny_moe("mixtral"), folder=tmp_path / "run"):
            logits(tiny_moe("mixtral"), inputs("mixtral"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    reader = ExpertActivationExtractor(tiny_moe("mixtral"), folder=tmp_path / "run")
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ThoughtmixError, match=r"(?i)no space left.*Free some space"), reader:
        logits(tiny_moe("mixtral"), inputs("mixtral"))
    assert not (tmp_path / "run").exists()


def test_refusals() -> None:
    model = tiny_moe("mixtral")
    with (
        pytest.raises(InputError, match=r"over .* GiB.*Stream it"),
        ExpertActivationExtractor(model, memory_limit=1000),
    ):
        logits(model, inputs("mixtral"))
    with pytest.raises(InputError, match="no mixture-of-experts layer 3"):
        ExpertActivationExtractor(model, layers=[3])
    with pytest.raises(InputError, match="outputs is 'some'"):
        ExpertActivationExtractor(model, outputs="some")  # type: ignore[arg-type]


def test_nllb_routing_is_read_but_its_outputs_are_refused() -> None:
    """The upstream bug, shown: with experts 2 and 3 zeroed, nothing changes, whatever the router chose."""
    from tiny_moe import fresh_moe

    model, x = fresh_moe("nllb-moe"), inputs("nllb-moe", 2)
    with pytest.raises(ModelError, match=r"one-hots NLLB-MoE's router mask a second time"):
        ExpertActivationExtractor(model)
    with ExpertActivationExtractor(model, outputs="") as reader:
        before = logits(model, x)
    assert (reader.activations[0].selected >= 2).any(), "the router does choose experts 2 and 3"
    with torch.no_grad():
        for layer in find_moe_layers(model):
            for e in (2, 3):
                for p in layer.experts[f"expert_{e}"].parameters():  # type: ignore[index]
                    p.zero_()
    assert torch.equal(logits(model, x), before), "transformers has repaired it: let the family table know"
