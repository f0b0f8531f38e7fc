"""What packed weights cost in likelihood: the default model's NLL of texts, decoded step by step, beside float32.

    OMP_NUM_THREADS=2 python benchmarks/likelihood.py [--weights fp16 bf16] [--rows 16] [--tokens 80] [FILE ...]

Each text is cut into as many pieces as there are rows; their first tokens (`--read`) are the prompts, and every other
token is forced on the step that decodes it. The reference is the model's own forward in float32. Printed for each way
of keeping the weights: the difference in NLL (nats a token; its standard error), KL(float32 || packed), and at how
many places another token is the likeliest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from thoughtmix.engine.backends.base import Start
from thoughtmix.engine.backends.probe import choose
from thoughtmix.models import load_model
from thoughtmix.models.packaged import GENERATOR, ensure

ROOT = Path(__file__).parents[1]


def stepped(model: object, weights: str, ids: Tensor, read: int) -> tuple[str, Tensor]:
    """How the weights were kept, and log-probabilities (rows, tokens - read, vocabulary), decoded token by token."""
    path = choose(model, "fused", weights)  # type: ignore[arg-type]
    rows, tokens = ids.shape
    first, _ = path.start(Start(ids[:, :read].tolist(), [1] * rows, tokens - read + 1))
    assert first is not None
    logits = [first, *(path.step(ids[:, i]) for i in range(read, tokens - 1))]
    path.close()
    return path.weights_kind, torch.stack(logits, 1).log_softmax(-1)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[ROOT / "README.md", ROOT / "LICENSE"])
    parser.add_argument("--weights", nargs="+", default=["fp16", "bf16"])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--read", type=int, default=1, help="tokens of each piece that are read as its prompt")
    args = parser.parse_args()
    lm = load_model(str(ensure(GENERATOR, "float32")), dtype="float32")
    print("| text | weights | tokens | NLL, float32 | difference | its error | KL | another likeliest |")
    print("|---" * 8 + "|")
    for file in args.files:
        ids = torch.tensor(lm.encode(file.read_text())[: args.rows * args.tokens])
        ids = ids[: len(ids) // args.rows * args.rows].view(args.rows, -1)
        exact = lm.model(ids).logits[:, args.read - 1 : -1].log_softmax(-1)
        next_ids = ids[:, args.read :, None]
        nll = -exact.gather(-1, next_ids)[..., 0]
        for weights in args.weights:
            kind, got = stepped(lm.model, weights, ids, args.read)
            off = -got.gather(-1, next_ids)[..., 0] - nll
            kl = (exact.exp() * (exact - got)).sum(-1).mean()
            other = (exact.argmax(-1) != got.argmax(-1)).float().mean()
            print(
                f"| {file.name} | {kind} | {off.numel()} | {nll.mean():.4f} | {off.mean():+.4f} | "
                f"{off.std() / off.numel() ** 0.5:.4f} | {kl:.5f} | {other:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
