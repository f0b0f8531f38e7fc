"""Whether a server's requests leave anything behind: `python tests/objects.py [--rounds 12] [--requests 300]`

A tiny model, requests of eight kinds (whole, streamed, left, refused, too long, drafts, texts to embed, denoised). After
each round all objects that Python knows are counted, and the memory of the process is told.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import random
import sys
import time
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parent))
import torch
from serving import running

KINDS = ("whole", "stream", "leave", "refused", "too long", "drafts", "embed", "denoise")


def body(dice: random.Random, **more: Any) -> dict[str, Any]:
    words = " ".join(f"w{dice.randrange(5, 90)}" for _ in range(dice.choice([3, 12])))
    said = {"messages": [{"role": "user", "content": words}], "seed": dice.randrange(999)}
    return {**said, "max_tokens": dice.choice([4, 20]), "n": dice.choice([1, 3]), **more}


def request(client: httpx.Client, url: str, kind: str, dice: random.Random) -> None:
    chat = f"{url}/v1/chat/completions"
    if kind == "stream":
        with client.stream("POST", chat, json=body(dice, stream=True)) as stream:
            list(stream.iter_lines())
    elif kind == "leave":
        with httpx.stream("POST", chat, json=body(dice, stream=True, max_tokens=200)) as stream:
            for number, _ in enumerate(stream.iter_lines()):
                if number > 4:
                    break
    elif kind == "refused":
        bad = [b"{", b"", b'{"messages": []}', json.dumps(body(dice, thinker="no")).encode()]
        client.post(chat, content=dice.choice(bad), headers={"content-type": "application/json"})
    elif kind == "embed":
        client.post(f"{url}/v1/embeddings", json={"input": ["w5 w6", "w7", "w8 w9"]})
    elif kind == "denoise":
        with httpx.stream("POST", f"{url}/api/diffuse", json={"branches": 2, "steps": 4, "length": 8}) as stream:
            list(stream.iter_lines())
    else:
        more: dict[str, dict[str, Any]] = {
            "whole": {},
            "too long": {"messages": [{"role": "user", "content": "w5 " * 4000}]},
            "drafts": {"thinker": dice.choice(["noise", "search", "hybrid"]), "max_tokens": 6, "n": 2},
        }
        client.post(chat, json=body(dice, **more[kind]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=300, help="in a round")
    args = parser.parse_args()
    dice = random.Random(1)
    with running(rows=16) as here, httpx.Client(timeout=60) as client:
        for made in range(1, args.rounds + 1):
            for number in range(args.requests):
                request(client, here.url, KINDS[number % len(KINDS)], dice)
            time.sleep(0.5)
            gc.collect()
            objects = gc.get_objects()
            tensors = sum(type(each) is torch.Tensor for each in objects)
            memory = int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 2**20
            count = made * args.requests
            print(f"{count} requests: {len(objects)} objects, {tensors} tensors, {memory:.1f} MiB", flush=True)
            del objects


if __name__ == "__main__":
    main()
