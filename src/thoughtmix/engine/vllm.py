"""The vLLM engine: vLLM in this process continues the sequences, those of all callers in one batch.

    thoughtmix think "Name a use for a brick." --engine vllm
    Pipeline("org/model", engine="vllm", engine_options={"tensor_parallel_size": 2})

Prompts become tokens here, as for our own loop, so that both engines are asked the same. vLLM keeps the beginnings that
prompts share. Thoughts of a graft are LoRA adapters, one a row (`row_state.AdapterRows`). Not here are what needs the
weights or our own draws: kept prefixes, draws without replacement, arithmetic sampling, top-n-sigma.

A row draws by its own seed; how its numbers round depends on the rows beside it, as always in vLLM: see docs/engines.md
for what was measured.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core import __version__
from thoughtmix.core.errors import InputError
from thoughtmix.core.grammar import SPACES, Grammar, closed
from thoughtmix.core.request import OnStep, Prompt
from thoughtmix.engine.engine import Capability, Generation, SequenceRequest
from thoughtmix.engine.row_state import NO_ROW_STATE, AdapterRows, Read, RowState
from thoughtmix.engine.stepping import StepThread
from thoughtmix.engine.vllm_loading import OWN_LOOP, check_options, free_memory, load, on_cpu, require_installed
from thoughtmix.engine.vllm_rows import RowsAtWork, end_ids

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel
    from thoughtmix.models.bare import BareModel


class VllmEngine:
    """An engine over vLLM's offline `LLM`. The model is loaded at the first `generate`, which takes a minute or more.

    Args:
        model: Named as for `load_model`: None for the default, a folder, a Hugging Face id, or a LoRA adapter's or a
            graft's folder.
        dtype: auto (vLLM's choice for the checkpoint), float32, bfloat16 or float16.
        options: Arguments of `vllm.LLM`: tensor_parallel_size, quantization, max_model_len, ...
        on_progress: Called with one line before each long step.

    Raises:
        InputError: vLLM is not installed, does not know such models, or has no such option.
        ModelError: The model cannot be read.
    """

    kind = "vllm"
    capabilities = frozenset(
        {
            Capability.LEFT_TO_RIGHT,
            Capability.TOKENS,
            Capability.LOGPROBS,
            Capability.TOP_LOGPROBS,
            Capability.GUIDED,
            Capability.BRANCHES,
        }
    )

    def __init__(
        self,
        model: str | None = None,
        *,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        require_installed()
        self.options: dict[str, Any] = {"dtype": dtype, **(options or {})}
        check_options(self.options)
        self._name, self._tell = model, on_progress or (lambda line: None)
        self._steps: StepThread | None = None
        self._rank = self._at_work = 0
        self._free = threading.Condition()
        self._numbers: dict[Path, int] = {}
        self._neutral: Path | None = None

    # --- what it is ---

    @cached_property
    def bare(self) -> BareModel:
        """What is known of the model without loading it."""
        from thoughtmix.models.bare import read_bare

        return read_bare(self._name, "vLLM", self._tell)

    @property
    def model(self) -> LanguageModel:
        """Its tokenizer, template and limits; no weights."""
        return self.bare.lm

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter or graft that was named."""
        return self.bare.adapter

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def rows(self) -> int:
        """Most rows in a step."""
        return int(self.options.get("max_num_seqs") or 256)

    def environment(self) -> dict[str, Any]:
        import torch
        import transformers
        import vllm

        facts: dict[str, Any] = {"thoughtmix": __version__, "vllm": vllm.__version__, "torch": torch.__version__}
        facts["transformers"] = transformers.__version__
        if self._steps is not None:
            facts["device"] = str(vllm.platforms.current_platform.device_type)
            facts["dtype"] = str(self._steps.llm.model_config.dtype).removeprefix("torch.")
        return facts

    def encode(self, prompt: Prompt | tuple[int, ...]) -> list[int]:
        """See `TokenEngine.encode`."""
        if isinstance(prompt, Prompt):
            return self.model.encode(
                prompt.content, raw=prompt.raw, template_kwargs=prompt.template_kwargs, tools=prompt.tools
            )
        return list(prompt)

    # --- what it does ---

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
        """See `Engine.generate`. Rows with an adapter read their prompts through it, whatever `read` says. Safe for
        many threads, whose rows share the steps."""
        if keep_prefixes or without_replacement or not (row_state is NO_ROW_STATE or type(row_state) is AdapterRows):
            raise InputError("vLLM gives no kept prefixes, draws without replacement or other row states.", OWN_LOOP)
        prompts = self._encoded(sequences)
        adapters = row_state if isinstance(row_state, AdapterRows) else None
        began = time.perf_counter()
        at_work = RowsAtWork(self.model, sequences, top_logprobs, on_step)
        with self._running(adapters.rank if adapters is not None else self._own_rank) as steps:
            loras = [self._lora(folder, adapters) for folder in self._folders(adapters, len(sequences))]
            params = [self._params(s, top_logprobs) for s in sequences]
            inputs = [{"prompt_token_ids": ids} for ids in prompts]
            at_work.follow(steps, list(zip(inputs, params, loras, strict=True)))
            dtype = str(steps.llm.model_config.dtype).removeprefix("torch.")
        drawn = sum(len(output.token_ids) for output in at_work.outputs)
        return Generation(
            at_work.outputs,
            path="vllm",
            weights=dtype,
            seconds=time.perf_counter() - began,
            interrupted=at_work.interrupted,
            computed=sum(map(len, prompts)) - at_work.cached + drawn,
            extra={"cached_tokens": at_work.cached, **self._adapter_facts(loras)},
        )

    def cancel(self) -> None:
        """End what is at work; those who wait for it get an error."""
        if self._steps is not None:
            self._steps.cancel(InputError("It was cancelled.", "Ask again."))

    def close(self) -> None:
        """Give vLLM's memory back. The next `generate` loads it anew."""
        with self._free:
            self._close()

    def _encoded(self, sequences: Sequence[SequenceRequest]) -> list[list[int]]:
        """The prompts' tokens, equal ones encoded once. Raises `InputError` for what cannot be continued."""
        if not sequences:
            raise InputError("Nothing to decode: no sequence.", "Pass at least one (n=1).")
        known: dict[Any, list[int]] = {}
        out = []
        for sequence in sequences:
            key = sequence.prompt if isinstance(sequence.prompt, tuple) else id(sequence.prompt)
            if key not in known:
                known[key] = self.encode(sequence.prompt)
            self._check(sequence, known[key])
            out.append(known[key])
        return out

    def _check(self, sequence: SequenceRequest, ids: Sequence[int]) -> None:
        for name, value, off in (
            ("top_nsigma", sequence.sampling.top_nsigma, 0),
            ("offset", sequence.offset, None),
            ("prefix", sequence.prefix, None),
            ("drawn (its seeds begin at the beginning)", sequence.drawn, 0),
        ):
            if value != off:
                raise InputError(f"vLLM takes no {name}.", OWN_LOOP)
        if sequence.max_new_tokens < 1:
            raise InputError("A token budget is below 1.", "Pass max_new_tokens=1 or more.")
        if not ids:
            raise InputError("The prompt is empty.", 'Type a prompt: thoughtmix think "Name a fruit."')
        limits = [self.model.context_length, self.options.get("max_model_len")]
        limit = min((int(one) for one in limits if isinstance(one, int) and one > 0), default=None)
        if limit is not None and len(ids) + sequence.max_new_tokens > limit:
            raise InputError(
                f"The prompt has {len(ids)} tokens; with {sequence.max_new_tokens} new ones that is over the model's "
                f"{limit}.",
                "Shorten it, or ask for fewer (--max-new-tokens).",
            )

    def _params(self, sequence: SequenceRequest, top_logprobs: int) -> Any:
        """How a row draws, as vLLM has it. Where it ends is ours to say but for end tokens, which are the same."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        p = sequence.sampling
        return SamplingParams(
            temperature=p.temperature,
            top_k=p.top_k,
            top_p=p.top_p,
            min_p=p.min_p,
            seed=sequence.seed % 2**63,
            max_tokens=sequence.max_new_tokens,
            ignore_eos=True,
            stop_token_ids=sorted(end_ids(self.model, sequence)),
            logprobs=top_logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=None if sequence.grammar is None else _structured(sequence.grammar),
        )

    # --- adapters ---

    @cached_property
    def _own_adapter(self) -> Path | None:
        """Of every row, where the model is named by a LoRA adapter. Raises `InputError`."""
        return _plain_lora(self.bare)

    @property
    def _own_rank(self) -> int:
        return 0 if self._own_adapter is None else lora_rank(self._own_adapter)

    def _folders(self, adapters: AdapterRows | None, count: int) -> list[Path | None]:
        return [self._own_adapter] * count if adapters is None else list(adapters.folders)

    def _lora(self, folder: Path | None, adapters: AdapterRows | None) -> Any:
        """vLLM's request for an adapter. Its CPU build gives rows without one whatever is in its last slot
        (vllm-project/vllm#48421), so that there they get one that changes nothing, once any was loaded."""
        if adapters is not None:
            self._neutral = adapters.neutral
        if folder is None and self._rank and on_cpu():
            folder = self._neutral
        if folder is None:
            return None
        number = self._numbers.setdefault(folder, len(self._numbers) + 1)
        from vllm.lora.request import LoRARequest

        return LoRARequest(f"{folder.parent.name}-{folder.name}", number, str(folder))

    def _adapter_facts(self, loras: Sequence[Any]) -> dict[str, Any]:
        different = {lora.lora_int_id for lora in loras if lora is not None}
        return {"adapters": len(different)} if different else {}

    # --- loading ---

    @contextmanager
    def _running(self, rank: int) -> Iterator[StepThread]:
        """vLLM with the model, and with room for adapters of that rank (0: none are needed)."""
        with self._free:
            while self._steps is not None and rank > self._rank and self._at_work:
                self._free.wait(0.2)
            if rank > self._rank:
                self._close()
            if self._steps is None:
                self._steps, self._rank = self._load(rank), rank
            self._at_work += 1
            steps = self._steps
        try:
            yield steps
        finally:
            with self._free:
                self._at_work -= 1
                self._free.notify_all()

    def _close(self) -> None:
        if self._steps is not None:
            self._steps.close()
            self._steps, self._rank = None, 0
            free_memory()

    def _load(self, rank: int) -> StepThread:
        """Raises `ModelError`, `UnknownName`."""
        self._tell(f"{self.name}: loading it into vLLM" + (", with adapters" if rank else ""))
        return load(self.bare.source, self.name, self.options, rank)


def lora_rank(folder: Path) -> int:
    """Of an adapter's folder. Raises `ModelError`."""
    from thoughtmix.models.adapter import adapter_config

    config = adapter_config(folder)
    return max([int(config.get("r") or 0), *map(int, (config.get("rank_pattern") or {}).values())])


def _plain_lora(bare: BareModel) -> Path | None:
    """The adapter that was named, where it is a LoRA: then every row has it. Raises `InputError` for what vLLM cannot
    put on a model."""
    from thoughtmix.models.adapter import adapter_config

    if bare.adapter is None:
        return None
    kind = adapter_config(bare.adapter).get("peft_type")
    if kind not in {"LORA", "MOT"}:
        raise InputError(f"vLLM serves LoRA adapters and grafts, and {bare.adapter.name} is a {kind}.", OWN_LOOP)
    return bare.adapter.resolve() if kind == "LORA" else None


def _structured(grammar: Grammar) -> Any:
    """As vLLM's llguidance backend takes it, to mean what it means in our own loop."""
    from vllm.sampling_params import StructuredOutputsParams as params

    if grammar.kind == "regex":
        return params(regex=grammar.text)
    if grammar.kind == "lark":
        return params(grammar=grammar.text)
    schema = closed(json.loads(grammar.text))
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": {"whitespace_pattern": SPACES, "lenient": False}}
    return params(json=json.dumps(schema))
