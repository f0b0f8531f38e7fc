"""What holds, and how quick it is, on a GPU: laws, parity, decoding beside transformers' generate, memory, training.

    python benchmarks/gpu.py                      # about three minutes on an H100
    python benchmarks/gpu.py --device cpu --quick # the same code on a CPU, to find typos: figures mean nothing

Laws on the default model and the packaged graft, in float32 (TF32 stays off, as torch has it) and bfloat16. Decoding:
tokens a second of n rows behind one prompt, all of them to the last token, ours (steps recorded as CUDA graphs), ours
without graphs, `generate` (sampling, its dynamic cache, its default attention), and the bare products of a step, which
are replayed as one graph. Pairs take turns; median, smallest and largest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import torch
import transformers

from thoughtmix.engine import LocalEngine, SamplingParams, SequenceRequest
from thoughtmix.engine.backends import cuda_graph, fused_torch, probe
from thoughtmix.engine.row_state import NO_ROW_STATE
from thoughtmix.graft.adapter import require_graft
from thoughtmix.models import load_model

GRAFT = str(files("thoughtmix.graft") / "weights" / "smollm2")
PROMPTS = ("Name a bird.", "Give me an unusual idea for a birthday party, and say why.", "What is the sea?")


def sequences(prompt: tuple[int, ...], n: int, tokens: int, ends: bool = True, first: int = 0) -> list[SequenceRequest]:
    sampling = SamplingParams(temperature=0.8)
    end = None if ends else frozenset[int]()
    return [SequenceRequest(prompt, first + i, sampling, tokens, end_ids=end) for i in range(n)]


def drawn(engine: LocalEngine, rows: list[SequenceRequest], **how: Any) -> list[list[int]]:
    return [list(output.token_ids) for output in engine.generate(rows, **how).outputs]


def sync(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# --- laws ---


def laws(device: str, dtype: str) -> None:
    base, grafted = load_model("default", dtype=dtype, device=device), load_model(GRAFT, dtype=dtype, device=device)
    engine, other = LocalEngine(base), LocalEngine(grafted)
    prompts = [tuple(base.encode(prompt)) for prompt in PROMPTS]
    rows = [row for prompt in prompts for row in sequences(prompt, 8, 24)]
    together = drawn(engine, rows)
    path = probe.choose(base.model)
    print(f"\n{dtype}: path {path.name}, {type(path).__name__}, weights {path.weights_kind}")
    graft = require_graft(grafted.model)

    def state(creativity: float, some: list[SequenceRequest]) -> Any:
        return graft.row_state([r.seed for r in some], [creativity] * len(some), grafted.device)

    said("1 creativity 0 is the base model", together, drawn(other, rows, row_state=state(0.0, rows)))
    moved = drawn(other, rows, row_state=state(1.0, rows))
    print(f"    (creativity 1: {equal(together, moved)} of {len(rows)} thoughts the same)")
    said("2 without its graft it is the base model", together, drawn(other, rows, row_state=NO_ROW_STATE))
    alone = [drawn(engine, [row])[0] for row in rows]
    said("5 a thought is its seed's own: alone and among 24", together, alone)
    lone = [drawn(other, [row], row_state=state(1.0, [row]))[0] for row in rows]
    said("5 ... through branches", moved, lone)
    greedy = [SequenceRequest(p, 0, SamplingParams(temperature=0.0), 24, end_ids=frozenset()) for p in prompts]
    want = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=base.device)
        with torch.no_grad():
            out = base.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=None,
                pad_token_id=0,
            )  # fmt: skip
        want.append(out[0, len(prompt) :].tolist())
    said("6 greedy is generate's", drawn(engine, greedy), want)
    apart = 0.0
    for output, prompt in zip(engine.generate([rows[0], rows[8], rows[16]]).outputs, prompts, strict=True):
        ids = torch.tensor([[*prompt, *output.token_ids]], device=base.device)
        with torch.no_grad():
            logits = base.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        chosen = torch.tensor(output.token_ids, device=base.device)[:, None]
        whole = logits.log_softmax(-1).gather(1, chosen)[:, 0].cpu()
        apart = max(apart, float((whole - torch.tensor(output.logprobs)).abs().max()))
    print(f"  4 the cache changes nothing: log-probabilities within {apart:.1e} of one whole forward")


def equal(one: list[list[int]], other: list[list[int]]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


def said(law: str, one: list[list[int]], other: list[list[int]]) -> None:
    same = equal(one, other)
    print(f"  {law}: {'holds' if same == len(one) else 'DIFFERS'}, {same} of {len(one)} the same", flush=True)


# --- speed ---


def ours(lm: Any, prompt: tuple[int, ...], n: int, tokens: int, graphs: bool) -> Callable[[], float]:
    """Tokens a second of all n rows, the prompt's reading included."""
    engine = LocalEngine(lm)

    def run() -> float:
        before = probe._KNOWN[lm.model].recorded if lm.model in probe._KNOWN else None
        if not graphs and lm.model in probe._KNOWN:
            probe._KNOWN[lm.model].recorded = "not asked for"
        began = time.perf_counter()
        engine.generate(sequences(prompt, n, tokens, ends=False))
        sync(lm.device.type)
        took = time.perf_counter() - began
        if lm.model in probe._KNOWN and not graphs:
            probe._KNOWN[lm.model].recorded = before
        return n * tokens / took

    return run


def generated(lm: Any, prompt: tuple[int, ...], n: int, tokens: int) -> Callable[[], float]:
    ids = torch.tensor([prompt] * n, device=lm.device)

    def run() -> float:
        began = time.perf_counter()
        with torch.no_grad():
            lm.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=True, temperature=0.8,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        sync(lm.device.type)
        return n * tokens / (time.perf_counter() - began)

    return run


def bare(lm: Any, n: int) -> Callable[[], float]:
    """Tokens a second if a step were its matrix products alone."""
    weights = fused_torch.TorchWeights(lm.model, "native")
    width = lm.model.config.hidden_size
    x = torch.randn(n, width, device=lm.device, dtype=lm.model.dtype)
    gated = torch.randn(n, lm.model.config.intermediate_size, device=lm.device, dtype=lm.model.dtype)
    mixed = torch.randn(n, weights.h * weights.g * weights.d, device=lm.device, dtype=lm.model.dtype)

    def products() -> torch.Tensor:
        for layer in weights.layers:
            layer.qkv(x), layer.out(mixed), layer.gated(x), layer.down(gated)
        return weights.head(x)

    with torch.inference_mode():
        replay = cuda_graph.record(products) if lm.device.type == "cuda" else products

    def run(kept: object = products) -> float:  # a graph reads its inputs and weights where they were: they must stay
        with torch.inference_mode():
            replay()
            sync(lm.device.type)
            began = time.perf_counter()
            for _ in range(20):
                replay()
            sync(lm.device.type)
        return 20 * n / (time.perf_counter() - began)

    return run


def speed(device: str, quick: bool, pairs: int) -> None:
    lm = load_model("default", dtype="bfloat16" if device == "cuda" else "float32", device=device)
    text = lm.encode("Write about the sea. " * (10 if quick else 120))
    cases = [(32, 32), (32, 512), (1, 32), (256, 32)] if not quick else [(4, 16)]
    for n, length in cases:
        tokens = 8 if quick else 64
        prompt = tuple(text[:length])
        sides = {
            "ours": ours(lm, prompt, n, tokens, True),
            "without graphs": ours(lm, prompt, n, tokens, False),
            "generate": generated(lm, prompt, n, tokens),
            "bare products": bare(lm, n),
        }
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found: dict[str, list[float]] = {name: [] for name in sides}
        for side in sides.values():
            side()
        for pair in range(pairs):
            for name in list(sides) if pair % 2 == 0 else list(sides)[::-1]:
                found[name].append(sides[name]())
        print(f"\n{n} rows behind {length} tokens, {tokens} new ones each, tokens/s:")
        for name, speeds in found.items():
            ratios = [a / b for a, b in zip(found["ours"], speeds, strict=True)]
            print(
                f"  {name:16} {statistics.median(speeds):>10,.0f}   ours / it {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )
        if device == "cuda":
            print(f"  most memory {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=["laws", "speed"])
    given = parser.parse_args()
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}")
    if given.only != "speed":
        for dtype in ("float32", "bfloat16"):
            laws(given.device, dtype)
    if given.only != "laws":
        speed(given.device, given.quick, given.pairs)


if __name__ == "__main__":
    main()
