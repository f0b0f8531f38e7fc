"""Control of the routing, on every family: what is forced is what a manual computation from raw parameters gives, each
row is its own, and nothing is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import VOCABULARY, fresh, tiny
from tiny_moe import DECODERS, EXPERTS, FAMILIES, fresh_moe, inputs, tiny_moe
from torch import Tensor, nn

from thoughtmix.core.errors import InputError, ModelError, ThoughtmixError
from thoughtmix.experts import ExpertActivationExtractor, ExpertController, Profile, find_moe_layers
from thoughtmix.experts.hooks import _HOOKED

EDITED = tuple(f for f in FAMILIES if f != "nllb-moe")  # those whose router is heard


def logits(model: Any, x: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**x).logits  # type: ignore[no-any-return]


def row(x: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    return {name: value[i : i + 1] for name, value in x.items()}


# --- each family's experts, from raw parameters ---


def _gated(p: Any, e: int, x: Tensor) -> Tensor:
    gate, up = (x @ p.gate_up_proj[e].T).chunk(2, -1)
    return (p.act_fn(gate) * up) @ p.down_proj[e].T


def _gpt_oss(p: Any, e: int, x: Tensor) -> Tensor:
    both = x @ p.gate_up_proj[e] + p.gate_up_proj_bias[e]
    gate, up = both[..., ::2].clamp(max=p.limit), both[..., 1::2].clamp(-p.limit, p.limit)
    return ((up + 1) * gate * torch.sigmoid(gate * p.alpha)) @ p.down_proj[e] + p.down_proj_bias[e]


def _llama4(p: Any, e: int, x: Tensor) -> Tensor:
    gate, up = (x @ p.gate_up_proj[e]).chunk(2, -1)
    return (up * F.silu(gate)) @ p.down_proj[e]


def _dbrx(p: Any, e: int, x: Tensor) -> Tensor:
    w1, v1, w2 = (getattr(p.mlp, n).view(EXPERTS, -1, x.shape[-1])[e] for n in ("w1", "v1", "w2"))
    return (F.silu(x @ w1.T) * (x @ v1.T)) @ w2


def _switch(p: Any, e: int, x: Tensor) -> Tensor:
    expert = p[f"expert_{e}"]
    return F.relu(x @ expert.wi.weight.T) @ expert.wo.weight.T


def _nllb(p: Any, e: int, x: Tensor) -> Tensor:
    expert = p[f"expert_{e}"]
    inside = F.relu(x @ expert.fc1.weight.T + expert.fc1.bias)
    return (inside @ expert.fc2.weight.T + expert.fc2.bias) * (1 - p.moe_token_dropout)


EXPERT: dict[str, Callable[[Any, int, Tensor], Tensor]] = {
    "gpt_oss": _gpt_oss, "dbrx": _dbrx, "switch_transformers": _switch, "nllb-moe": _nllb
}  # fmt: skip


def manual(family: str, block: Any, x: Tensor, mix: dict[int, float]) -> Tensor:
    """What the block shall give for x when these experts run with these weights."""
    if family == "llama4_text":  # weights scale the input
        out = sum(_llama4(block.experts, e, w * x) for e, w in mix.items())
        return out + block.shared_expert(x)  # type: ignore[no-any-return]
    one = EXPERT.get(family, _gated)
    out = sum(w * one(block.experts, e, x) for e, w in mix.items())
    if family == "qwen2_moe":
        shared = block.shared_expert
        out = out + torch.sigmoid(x @ block.shared_expert_gate.weight.T) * (
            (F.silu(x @ shared.gate_proj.weight.T) * (x @ shared.up_proj.weight.T)) @ shared.down_proj.weight.T
        )
    if family in {"deepseek_v2", "deepseek_v3"}:
        shared = block.shared_experts
        out = out + (
            (F.silu(x @ shared.gate_proj.weight.T) * (x @ shared.up_proj.weight.T)) @ shared.down_proj.weight.T
        )
    return out  # type: ignore[return-value]


def through(family: str, model: Any, x: dict[str, Tensor]) -> list[tuple[Any, Tensor, Tensor]]:
    """(block, its input, its output) at every layer of one forward; of Gemma 4, whose router and experts stand in the
    decoder layer itself, those of the experts."""
    seen: list[tuple[Any, Tensor, Tensor]] = []

    def note(block: nn.Module, args: Any, out: Any) -> None:
        y = out[0] if isinstance(out, tuple) else out
        seen.append((block, args[0].detach().clone(), y.detach().clone().view(args[0].shape)))

    hooks = []
    for layer in find_moe_layers(model):
        part = layer.experts if family == "gemma4_text" else layer.block
        hooks.append(part.register_forward_hook(lambda _, args, out, block=layer.block: note(block, args, out)))
    try:
        logits(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_forced_output_is_the_manual_computation(family: str, global_state_untouched: None) -> None:
    """Two experts, and three where the model uses two; wrong weights and wrong experts are far off."""
    model, x = tiny_moe(family), inputs(family, 2)
    for mix in ({2: 0.3, 0: 0.9}, {3: 0.5, 1: 0.25, 0: 0.75}):
        with ExpertController(model) as controller:
            controller.force(list(mix), list(mix.values()))
            seen = through(family, model, x)
        assert seen
        with torch.no_grad():
            for block, given, got in seen:
                assert (got - manual(family, block, given, mix)).abs().max() <= 1e-6 * max(1, float(got.abs().max()))
                first, second, *_ = mix
                swapped = {**mix, first: mix[second], second: mix[first]}
                other = {(e + 1) % EXPERTS: w for e, w in mix.items()}
                assert (got - manual(family, block, given, swapped)).abs().max() > 1e-3, "weights must matter"
                assert (got - manual(family, block, given, other)).abs().max() > 1e-3, "experts must matter"


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_behind(family: str, global_state_untouched: None) -> None:
    model, x = tiny_moe(family), inputs(family, 2)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = logits(model, x)
    controller = ExpertController(model, rows=2)
    with controller:
        assert torch.equal(logits(model, x), before), "an idle controller changes nothing"
        controller.force([1], rows=[1])
        assert not torch.equal(logits(model, x), before)
        with pytest.raises(RuntimeError), controller:
            raise RuntimeError
    assert torch.equal(logits(model, x), before)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not _HOOKED
    controller.force_expert_selection([2], [1.0])
    assert not torch.equal(logits(model, x), before)
    controller.clear_hooks()
    assert torch.equal(logits(model, x), before)


def test_the_prototypes_calls_run_as_written() -> None:
    """force_expert_selection(layer, ids) steers that layer alone, and layer by layer; extract_expert_outputs(layer)
    listens from its first call on."""
    model, x = tiny_moe("mixtral"), inputs("mixtral", 2)
    before, controller, reader = logits(model, x), ExpertController(model), ExpertActivationExtractor(model)
    assert reader.extract_expert_outputs(1) == {}
    controller.force_expert_selection(0, [1, 2])
    controller.force_expert_selection(1, [3])
    logits(model, x)
    ran = {layer: set(reader.extract_expert_outputs(layer)) for layer in (0, 1)}
    assert ran == {0: {1, 2}, 1: {3}}
    width = model.config.hidden_size
    assert reader.extract_expert_outputs(1)[3].shape == (x["input_ids"].numel(), width)
    reader.clear_hooks()
    controller.clear_hooks()
    assert torch.equal(logits(model, x), before) and not _HOOKED and reader.activations == {}
    with pytest.raises(InputError, match="no layer 9"):
        reader.extract_expert_outputs(9)
    with pytest.raises(InputError, match="without experts"):
        controller.force_expert_selection(0)


def profiles(family: str) -> list[Profile]:
    every = range(len(find_moe_layers(tiny_moe(family))))
    mine = [
        Profile(),
        Profile("given", force={i: {1: 0.5, 2: 0.5, 3: 0.4} for i in every}),
        Profile("shares", force={0: [3]}),
        Profile("equal", force={i: [0, 1] for i in every}, weights="equal"),
    ]
    if family != "nllb-moe":
        mine += [
            Profile("bias", bias={i: {2: 3.0} for i in every}),
            Profile("without", exclude={i: [0] for i in every}),
        ]
    return mine


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_steered_apart(family: str) -> None:
    """n rows with n profiles, and with n seeds of noise, are n runs of one row."""
    model, kinds = tiny_moe(family), profiles(family)
    x = inputs(family, len(kinds))
    noisy = family != "nllb-moe"
    seeds = list(range(5, 5 + len(kinds)))
    with ExpertController(model, rows=len(kinds)) as controller:
        controller.set(kinds)
        if noisy:
            controller.perturb(0.7, seeds)
        together = logits(model, x)
    for i, kind in enumerate(kinds):
        with ExpertController(model) as controller:
            controller.set(kind)
            if noisy:
                controller.perturb(0.7, seeds[i])
            torch.testing.assert_close(together[i : i + 1], logits(model, row(x, i)), atol=2e-5, rtol=1e-5)
    plain = logits(model, x)
    changed = [float((together[i] - plain[i]).abs().max()) > 1e-3 for i in range(len(kinds))]
    assert all(changed[1:])


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss", "llama4_text", "dbrx"])
def test_shares_sum_to_what_the_router_gave(family: str) -> None:
    """ "router": by its scores among the forced; "equal": alike; both times the weight that its own choice had."""
    model, x = tiny_moe(family), inputs(family, 2)
    first = find_moe_layers(model)[0].number  # later layers see other hidden states
    with ExpertActivationExtractor(model, [first], "") as reader:
        logits(model, x)
        plain = reader.activations[first]
        mass = plain.weights.sum(1, keepdim=True)
        for weights in ("router", "equal"):
            reader.clear()
            with ExpertController(model) as controller:
                controller.force([3, 0], weights)
                logits(model, x)
            seen = reader.activations[first]
            assert seen.selected.sort(1).values.tolist() == [[0, 3]] * 14
            score = seen.logits.sigmoid() if family in {"deepseek_v3", "llama4_text"} else seen.logits.exp()
            two = score.gather(1, seen.selected) if weights == "router" else torch.ones(14, 2)
            torch.testing.assert_close(seen.weights, two / two.sum(1, keepdim=True) * mass, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", EDITED)
def test_bias_is_the_routers_own_bias(family: str) -> None:
    """Adding b to a logit is what the router would do with b in its own bias; checked by giving it one."""
    model, x = fresh_moe(family), inputs(family, 1)
    with ExpertController(model) as controller:
        controller.bias({1: 1.5, 3: -0.5})
        got = logits(model, x)
    bias = torch.tensor([0.0, 1.5, 0.0, -0.5])
    original = F.linear

    class Biased(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            return out + bias if func is original and out.shape[-1] == EXPERTS and args[1].shape[0] == EXPERTS else out

    with Biased():  # here around the whole model: nothing else in it maps to four
        want = logits(model, x)
    assert not torch.equal(want, logits(model, x))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", EDITED)
def test_excluded_experts_do_not_run(family: str) -> None:
    """Their parameters could be anything."""
    model, x = fresh_moe(family), inputs(family, 2)
    with ExpertController(model) as controller:
        controller.exclude([2])
        before = logits(model, x)
        with torch.no_grad():
            for layer in find_moe_layers(model):
                parts = [p for n, p in layer.experts.named_parameters() if "expert_" not in n or "expert_2." in n]
                for p in parts:
                    whole = "expert_" in " ".join(n for n, _ in layer.experts.named_parameters())
                    (p if whole else p.view(EXPERTS, -1)[2]).mul_(1.7)
        assert torch.equal(logits(model, x), before)
    assert not torch.equal(logits(model, x), before)


@pytest.mark.parametrize("family", EDITED)
def test_noise_is_the_rows_own(family: str, global_state_untouched: None) -> None:
    model, x = tiny_moe(family), inputs(family, 1)
    three = {k: v.expand(3, -1) for k, v in x.items()}
    plain = logits(model, three)
    with ExpertController(model, rows=3) as controller:
        a = logits(model, three) if controller.perturb(0.8, [1, 2, 1]) else None
        assert a is not None
        b = logits(model, three) if controller.perturb(0.8, [9, 2, 4]) else None
        assert b is not None
        assert torch.equal(controller.perturb(0.0, [1, 2, 3]) and logits(model, three), plain), "creativity 0"
        controller.perturb(8.0, [1, 2, 1])
        assert (logits(model, three)[0] - plain[0]).abs().max() > 1e-3
    torch.testing.assert_close(a[0], a[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a[1], b[1], atol=1e-5, rtol=1e-5)
    assert (a[0] - b[0]).abs().max() > 1e-4, "seeds must matter"


def test_noise_at_one_samples_the_router() -> None:
    """Gumbel-top-k: over seeds, the first expert of a token is drawn with the router's own probability."""
    from scipy.stats import chi2

    model, n = tiny_moe("mixtral"), 2000
    x = {"input_ids": inputs("mixtral")["input_ids"].expand(n, -1)[:, :1]}
    with ExpertActivationExtractor(model, layers=[0], outputs="") as reader:
        logits(model, row(x, 0))
    p = reader.activations[0].probabilities[0].double()
    with ExpertController(model, layers=[0], rows=n) as controller, ExpertActivationExtractor(model, [0], "") as reader:
        controller.perturb(1.0, range(n))  # type: ignore[arg-type]
        logits(model, x)
    first = reader.activations[0].selected[:, 0]
    seen = torch.bincount(first, minlength=EXPERTS).double()
    assert float(((seen - n * p) ** 2 / (n * p)).sum()) < chi2.ppf(0.9999, EXPERTS - 1)


def test_the_certain_head_stays_and_the_tail_is_shuffled() -> None:
    model, n = tiny_moe("mixtral"), 40
    x = {"input_ids": inputs("mixtral")["input_ids"].expand(n, -1)}
    with ExpertActivationExtractor(model, [0], "") as plain:
        logits(model, row(x, 0))
    with ExpertController(model, layers=[0]) as c, ExpertActivationExtractor(model, [0], "") as reader:
        c.perturb(5.0, range(n), head=1)  # type: ignore[arg-type]
        logits(model, x)
    was, now = plain.activations[0].selected, reader.activations[0].selected.view(n, -1, 2)
    assert bool((now[:, :, 0] == was[None, :, 0]).all())
    assert len(now[:, 0, 1].unique()) == EXPERTS - 1, "every other expert gets its turn"
    assert bool((reader.activations[0].weights.view(n, -1, 2)[:, :, 0] >= 0.5).all())
    for wrong in (2, -1):
        with pytest.raises(InputError, match="nothing would be left to disturb"):
            c.perturb(1.0, 0, head=wrong)
    with pytest.raises(ModelError, match="model.layers.1.mlp does not choose by its largest logits"):
        ExpertController(tiny_moe("deepseek_v3")).perturb(1.0, 0, head=1)


def test_controllers_add_up() -> None:
    model, x = tiny_moe("qwen3_moe"), inputs("qwen3_moe", 2)
    both = Profile(bias={0: {1: 2.0}, 1: {2: 1.0}}, exclude={2: [0]})
    with ExpertController(model) as one:
        want = logits(model, x) if one.set(both) else None
    with ExpertController(model) as a, ExpertController(model, layers=[0, 2]) as b:
        a.bias({1: 0.5}, layers=[0]).bias({2: 1.0}, layers=[1])
        b.bias({1: 1.5}, layers=[0]).exclude([0], layers=[2])
        assert want is not None
        torch.testing.assert_close(logits(model, x), want, atol=1e-6, rtol=1e-6)
    with ExpertController(model) as a:
        a.force([0], [1.0])
        first = logits(model, x)
        with ExpertController(model) as b:
            b.force([3], [1.0])
            last = logits(model, x)
            a.detach()
            assert torch.equal(logits(model, x), last), "the last to force wins"
            a.attach()
        assert torch.equal(logits(model, x), first)


@pytest.mark.parametrize("family", DECODERS)
def test_inside_generate(family: str) -> None:
    """Greedy and with several sequences, cached: the same as one full forward under the same control."""
    model, x = tiny_moe(family), inputs(family, 2)
    plain = model.generate(**x, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    kinds = [Profile(force={0: {3: 1.0}}), Profile(bias={1: {0: 4.0}})]
    with ExpertController(model, rows=2) as controller:
        controller.set(kinds)
        got = model.generate(
            **x, max_new_tokens=6, do_sample=True, top_k=1, num_return_sequences=2, eos_token_id=None, pad_token_id=0
        )
        assert torch.equal(got[0], got[1]) and torch.equal(got[2], got[3])
        controller.set([kinds[0], kinds[0], kinds[1], kinds[1]])
        full = logits(model, {"input_ids": got})
        assert torch.equal(full[:, 6:-1].argmax(-1), got[:, 7:])
        with pytest.raises(InputError, match="4 profiles were set for a batch of 2 rows"):
            logits(model, x)
    assert torch.equal(plain, model.generate(**x, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0))
    assert not torch.equal(plain, got[[0, 2]])


def test_using_says_which_row_follows_which() -> None:
    model, x = tiny_moe("mixtral"), inputs("mixtral", 3)
    with ExpertController(model, rows=2) as controller:
        controller.force([0], [1.0], rows=[0]).force([3], [1.0], rows=[1])
        with controller.using([1, 0, 1]):
            mixed = logits(model, x)
        with controller.using(None):
            assert torch.equal(logits(model, x), logits_without(model, x))
        with pytest.raises(InputError, match="using.. named 2 rows; the batch has 3"), controller.using([0, 1]):
            logits(model, x)
        with pytest.raises(InputError, match="numbers from 0 to 1"), controller.using([2]):
            pass
    for i, expert in enumerate([3, 0, 3]):
        with ExpertController(model) as alone:
            alone.force([expert], [1.0])
            torch.testing.assert_close(mixed[i : i + 1], logits(model, row(x, i)), atol=2e-5, rtol=1e-5)


def logits_without(model: Any, x: dict[str, Tensor]) -> Tensor:
    removed = [(g, g.controllers[:]) for g in _HOOKED.values()]
    try:
        for g, _ in removed:
            g.controllers.clear()
        return logits(model, x)
    finally:
        for g, controllers in removed:
            g.controllers[:] = controllers


def test_a_scoped_controller_is_for_its_own_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    model, x = tiny_moe("mixtral"), inputs("mixtral", 1)
    plain = logits(model, x)

    def forced(expert: int) -> Tensor:
        with ExpertController(model, scoped=True) as c:
            c.force([expert], [1.0])
            outs = []
            for _ in range(10):
                assert torch.equal(logits(model, x), plain), "outside using: not steered"
                with c.using([0]):
                    outs.append(logits(model, x))
            assert all(torch.equal(o, outs[0]) for o in outs)
            return outs[0]

    want = [forced(e) for e in range(EXPERTS)]
    with ThreadPoolExecutor(EXPERTS) as pool:
        got = list(pool.map(forced, range(EXPERTS)))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert not torch.equal(want[0], want[1])


@pytest.mark.parametrize("when", ["before", "after"])
def test_with_peft(when: str) -> None:
    from peft import LoraConfig, get_peft_model

    model, x = fresh_moe("mixtral"), inputs("mixtral", 2)
    config = LoraConfig(
        target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], r=2
    )
    if when == "before":
        model = get_peft_model(model, config)
        controller = ExpertController(model)
    else:
        controller = ExpertController(model).attach()
        model = get_peft_model(model, config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    with controller:
        controller.force([1, 2], [0.25, 0.75])
        adapted = logits(model, x)
        with model.disable_adapter():
            base = logits(model, x)
    assert not torch.equal(adapted, base)
    want = fresh_moe("mixtral")
    with ExpertController(want) as c:
        c.force([1, 2], [0.25, 0.75])
        torch.testing.assert_close(base, logits(want, x), atol=1e-6, rtol=1e-6)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model, x), logits(want, x), atol=1e-6, rtol=1e-6)


def test_gradients_flow_to_forced_experts_alone() -> None:
    model, x = fresh_moe("mixtral").requires_grad_(True), inputs("mixtral", 2)
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.train().gradient_checkpointing_enable()
        with ExpertController(model) as c:
            c.force([2], [1.0])
            model(**x).logits.square().mean().backward()
        grad = model.model.layers[1].mlp.experts.down_proj.grad
        assert [bool(g.any()) for g in grad] == [False, False, True, False]


def test_a_copy_made_inside_is_free_afterwards() -> None:
    model, x = fresh_moe("mixtral"), inputs("mixtral")
    plain = logits(model, x)
    with ExpertController(model) as c:
        c.force([1], [1.0])
        twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, x), plain)


def test_recorders_see_what_ran() -> None:
    model, x = tiny_moe("mixtral"), inputs("mixtral")
    plain = model(**x, output_router_logits=True).router_logits
    with ExpertController(model) as c:
        c.bias({0: 7.0}, layers=[0])
        seen = model(**x, output_router_logits=True).router_logits
    torch.testing.assert_close(seen[0] - plain[0], torch.tensor([7.0, 0, 0, 0]).expand(7, 4), atol=1e-5, rtol=0)


# --- refusals ---


def test_compiled_models() -> None:
    model, x = fresh_moe("mixtral"), inputs("mixtral")
    plain = logits(model, x)
    with pytest.raises(ModelError, match=r"model.layers.0.mlp belongs to a compiled model.*Attach first"):
        ExpertController(torch.compile(model, backend="eager"))  # type: ignore[arg-type]
    model.model.layers[1].compile(backend="eager")
    with pytest.raises(ModelError, match=r"model.layers.1.mlp is compiled already"):
        ExpertController(model)
    model.model.layers[1]._compiled_call_impl = None
    with ExpertController(model) as c:
        compiled = torch.compile(model, backend="eager")
        c.force([1], [1.0])
        torch.testing.assert_close(logits(compiled, x), logits(model, x), atol=1e-5, rtol=1e-5)
        assert (logits(compiled, x) - plain).abs().max() > 1e-3
    torch.testing.assert_close(logits(compiled, x), plain, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()
    with c.reset():  # compiled while idle, set and reset later: it follows each time
        compiled = torch.compile(model, backend="eager")
        for expert in (2, 3):
            torch.testing.assert_close(logits(compiled, x), plain, atol=1e-5, rtol=1e-5)
            c.force([expert], [1.0])
            torch.testing.assert_close(logits(compiled, x), logits(model, x), atol=1e-5, rtol=1e-5)
            assert (logits(compiled, x) - plain).abs().max() > 1e-3
            c.reset()
    torch.testing.assert_close(logits(compiled, x), plain, atol=1e-5, rtol=1e-5)


def test_a_kernel_that_bypasses_the_router_is_noticed() -> None:
    model, x = fresh_moe("gpt_oss"), inputs("gpt_oss")
    block = model.model.layers[1].mlp
    block.forward = kernel = lambda hidden: (hidden * 0.5, None)  # what kernels do: another forward on the instance
    with ExpertController(model) as c:
        assert logits(model, x) is not None, "idle"
        c.force([0])
        with pytest.raises(ModelError, match=r"model.layers.1.mlp ran past its controlled router.*use_kernels=False"):
            logits(model, x)
    assert block.forward is kernel, "what others put there is there again"


def test_an_idle_controller_is_not_there(global_state_untouched: None) -> None:
    """Attached, and nothing set: not one module is other than before, so that it costs nothing."""
    model = fresh_moe("mixtral")

    def marks() -> list[tuple[int, int, bool]]:
        parts = (vars(m) for m in model.modules())
        return [(len(v["_forward_hooks"]), len(v["_forward_pre_hooks"]), "forward" in v) for v in parts]

    before = marks()
    with ExpertController(model) as c:
        assert marks() == before
        c.force([1])
        assert marks() != before
        c.reset()
        assert marks() == before
        c.force([1])
    assert marks() == before


class _Block(nn.Module):
    """A mixture of experts that nobody listed."""

    def __init__(self, router: nn.Module, experts: nn.Module) -> None:
        super().__init__()
        self.router, self.experts = router, experts

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.view(-1, hidden.shape[-1])
        _, weight, index = self.router(flat)
        return self.experts(flat, index, weight).view_as(hidden)  # type: ignore[no-any-return]


def test_unlisted_families_are_found_by_structure() -> None:
    model, want = fresh_moe("mixtral"), tiny_moe("mixtral")
    x = inputs("mixtral", 2)
    for layer in model.model.layers:
        layer.mlp = _Block(layer.mlp.gate, layer.mlp.experts)
    assert torch.equal(logits(model, x), logits(want, x))
    with ExpertController(model) as c, ExpertController(want) as d:
        assert c.layers[0].family == d.layers[0].family
        for each in (c, d):
            each.force([1, 2], [0.2, 0.8], layers=[1]).bias({0: 2.0}, layers=[0])
        assert torch.equal(logits(model, x), logits(want, x))


def test_what_cannot_be_controlled_is_named() -> None:
    with pytest.raises(InputError, match=r"LlamaForCausalLM has no mixture-of-experts layers.*Choose a mixture"):
        ExpertController(tiny("llama"))
    model = fresh_moe("mixtral")
    layer = model.model.layers[2]
    layer.mlp = _Block(layer.mlp.gate, nn.ModuleList([nn.Identity()] * 4))
    with pytest.raises(ModelError, match=r"model.layers.2.mlp cannot be controlled: its block walks"):
        ExpertController(model)
    layer.mlp = type("LongcatFlashMoE", (_Block,), {})(model.model.layers[0].mlp.gate, nn.Identity())
    with pytest.raises(ModelError, match=r"model.layers.2.mlp cannot be controlled: LongCat"):
        ExpertController(model)
    jet = fresh("llama")
    jet.model.layers[0].mlp = type("JetMoeMoE", (nn.Identity,), {})()
    with pytest.raises(ModelError, match=r"model.layers.0.mlp cannot be controlled: JetMoE sorts"):
        ExpertController(jet)
    nllb = tiny_moe("nllb-moe")
    for change in ("bias", "exclude"):
        with pytest.raises(ModelError, match=r"one-hots NLLB-MoE's router mask a second time.*Force experts"):
            getattr(ExpertController(nllb), change)({0: 1.0})


def test_a_router_without_a_linear_map_can_be_forced_but_not_biased() -> None:
    class Odd(nn.Module):
        top_k, num_experts = 2, 4

        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = torch.einsum("td,ed->te", x, self.weight)
            weight, index = logits.softmax(-1).topk(2)
            return logits, weight, index

    model, x = fresh_moe("mixtral"), inputs("mixtral")
    layer = model.model.layers[0]
    layer.mlp = _Block(Odd(layer.mlp.gate.weight), layer.mlp.experts)
    before = logits(model, x)
    with ExpertController(model) as c:
        c.force([1], [1.0], layers=[0])
        assert not torch.equal(logits(model, x), before)
        c.reset().bias({1: 1.0}, layers=[0])
        with pytest.raises(ModelError, match=r"model.layers.0.mlp computes its logits by no linear map.*Force"):
            logits(model, x)
    assert torch.equal(logits(model, x), before), "the mode is left also when the router is refused"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.force([4]), "has no expert 4"), (lambda c: c.force([0, 0], [0.5, 0.5]), "named twice"),
        (lambda c: c.force([0, 0]), "forces an expert of model.layers.0.mlp twice"), (lambda c: c.force([]), "forces no expert"),
        (lambda c: c.force([0], [0.5, 0.5]), "2 weights for 1"), (lambda c: c.force([0], "loud"), "weights is 'loud'"),
        (lambda c: c.force([0], [float("nan")]), "no finite number"), (lambda c: c.bias({9: 1.0}), "has no expert 9"),
        (lambda c: c.exclude([0, 1, 2]), "excluding leaves 1 of 4"), (lambda c: c.force([0], layers=[7]), "names layer 7"),
        (lambda c: c.force([0], rows=[1]), "no row 1 of 1"), (lambda c: c.perturb(-1.0), "creativity is -1"),
        (lambda c: c.perturb(1.0, []), "No seed"), (lambda c: c.perturb([1.0, 2.0], [1]), "2 values for 1 seeds"),
        (lambda c: c.set([]), "No profile"), (lambda c: ExpertController(tiny_moe("mixtral"), layers=[9]), "no mixture-of-experts layer 9"),
        (lambda c: ExpertController(tiny_moe("mixtral"), rows=0), "rows is 0"),
    ],
)  # fmt: skip
def test_bad_requests_say_what_to_type_and_change_nothing(change: Any, says: str) -> None:
    model, x = tiny_moe("mixtral"), inputs("mixtral")
    with ExpertController(model) as controller:
        controller.force([1], [1.0])
        before = logits(model, x)
        with pytest.raises(ThoughtmixError, match=says) as caught:
            change(controller)
        assert caught.value.hint and "\n" not in str(caught.value)
        assert torch.equal(logits(model, x), before)


def test_the_vocabulary_is_not_taken_for_experts() -> None:
    assert VOCABULARY != EXPERTS  # test_bias_... relies on it


def test_a_strong_correction_does_not_bring_an_excluded_expert_back() -> None:
    """DeepSeek-V3: of its two groups of two, the one with the excluded expert is left, however it is corrected."""
    model, x = fresh_moe("deepseek_v3"), inputs("deepseek_v3", 2)
    for layer in find_moe_layers(model):
        layer.router.e_score_correction_bias[2] = 5.0  # type: ignore[index,operator]
    with ExpertActivationExtractor(model, outputs="") as reader:
        logits(model, x)
        assert bool((reader.activations[0].selected == 2).any(1).all())
        reader.clear()
        with ExpertController(model) as controller:
            controller.exclude([2])
            logits(model, x)
    assert all(not bool((seen.selected == 2).any()) for seen in reader.activations.values())


def test_switch_tokens_beyond_the_capacity_stay_dropped() -> None:
    model, x = fresh_moe("switch_transformers"), inputs("switch_transformers", 1, 12)
    for layer in find_moe_layers(model):
        layer.router.expert_capacity = 2  # type: ignore[assignment]
    plain = logits(model, x)
    with ExpertController(model) as controller, ExpertActivationExtractor(model) as reader:
        controller.bias({0: 0.0})  # goes the whole way and changes nothing
        torch.testing.assert_close(logits(model, x), plain, atol=1e-6, rtol=1e-6)
        assert bool((reader.activations[0].weights == 0).any())
