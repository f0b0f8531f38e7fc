"""A stand-in for vLLM with the signatures that our engine calls; it writes tokens by a rule. For how arguments are mapped
and what is refused, and for nothing else: what vLLM really does, tests/test_vllm_laws.py sees (`make vllm`).

`test_vllm_laws.py` compares these signatures with those of the real package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class StructuredOutputsParams:
    json: Any = None
    regex: str | None = None
    grammar: str | None = None


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 16
    ignore_eos: bool = False
    stop_token_ids: list[int] | None = None
    logprobs: int | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    structured_outputs: StructuredOutputsParams | None = None


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""


@dataclass
class EngineArgs:
    model: str = ""
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    quantization: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    block_size: int | None = None
    enforce_eager: bool = False
    enable_prefix_caching: bool | None = None
    generation_config: str = "auto"
    structured_outputs_config: Any = None
    use_tqdm_on_load: bool = True
    disable_log_stats: bool = False
    enable_lora: bool = False
    max_lora_rank: int = 16
    max_loras: int = 1
    max_cpu_loras: int | None = None


Rule = Callable[[list[int], SamplingParams, int], int]
"""(prompt, parameters, how many tokens there are) -> the next token."""


@dataclass
class Request:
    prompt: list[int]
    params: SamplingParams
    lora: LoRARequest | None
    tokens: list[int] = field(default_factory=list)


class Engine:
    """`LLM.llm_engine`. `asked` keeps every request, `aborted` the names of those that were ended from outside."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.at_work = rule, dict[str, Request]()
        self.asked: list[Request] = []
        self.aborted: list[str] = []
        self.most = 0  # rows of a step
        self.engine_core = SimpleNamespace(shutdown=lambda: None)

    def add_request(
        self, request_id: str, prompt: Any, params: SamplingParams, *, lora_request: LoRARequest | None = None
    ) -> str:
        if params.max_tokens == 666:
            raise ValueError("The number is not lucky.\nAnd more of it.")
        self.at_work[request_id] = Request(list(prompt["prompt_token_ids"]), params, lora_request)
        self.asked.append(self.at_work[request_id])
        return request_id

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids
        for name in request_ids:
            self.at_work.pop(name, None)

    def has_unfinished_requests(self) -> bool:
        return bool(self.at_work)

    def step(self) -> list[Any]:
        self.most = max(self.most, len(self.at_work))
        return [self._one(name) for name in list(self.at_work)]

    def _one(self, name: str) -> Any:
        request = self.at_work[name]
        token = self.rule(request.prompt, request.params, len(request.tokens))
        if token == 999:
            raise RuntimeError("The device is on fire.")
        request.tokens.append(token)
        ended = token in (request.params.stop_token_ids or [])
        finish = "stop" if ended else "length" if len(request.tokens) == request.params.max_tokens else None
        if finish:
            del self.at_work[name]
        known = {token: SimpleNamespace(logprob=-0.5, rank=2), 3: SimpleNamespace(logprob=-0.25, rank=1)}
        piece = SimpleNamespace(token_ids=[token], logprobs=[known], finish_reason=finish)
        return SimpleNamespace(request_id=name, finished=finish is not None, num_cached_tokens=1, outputs=[piece])


def words(prompt: list[int], params: SamplingParams, at: int) -> int:
    """A word that depends on the prompt, the seed and the place."""
    return 3 + (sum(prompt) + 7 * (params.seed or 0) + 5 * at) % 150


class Loaded:
    """What was loaded: the arguments and the engines, the last one last. `rule` is that of engines to come."""

    def __init__(self) -> None:
        self.arguments: list[dict[str, Any]] = []
        self.engines: list[Engine] = []
        self.rule: Rule = words

    def __call__(self, **arguments: Any) -> Any:
        if arguments.get("quantization") == "none-such":
            raise ValueError("Unknown quantization method: none-such.")
        torch.manual_seed(5)  # as the real one does
        EngineArgs(**arguments)
        self.arguments.append(arguments)
        self.engines.append(Engine(lambda *a: self.rule(*a)))
        return SimpleNamespace(llm_engine=self.engines[-1], model_config=SimpleNamespace(dtype=torch.float32))


def put(monkeypatch: pytest.MonkeyPatch, on_cpu: bool = True) -> Loaded:
    """In place of the real package, or of none."""
    loaded = Loaded()

    def module(name: str, **what: Any) -> ModuleType:
        made = ModuleType(name)
        made.__spec__ = ModuleSpec(name, None, origin=__file__)
        made.__dict__.update(what)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    platform = SimpleNamespace(is_cpu=lambda: on_cpu, device_type="cpu" if on_cpu else "cuda")
    params = module(
        "vllm.sampling_params",
        RequestOutputKind=RequestOutputKind,
        StructuredOutputsParams=StructuredOutputsParams,
        SamplingParams=SamplingParams,
    )
    platforms = module("vllm.platforms", current_platform=platform)
    lora = module("vllm.lora.request", LoRARequest=LoRARequest)
    distributed = module("vllm.distributed", cleanup_dist_env_and_memory=lambda: None)
    module("vllm.lora", request=lora)
    module(
        "vllm",
        __version__="0.0.fake",
        LLM=loaded,
        EngineArgs=EngineArgs,
        SamplingParams=SamplingParams,
        sampling_params=params,
        platforms=platforms,
        distributed=distributed,
    )
    return loaded
