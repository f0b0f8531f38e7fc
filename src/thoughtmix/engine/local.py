"""The local engine: our decoding loop over a Hugging Face model in this process."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from thoughtmix.core import __version__
from thoughtmix.core.request import OnStep, Prompt
from thoughtmix.engine.backends.known import path_of, prepare
from thoughtmix.engine.backends.probe import PathName, Weights
from thoughtmix.engine.engine import (
    ENCODER_DECODER,
    EVERYTHING,
    MASK_PREDICTOR,
    Capability,
    Generation,
    SequenceRequest,
)
from thoughtmix.engine.job import Job, PromptGroups
from thoughtmix.engine.loop import run
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowState

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel


class LocalEngine:
    """An engine over a loaded model.

    Args:
        model: What continues the sequences.
        path: How a step goes through the model: auto (the quickest that reproduces its forward), fused, shared,
            expanded or recompute (see `engine.backends`).
        weights: How the weights are multiplied by: auto, native (as loaded), fp16 (x86 CPUs) or bf16 (x86 CPUs that
            multiply it).
    """

    kind = "local"

    def __init__(self, model: LanguageModel, path: PathName = "auto", weights: Weights = "auto") -> None:
        self.model, self.path, self.weights = model, path, weights
        prepare(model, path, weights)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def capabilities(self) -> frozenset[Capability]:
        if not self.model.causal:
            return MASK_PREDICTOR
        return ENCODER_DECODER if self.model.encoder_decoder else EVERYTHING

    def environment(self) -> dict[str, Any]:
        import torch

        return {
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "thoughtmix": __version__,
            "torch": torch.__version__,
            "transformers": _version("transformers"),
        }

    def encode(self, prompt: Prompt | tuple[int, ...]) -> list[int]:
        if isinstance(prompt, Prompt):
            return self.model.encode(
                prompt.content, raw=prompt.raw, template_kwargs=prompt.template_kwargs, tools=prompt.tools
            )
        return self.model.begun(prompt)

    def generate(
        self,
        sequences: Sequence[SequenceRequest],
        *,
        row_state: RowState = NO_ROW_STATE,
        read: Read = "shared",
        top_logprobs: int = 0,
        keep_prefixes: bool = False,
        without_replacement: bool = False,
        on_step: OnStep | None = None,
    ) -> Generation:
        """See `Engine.generate`."""
        job = Job(
            self.model,
            PromptGroups.of_equal([self.encode(s.prompt) for s in sequences], sequences),
            row_state=row_state,
            read=read,
            top_logprobs=top_logprobs,
            keep_prefixes=keep_prefixes,
            without_replacement=without_replacement,
            on_step=on_step,
        )
        path = path_of(self.model, self.path, self.weights, row_state, read, len(job.groups.prompts))
        return run(job, path, self._while_reading())

    def _while_reading(self) -> AbstractContextManager[object]:
        """Around the reading of prompts."""
        return nullcontext()

    def exclusive(self) -> AbstractContextManager[None]:
        return nullcontext()


@functools.cache
def _version(package: str) -> str:
    """Found out once: a package's metadata is read as a letter is, for some milliseconds."""
    from importlib.metadata import version

    return version(package)
