"""Train a small mixture-of-experts model of Hugging Face's own Mixtral class on five kinds of text, on a laptop's CPU:

    python studies/experts/train.py --shakespeare FILE --out small-moe [--minutes 8]

It writes a folder that `thoughtmix experts map` and `think` take, weights in float16 (about 6 MB), with a card.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from corpora import DOMAINS, corpora
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

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


def model_of(vocabulary: int) -> MixtralForCausalLM:
    config = MixtralConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=512,
        router_aux_loss_coef=0.01, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return MixtralForCausalLM(config)


def batches(ids: dict[str, torch.Tensor], rng: np.random.Generator) -> torch.Tensor:
    """(BATCH, LENGTH) tokens, as many of each domain."""
    rows = []
    for i in range(BATCH):
        text = ids[DOMAINS[i % len(DOMAINS)]]
        start = int(rng.integers(len(text) - LENGTH))
        rows.append(text[start : start + LENGTH])
    return torch.stack(rows)


@torch.no_grad()
def held_out(model: MixtralForCausalLM, ids: dict[str, torch.Tensor]) -> dict[str, float]:
    """Nats a token on 8 held-out pieces of each domain."""
    model.eval()
    out = {}
    for name, text in ids.items():
        starts = np.linspace(0, len(text) - LENGTH - 1, 8).astype(int)
        rows = torch.stack([text[s : s + LENGTH] for s in starts])
        logits = model(rows, output_router_logits=False).logits[:, :-1]
        out[name] = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))
    model.train()
    return out


def train(model: MixtralForCausalLM, ids: dict[str, torch.Tensor], minutes: float, seed: int) -> int:
    """Returns the number of steps. The rate follows a cosine over the time that is left, not over steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    rng = np.random.default_rng(seed)
    began, step, shown = time.monotonic(), 0, 0.0
    model.train()
    while (gone := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * gone)))
        rows = batches(ids, rng)
        loss = model(input_ids=rows, labels=rows, output_router_logits=True).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if gone - shown > 0.1:
            shown = gone
            print(f"{gone:4.0%}  step {step}  loss {float(loss.detach()):.3f}", flush=True)
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shakespeare", type=Path, required=True, help="tiny_shakespeare.txt")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    texts = corpora(args.shakespeare)
    tokenizer = tokenizer_of([train for train, _ in texts.values()])

    def encode(text: str) -> torch.Tensor:
        return torch.tensor(tokenizer(text, verbose=False)["input_ids"])

    ids = {name: encode(train) for name, (train, _) in texts.items()}
    held = {name: encode(text) for name, (_, text) in texts.items()}
    torch.manual_seed(args.seed)
    model = model_of(len(tokenizer))
    count = sum(p.numel() for p in model.parameters())
    sizes = ", ".join(f"{name} {len(x)}" for name, x in ids.items())
    print(f"{count / 1e6:.1f} million parameters; tokens: {sizes}", flush=True)
    steps = train(model, ids, args.minutes, args.seed)
    facts = {
        "parameters": count, "steps": steps, "tokens": steps * BATCH * LENGTH,
        "minutes": args.minutes, "seed": args.seed,
        "training_characters": {name: len(train) for name, (train, _) in texts.items()},
        "held_out_nats_per_token": {name: round(v, 3) for name, v in held_out(model, held).items()},
    }  # fmt: skip
    model.config.output_router_logits = False
    model.eval().to(torch.float16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "README.md").write_text(
        "# A small mixture of experts\n\nMixtral class, 8 experts a layer, 2 a token, trained from scratch on Tiny "
        "Shakespeare and on Python, C++, licences and package descriptions found in the training machine's Python "
        "packages. A toy to study routing on; its text is not to be read. Made by `python studies/experts/train.py`."
        f"\n\n```json\n{json.dumps(facts, indent=1)}\n```\n"
    )
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
