"""Make the packaged model of a trained one: weights in float16, tokenizer, and a card with what it reaches.

    thoughtmix train diffusion --data TEXT --out out/shakespeare ...
    python studies/diffusion/ship.py --model out/shakespeare --data TEXT --out src/thoughtmix/diffusion/weights/shakespeare \\
        --command "thoughtmix train diffusion ..."

Everything in the card is measured here, on the float16 weights: the bound on all windows of the last tenth, and what
samples copy from the first nine tenths.
"""

# ruff: noqa: E501  tables of the card read better unbroken

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thoughtmix.core.files import write_whole
from thoughtmix.diffusion.load import load_diffusion
from thoughtmix.diffusion.objective import Bound, evaluate_bound, split_windows
from thoughtmix.diffusion.sampler import DenoisingConfig, denoise
from thoughtmix.models.hardware import quiet
from thoughtmix.training.data import read_text, split

CARD = """---
license: apache-2.0
---

# shakespeare-diffusion

A masked diffusion transformer over characters, part of thoughtmix: {layers} layers, width {width}, {heads} heads,
{parameters:,} parameters, no time input, trained on windows of {context} characters of Tiny Shakespeare (public domain
text, sha256 `{sha}`), its first nine tenths. Half of the windows begin with a clean prefix at the start of a line; a
tenth of those prefixes were hidden, so that guidance means something.

```console
$ {command}
$ python studies/diffusion/ship.py --model FOLDER --data TEXT --out src/thoughtmix/diffusion/weights/shakespeare
```

{steps} steps of {batch} windows ({epochs:.1f} times the text), {minutes:.0f} minutes of a loaded CPU core, averaged
weights; the validation bound was at its best at the last evaluation: {last}. Weights are stored in float16.{note}

| last tenth of the text, {windows} windows, exactly k of n masked, times stratified | nats/character | bits/character (95%) |
|---|---|---|
| unconditional bound | {b0.nats:.4f} | {b0.bits:.4f} ({b0.bits_low:.4f} to {b0.bits_high:.4f}) |
| given the first {given} characters | {b1.nats:.4f} | {b1.bits:.4f} ({b1.bits_low:.4f} to {b1.bits_high:.4f}) |

A bound on the likelihood: never compare it with a mean cross-entropy over masked characters.

Copying: of {samples} samples of {context} characters (ancestral, {context} steps), the longest passage that stands word for word
in the training text has {mean:.1f} characters on average and {most} at most; {share:.2%} of their spans of 30 characters
occur there. The same of {context}-character pieces of the last tenth itself: {real_mean:.1f}, {real_most}, {real_share:.2%}.

Small, and trained for minutes: it has the look of a play, short words and the speakers' lines, but no sentences that mean
something. For trying things out.

A sample, seed 0, prompt `ROMEO:`:

{sample}
"""


def copied(texts: Sequence[str], source: str, span: int = 30) -> tuple[list[int], float]:
    """The length of each text's longest passage that stands word for word in `source`, and the share of all spans of
    `span` characters in the texts that do."""
    spans = [text[i : i + span] for text in texts for i in range(len(text) - span + 1)]
    longest = []
    for text in texts:
        most = end = 0
        for start in range(len(text)):  # what starts here reaches at least as far as what started one before
            end = max(end, start)
            while end < len(text) and text[start : end + 1] in source:
                end += 1
            most = max(most, end - start)
        longest.append(most)
    return longest, sum(s in source for s in spans) / max(1, len(spans))


def convert(source: Path, out: Path) -> None:
    """The model in float16, and its tokenizer, in `out`."""
    model = load_diffusion(str(source))
    net: Any = model.denoiser.model  # type: ignore[attr-defined]
    with quiet(), tempfile.TemporaryDirectory() as part:
        net.half().save_pretrained(part)
        model.tokenizer.save_pretrained(part)
        out.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path(part).iterdir()):
            shutil.copyfile(file, out / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--command", required=True, help="What trained it, for the card.")
    parser.add_argument("--note", default="", help="What else the card should say of the training.")
    parser.add_argument("--given", type=int, default=32)
    parser.add_argument("--samples", type=int, default=16)
    a = parser.parse_args()
    state = torch.load(a.model / "training" / "state.pt", weights_only=True)
    convert(a.model, a.out)
    model = load_diffusion(str(a.out))
    net = model.denoiser.model  # type: ignore[attr-defined]
    config, text = net.config, read_text(str(a.data))
    splits = split(text)
    ids = torch.tensor(model.encode(splits.validation))
    windows = split_windows(ids, config.trained_length)

    def bound(prefix: int) -> Bound:
        return evaluate_bound(net, windows, config.mask_token_id, draws=1, prefix=prefix, estimator="count")

    length = config.trained_length
    samples = model.texts(
        denoise(model.denoiser, model.prompt_state("", length, a.samples), DenoisingConfig(steps=length))
    )
    pieces = [splits.validation[i : i + length] for i in range(0, a.samples * length, length)]
    (longest, share), (real_longest, real_share) = (copied(t, splits.train) for t in (samples, pieces))
    romeo = model.texts(
        denoise(model.denoiser, model.prompt_state("ROMEO:", length - 6, 1), DenoisingConfig(steps=length))
    )[0]
    seen = [e for e in state["log"] if "val_loss" in e]
    batch = state["config"]["batch_size"]
    card = CARD.format(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        context=length,
        parameters=sum(p.numel() for p in net.parameters()),
        sha=hashlib.sha256(text.encode()).hexdigest(),
        command=a.command,
        steps=state["step"],
        batch=batch,
        minutes=state["seconds"] / 60,
        note=a.note and f" {a.note}",
        epochs=state["step"] * batch * length / len(splits.train),
        last="yes" if seen[-1]["val_loss"] == state["best"]["val_loss"] else "no",
        windows=len(windows),
        samples=a.samples,
        b0=bound(0),
        b1=bound(a.given),
        given=a.given,
        mean=np.mean(longest),
        most=max(longest),
        share=share,
        real_mean=np.mean(real_longest),
        real_most=max(real_longest),
        real_share=real_share,
        sample="".join(f"    {line}\n" for line in romeo.splitlines()),
    )
    write_whole(a.out / "MODEL_CARD.md", card)
    print(card)


if __name__ == "__main__":
    main()
