"""Options for engines other than our own loop: vLLM, and models elsewhere that write, judge and embed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli.options import COMMON, ELSEWHERE, MEASURING, MODEL, LocalOptions, option
from thoughtmix.cli.reporting import Reporter
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.engine.engine import Engine
    from thoughtmix.models.endpoint import Endpoint
    from thoughtmix.pipeline import Pipeline


JudgeEndpoint = Annotated[
    str | None,
    option(
        "An endpoint that judges each text, URL or @profile; --judge is its model.",
        group=MEASURING,
        default="nobody judges",
        metavar="URL",
    ),
]
Embedder = Annotated[
    str | None,
    option(
        "What embeds: a folder or a Hugging Face id.",
        group=MEASURING,
        default="all-MiniLM-L6-v2, which comes along",
        metavar="NAME",
    ),
]
EmbedEndpoint = Annotated[
    str | None,
    option(
        "An endpoint that embeds, URL or @profile; --embedder is its model.",
        group=MEASURING,
        default="the embedder runs here",
        metavar="URL",
    ),
]


@dataclass(frozen=True, kw_only=True)
class EngineOptions(LocalOptions):
    """Which model, here or elsewhere, and who judges and embeds."""

    endpoint: Annotated[
        str | None,
        option(
            "A chat-completions server writes, http://host:port or @profile; --model is its model there.",
            "-e",
            "--endpoint",
            group=COMMON,
            default="the model runs here",
            metavar="URL",
        ),
    ] = None
    engine: Annotated[
        str | None,
        option(
            "What writes: local (our own loop), endpoint, or vllm in this process.",
            group=MODEL,
            default="as --endpoint says",
            metavar="NAME",
        ),
    ] = None
    engine_option: Annotated[
        list[str] | None,
        option(
            "KEY=VALUE for vLLM itself (tensor_parallel_size=2, quantization=awq); may be repeated.",
            group=MODEL,
            default="none",
            metavar="KEY=VALUE",
        ),
    ] = None
    profile: Annotated[str | None, typer.Option(help="The same as -e @NAME.", hidden=True)] = None
    concurrency: Annotated[int | None, option("Requests in flight at an endpoint.", group=ELSEWHERE, default="4")] = (
        None
    )
    timeout: Annotated[float | None, option("Seconds for one try at an endpoint.", group=ELSEWHERE, default="120")] = (
        None
    )
    retries: Annotated[
        int | None, option("Further tries after a failure of an endpoint.", group=ELSEWHERE, default="5")
    ] = None
    api_key_env: Annotated[
        str | None,
        option(
            "The environment variable with an endpoint's key.",
            group=ELSEWHERE,
            default="THOUGHTMIX_API_KEY; for OpenAI OPENAI_API_KEY",
            metavar="NAME",
        ),
    ] = None
    key_over_http: Annotated[
        bool,
        option(
            "Let a key go over plain http to another machine, where all between can read it.",
            "--key-over-http",
            group=ELSEWHERE,
        ),
    ] = False
    prices: Annotated[
        str | None,
        option(
            "Dollars for a million tokens read, and written: 0.15,0.6. Then the cost is told.",
            group=ELSEWHERE,
            default="unknown",
            metavar="X,X",
        ),
    ] = None
    judge_endpoint: JudgeEndpoint = None
    embedder: Embedder = None
    embed_endpoint: EmbedEndpoint = None
    typed: frozenset[str] | None = None

    def pipeline(self, model: str | None, report: Reporter, stream: bool = False) -> Pipeline:
        """Nothing is loaded or asked yet. stream: pieces of an endpoint's answers are wanted as they come."""
        from thoughtmix.pipeline import Pipeline

        engine = self.elsewhere(model, stream)
        judge: Any = self.judge
        if self.judge_endpoint is not None:
            judge = self.server(self.judge_endpoint, self.judge)
        embedder: Any = self.embedder
        if self.embed_endpoint is not None:
            from thoughtmix.models.embed import EndpointEmbedder

            embedder = EndpointEmbedder(self.server(self.embed_endpoint, self.embedder))
        return Pipeline(
            None if engine else model,
            dtype=self.dtype,
            device=self.device,
            weights=self.weights,  # type: ignore[arg-type]  # checked where it is used
            path=self.path,  # type: ignore[arg-type]
            judge=judge,
            embedder=embedder,
            engine=engine or self.engine,
            engine_options=self._engine_options(),
            on_progress=report.step,
        )

    def _engine_options(self) -> dict[str, Any] | None:
        """Raises `InputError`."""
        if not self.engine_option:
            return None
        from thoughtmix.engine.vllm_loading import parse_options

        return parse_options(self.engine_option)

    def elsewhere(self, model: str | None, stream: bool = False) -> Engine | None:
        """The engine of the endpoint; None without one. Raises `InputError`."""
        if self.profile is not None and self.endpoint is not None and self._typed("endpoint"):
            raise InputError("Both --endpoint and --profile were given.", "Pass one of the two.")
        where = self.where
        if where is None:
            return None
        if self._other_engine:
            raise InputError(f"Both an endpoint and --engine {self.engine} were given.", "Pass one of the two.")
        from thoughtmix.engine.endpoint import EndpointEngine

        named = model if self._typed("model") or not where.startswith("@") else None
        return EndpointEngine(self.server(where, named, stream=stream, logprobs=True))

    def _typed(self, name: str) -> bool:
        return self.typed is None or name in self.typed

    @property
    def _other_engine(self) -> bool:
        return self.engine not in {None, "endpoint"}

    @property
    def where(self) -> str | None:
        """The endpoint that writes: a URL, or @profile. The config file's gives way to an engine that was named."""
        if self._other_engine and not (self._typed("endpoint") or self._typed("profile")):
            return None
        return self.endpoint if self.profile is None else f"@{self.profile.removeprefix('@')}"

    @property
    def gives_text_alone(self) -> bool:
        """Whether its model's weights are not in our own loop: a search then goes by texts."""
        return self.where is not None or self.engine == "vllm"

    def server(self, where: str, model: str | None, **more: Any) -> Endpoint:
        """A key that the call names is for the first of its endpoints alone. Raises `InputError`."""
        from thoughtmix.models.profile import connect

        if self.retries is not None and self.retries < 0:
            raise InputError(f"--retries is {self.retries}.", "Pass 0 or more (--retries 5).")
        first = next(one for one in (self.where, self.judge_endpoint, self.embed_endpoint) if one)
        return connect(
            where,
            model,
            key=None if where == first else "",
            api_key_env=self.api_key_env if where == first else None,
            key_over_http=self.key_over_http if where == first else None,
            prices=self._prices(),
            concurrency=self.concurrency,
            timeout=self.timeout,
            retries=self.retries,
            **more,
        )

    def _prices(self) -> tuple[float, float] | None:
        if self.prices is None:
            return None
        try:
            read, written = (float(part) for part in self.prices.split(","))
        except ValueError:
            hint = "Pass dollars for a million tokens read, and written: --prices 0.15,0.6"
            raise InputError(f"--prices is {self.prices!r}.", hint) from None
        return read, written
