"""A mask predictor with its tokenizer, by name: texts in, canvases out, and back to text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, ModelError
from thoughtmix.diffusion.canvas import Canvas, blank
from thoughtmix.diffusion.denoiser import Denoiser, MaskPredictor, own_denoiser

BUNDLED = {"shakespeare-diffusion": Path(__file__).parent / "weights" / "shakespeare"}
"""Models that are part of the package, by name."""
DEFAULT = "shakespeare-diffusion"

_GAP = re.compile(r"<mask(?::(\d+))?>")


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """before, after: tokens that a text stands between ([CLS] and [SEP] of a BERT); none in our own models. context:
    most tokens of a row; None: no limit. trained: tokens of a training window; longer rows are untried."""

    denoiser: Denoiser = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    context: int | None = None
    trained: int | None = None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    guidance: bool = False
    """Whether the model was trained for it."""

    @property
    def fill(self) -> int:
        """What undecided positions hold."""
        return self.denoiser.mask_id or 0

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Text of ids, special tokens (the mask among them) left out."""
        plain = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        return str(self.tokenizer.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int] | Tensor) -> list[str]:
        """The text of each token by itself."""
        return [self.decode([int(i)]) for i in ids]

    def canvas(
        self,
        prompts: str | Sequence[str],
        length: int | Sequence[int] = 256,
        seeds: int | Sequence[int] = 1,
        temperature: float | Sequence[float] = 1.0,
    ) -> Canvas:
        """Rows of a locked prompt and `length` tokens to write after it, padded on the right. prompts: one for all
        rows, or one a row; "" is unconditional. seeds: a number of rows (seeds 0, 1, ...), or one seed a row.
        Raises `InputError`."""
        given = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        texts = [prompts] * len(given) if isinstance(prompts, str) else list(prompts)
        if len(texts) != len(given) or not given:
            raise InputError(f"{len(texts)} prompts for {len(given)} seeds.", "Pass one prompt, or one a seed.")
        rows = [[*self.before, *self.encode(text)] for text in texts]
        canvas = blank(rows, length, given, self.fill, temperature, self.denoiser.device)
        return self._checked(self._ended(canvas))

    def infill(
        self, text: str, seeds: int | Sequence[int] = 1, temperature: float | Sequence[float] = 1.0, gap: int = 16
    ) -> Canvas:
        """Rows of `text` in which each `<mask:20>` is 20 tokens to fill in (`<mask>`: `gap`); all else is locked.
        Raises `InputError` for a text without a gap."""
        given = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        ids, masked, at = list(self.before), [False] * len(self.before), 0
        for found in _GAP.finditer(text):
            here = self.encode(text[at : found.start()])
            size = int(found[1]) if found[1] else gap
            ids += [*here, *[self.fill] * size]
            masked += [*[False] * len(here), *[True] * size]
            at = found.end()
        rest = [*self.encode(text[at:]), *self.after]
        ids, masked = [*ids, *rest], [*masked, *[False] * len(rest)]
        if not any(masked):
            raise InputError("The text has no gap to fill.", 'Mark one: "To be, <mask:12> not to be"')
        device = self.denoiser.device
        row = torch.tensor(ids, device=device).expand(len(given), -1)
        hidden = torch.tensor(masked, device=device).expand(len(given), -1)
        return self._checked(Canvas.of(row, hidden, given, temperature=temperature, fill=self.fill))

    def texts(self, canvas: Canvas, prompt: bool = True) -> list[str]:
        """Each row's text; prompt False: without what was locked before the first open position."""
        out = []
        for ids, real, locked in zip(canvas.ids, canvas.real, canvas.locked, strict=True):
            keep = real & (~(locked.cumprod(0) > 0) if not prompt else real)
            out.append(self.decode(ids[keep]))
        return out

    def _ended(self, canvas: Canvas) -> Canvas:
        """With `after` locked behind each row."""
        if not self.after:
            return canvas
        n = len(self.after)
        ids, masked, real = (torch.nn.functional.pad(x, (0, n)) for x in (canvas.ids, canvas.masked, canvas.real))
        for row, end in enumerate(canvas.real.sum(1).tolist()):
            ids[row, end : end + n] = torch.tensor(self.after, device=ids.device)
            real[row, end : end + n] = True
        return Canvas.of(ids, masked, canvas.seeds, real=real, temperature=canvas.temperature, fill=self.fill)

    def _checked(self, canvas: Canvas) -> Canvas:
        longest = int(canvas.real.sum(1).max())
        if self.context is not None and longest > self.context:
            raise InputError(
                f"Prompt and text have {longest} tokens, {self.name} reads {self.context}.",
                "Shorten the prompt, or pass a smaller --length.",
            )
        return canvas


def wrap_diffusion(model: Any, tokenizer: Any, name: str = "") -> DiffusionModel:
    """Of a `MaskedDiffusionTransformer`, or any Hugging Face masked language model. Puts it in eval mode.
    Raises `ModelError` when there is no mask token."""
    from thoughtmix.diffusion.model import MaskedDiffusionTransformer

    model.eval()
    name = name or model.config.name_or_path or type(model).__name__
    if isinstance(model, MaskedDiffusionTransformer):
        c = model.config
        return DiffusionModel(
            own_denoiser(model), tokenizer, name, c.max_position_embeddings, c.trained_length, guidance=c.guidance
        )
    if tokenizer.mask_token_id is None:
        raise ModelError(f"{name} has no mask token.", "Choose a masked language model (--model).")
    special = [i for i in tokenizer.all_special_ids if i is not None]
    denoiser = MaskPredictor(model, tokenizer.mask_token_id, model.get_output_embeddings().out_features, special)
    before, after = _frame(tokenizer)
    return DiffusionModel(denoiser, tokenizer, name, _context(model.config), None, before, after)


def load_diffusion(name: str | None = None, device: str = "auto", dtype: str = "float32") -> DiffusionModel:
    """Load a mask predictor.

    name: None or "shakespeare-diffusion" (part of the package, no download), a folder that `thoughtmix train
    diffusion` or save_pretrained wrote, or a Hugging Face id `org/name` of a masked language model, the only case in
    which a hub is asked. Raises `ModelError` and `InputError`.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from thoughtmix.diffusion import model as _registered  # noqa: F401  the Auto classes know ours from here on
    from thoughtmix.models.checkpoint import locate
    from thoughtmix.models.hardware import DTYPES, usable_device
    from thoughtmix.models.quiet import quiet

    if dtype not in DTYPES:
        raise InputError(f"Unknown dtype {dtype!r}.", f"Pass {', '.join(DTYPES)} (--dtype float32).")
    device = usable_device(device)
    name = name or DEFAULT
    source, title, hub = (str(BUNDLED[name]), name, False) if name in BUNDLED else locate(name)
    settings: dict[str, Any] = {"local_files_only": not hub, "trust_remote_code": False}
    try:
        with quiet(downloads=hub):
            tokenizer: Any = AutoTokenizer.from_pretrained(source, **settings)
            model, info = AutoModelForMaskedLM.from_pretrained(
                source, dtype=getattr(torch, dtype), output_loading_info=True, **settings
            )
    except Exception as error:  # the hub client, parsers and safetensors each have errors of their own
        reason = str(error).strip().partition("\n")[0][:200].rstrip(".") or type(error).__name__
        raise ModelError(
            f"Cannot load {title} as a masked model: {reason}.", f"Leave --model out for {DEFAULT}."
        ) from None
    if info["missing_keys"]:
        raise ModelError(f"{title} lacks the weights {min(info['missing_keys'])}.", "Choose another model (--model).")
    return wrap_diffusion(model.to(device).requires_grad_(False), tokenizer, title)


def _frame(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and after a text."""
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    outer = tokenizer("a", add_special_tokens=True)["input_ids"]
    for at in range(len(outer) - len(inner) + 1):
        if outer[at : at + len(inner)] == inner:
            return tuple(outer[:at]), tuple(outer[at + len(inner) :])
    return (), ()


def _context(config: Any) -> int | None:
    value = getattr(config, "max_position_embeddings", None)
    # RoBERTa's family counts positions from its padding id + 1
    offset = (config.pad_token_id or 0) + 1 if "roberta" in config.model_type or config.model_type == "camembert" else 0
    return value - offset if isinstance(value, int) and value > 0 else None
