"""Train a small mixture-of-experts model of Hugging Face's own Mixtral class on five kinds of text, on a laptop's CPU:

    python studies/experts/train.py --shakespeare FILE --out small-moe [--steps 3000 | --minutes 8]

It writes a folder that `thoughtmix experts map` and `think` take, weights in float16 (about 6 MB), with a card. With
--judge it trains a dense model of Llama's class instead, on the part of the text that is kept from the others: a judge
of likelihood that shares neither weights nor training text with what it judges.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpora import DOMAINS, corpora, parted
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCABULARY, LENGTH, BATCH, RATE = 1024, 128, 10, 3e-3


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")


def model_of(vocabulary: int, experts: int, balance: float) -> MixtralForCausalLM:
    """All experts of a layer together are 2048 wide, however many they are; two of them run for a token."""
    config = MixtralConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=2048 // experts,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=experts,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        router_aux_loss_coef=balance,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return MixtralForCausalLM(config)


def judge_of(vocabulary: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def batches(ids: dict[str, torch.Tensor], rng: np.random.Generator) -> torch.Tensor:
    """(BATCH, LENGTH) tokens, as many of each domain."""
    rows = []
    for i in range(BATCH):
        text = ids[DOMAINS[i % len(DOMAINS)]]
        start = int(rng.integers(len(text) - LENGTH))
        rows.append(text[start : start + LENGTH])
    return torch.stack(rows)


@torch.no_grad()
def held_out(model: PreTrainedModel, ids: dict[str, torch.Tensor]) -> dict[str, float]:
    """Nats a token on 8 held-out pieces of each domain."""
    model.eval()
    out = {}
    for name, text in ids.items():
        starts = np.linspace(0, len(text) - LENGTH - 1, 8).astype(int)
        rows = torch.stack([text[s : s + LENGTH] for s in starts])
        logits = model(rows).logits[:, :-1]
        out[name] = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))
    model.train()
    return out


def train(model: PreTrainedModel, ids: dict[str, torch.Tensor], steps: int, minutes: float, seed: int) -> int:
    """Returns the number of steps. The rate follows a cosine over the steps, or over the minutes if those are given."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    rng = np.random.default_rng(seed)
    began, step, shown = time.monotonic(), 0, 0.0
    model.train()
    while (gone := (time.monotonic() - began) / (60 * minutes) if minutes else step / steps) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * gone)))
        rows = batches(ids, rng)
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if gone - shown > 0.05:
            shown = gone
            left = (time.monotonic() - began) * (1 / gone - 1)
            print(f"{gone:4.0%}  step {step}  loss {float(loss.detach()):.3f}  {left:.0f} s left", flush=True)
    return step


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, facts: dict[str, Any], out: Path) -> None:
    """The whole folder, or none."""
    part = out.with_name(out.name + ".part")
    model.eval().to(torch.float16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    what = (
        f"Mixtral class, {facts['experts']} experts a layer, 2 a token" if "experts" in facts else "Llama class, dense"
    )
    (part / "README.md").write_text(
        f"# A small model to study routing\n\n{what}, trained from scratch on Tiny Shakespeare and on Python, C++, "
        "licences and package descriptions found in the training machine's Python packages. A toy: its text is not to "
        f"be read. Made by:\n\n    {' '.join(['python studies/experts/train.py', *sys.argv[1:]])}"
        f"\n\n```json\n{json.dumps(facts, indent=1)}\n```\n"
    )
    part.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shakespeare", type=Path, required=True, help="tiny_shakespeare.txt")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=0, help="instead of steps")
    parser.add_argument("--experts", type=int, default=8, help="of each layer")
    parser.add_argument(
        "--balance", type=float, default=0.01, help="weight of the loss that keeps experts equally busy"
    )
    parser.add_argument("--judge", action="store_true", help="train a judge instead")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists. Name a new folder: --out FOLDER")
    texts = corpora(args.shakespeare)
    tokenizer = tokenizer_of([train for train, _ in texts.values()])

    def encode(text: str) -> torch.Tensor:
        return torch.tensor(tokenizer(text, verbose=False)["input_ids"])

    parts = {name: parted(train, judge=args.judge) for name, (train, _) in texts.items()}
    ids = {name: encode(part) for name, part in parts.items()}
    held = {name: encode(text) for name, (_, text) in texts.items()}
    torch.manual_seed(args.seed)
    model = judge_of(len(tokenizer)) if args.judge else model_of(len(tokenizer), args.experts, args.balance)
    count = sum(p.numel() for p in model.parameters())
    sizes = ", ".join(f"{name} {len(x)}" for name, x in ids.items())
    print(f"{count / 1e6:.1f} million parameters; tokens: {sizes}", flush=True)
    model.config.output_router_logits = not args.judge  # brings the balance into the loss
    steps = train(model, ids, args.steps, args.minutes, args.seed)
    model.config.output_router_logits = False
    facts: dict[str, Any] = {"parameters": count, "steps": steps, "tokens": steps * BATCH * LENGTH, "seed": args.seed}
    facts |= {} if args.judge else {"experts": args.experts, "balance": args.balance}
    facts["training_characters"] = {name: len(part) for name, part in parts.items()}
    facts["held_out_nats_per_token"] = {name: round(v, 3) for name, v in held_out(model, held).items()}
    save(model, tokenizer, facts, args.out)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
