"""What is sent and answered, as the OpenAPI document says it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue, StringConstraints, model_validator

from thoughtmix.core.request import MOST_DRAWN
from thoughtmix.core.selection import QUALITY_FLOOR, Reason
from thoughtmix.core.types import FinishReason
from thoughtmix.serve.forms import (
    MOST_TOOLS,
    Call,
    Choice,
    NamedTool,
    ResponseFormat,
    Strict,
    StructuredOutputs,
    Tool,
)

_FLOOR = "Quantile of likelihood that a selected text must reach: 0 is difference alone, 1 the likeliest."
_LANDING = (
    "In this last share of its tokens a thought ends with its sentence. A stream may have shown more than is left of "
    "it then: its facts say how many characters that is."
)
_DRAWN = (
    "To continue a thought: the last message is the assistant's, its text so far, and this many tokens were drawn for "
    "it. Its seed's stream goes on behind them."
)
Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 2**16)]
Text = Annotated[str, StringConstraints(min_length=1)]


TemplateKwargs = Annotated[
    dict[str, str | bool | int | Number | None],
    Field(description="What the chat template gets beside the messages: enable_thinking, say."),
]
Nothing = Annotated[list[JsonValue], Field(max_length=0)]
"""A list of OpenAI's that may only be empty."""


class TextPart(Strict):
    type: Literal["text"] = "text"
    text: str


class Message(Strict):
    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: str | list[TextPart] = Field("", description="Needed, unless an assistant calls tools.")
    name: str | None = None
    tool_call_id: str | None = Field(None, max_length=128, description="Of the call whose result this is.")
    tool_calls: list[Call] | None = Field(None, max_length=MOST_TOOLS)
    # What clients send back with an answer of ours, or of others that asked for nothing.
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Nothing | None = None

    @model_validator(mode="after")
    def _whole(self) -> Message:
        if "content" not in self.model_fields_set and not self.tool_calls:
            raise ValueError("a message has content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant's message has tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id belongs to a message of role tool, and such a message has one")
        return self

    @property
    def text(self) -> str:
        """The content in one piece."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    def message(self) -> dict[str, Any]:
        """As chat templates take it. Raises `InputError`."""
        more: dict[str, Any] = {} if self.tool_call_id is None else {"tool_call_id": self.tool_call_id}
        if self.tool_calls:
            more["tool_calls"] = [call.message() for call in self.tool_calls]
        return {"role": self.role, "content": self.text, **more}


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool | None = None  # padding against who counts bytes on the way; there is none


class ThoughtRequest(Strict):
    """What every endpoint that makes thoughts takes. Fields of OpenAI's that would change the answer and that this
    server does not compute are taken only where they ask for nothing."""

    model: str | None = Field(None, description="Any name, unless the server is strict; left out: the served model.")
    n: int = Field(1, ge=1, description="How many thoughts; thought i has seed + i.")
    seed: Seed | None = Field(None, description="Left out: drawn, and said with each thought.")
    temperature: Number | None = Field(None, ge=0, le=100)
    top_p: Number | None = Field(None, ge=0, le=1, description="0: the likeliest token alone.")
    top_k: int | None = Field(None, ge=0, le=2**31)
    min_p: Number | None = Field(None, ge=0, le=1)
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool = False
    thinker: str | None = Field(None, description="How to explore; left out: what the model is made for.")
    creativity: Number | None = Field(None, ge=0, le=1000, description="0 is deterministic, 1 the thinker's default.")
    select: int | None = Field(None, ge=1, description="Answer only with the k most different good ones of the n.")
    quality_floor: Number = Field(QUALITY_FLOOR, ge=0, le=1, description=_FLOOR)
    options: dict[str, JsonValue] = Field(default_factory=dict, description="The thinker's own options.")
    landing: Number = Field(0.0, ge=0, le=1, description=_LANDING)
    drawn: int = Field(0, ge=0, le=MOST_DRAWN, description=_DRAWN)
    structured_outputs: StructuredOutputs | None = Field(None, description="A form that every answer has.")
    measure: bool = Field(False, description="Embed the thoughts: distances, scores and metrics of the set.")
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = Field(None, description="Nothing is stored.")
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class GenerationRequest(ThoughtRequest):
    """What chat and text completions take."""

    max_tokens: int | None = Field(None, ge=1, description="Of a thought. Left out: see the endpoint.")
    stream_options: StreamOptions | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, Number], Field(max_length=0)] | None = None


class ChatRequest(GenerationRequest):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(None, max_length=MOST_TOOLS)
    functions: Nothing | None = None
    tool_choice: Choice | NamedTool | None = None
    function_call: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = Field(None, description="For chat templates that know it.")
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None


class CompletionRequest(GenerationRequest):
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=16)]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None


# --- answers ---


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    error: ErrorBody


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ThoughtFacts(BaseModel):
    """Where a thought came from. Its seed alone makes it again."""

    seed: int
    logprob: float
    origin: dict[str, Any]
    scores: dict[str, float]
    finish: FinishReason = Field(
        description="More exactly than finish_reason: sentence, say, where it was made to end."
    )
    tokens: int = Field(description="Of it, those included that only end it.")
    characters: int = Field(description="Of its text.")


class SetFacts(BaseModel):
    """Of all thoughts of the answer together."""

    metrics: dict[str, float | None]
    distances: list[list[float]]
    thinker: str
    run: dict[str, Any]


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] = Field(default_factory=list)


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


Finish = Literal["stop", "length"]


class AnswerFunction(BaseModel):
    name: str
    arguments: str


class AnswerCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: AnswerFunction


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None = Field(description="null where the answer is calls alone.")
    refusal: None = None
    tool_calls: list[AnswerCall] | None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | Literal["tool_calls"]
    thoughtmix: ThoughtFacts


class ChatAnswer(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    thoughtmix: SetFacts


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None = None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Finish
    thoughtmix: ThoughtFacts


class CompletionAnswer(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
    thoughtmix: SetFacts


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "thoughtmix"


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


# --- beside OpenAI ---


class ThinkerInfo(BaseModel):
    name: str
    summary: str
    options: dict[str, str] = Field(description="The options that requests may set -> one line of help.")
    option_schema: dict[str, Any] = Field(
        description="The same as JSON schema: types, bounds, defaults, choices; and what they are for (role)."
    )
    streams: bool = Field(description="Whether its text comes as it is written.")
    continues: bool = Field(description="Whether it goes on with a text that has begun (drawn).")
    creativity_is_temperature: bool = Field(description="Then a request gives one of the two.")


class Info(BaseModel):
    version: str
    model: str
    thinker: str = Field(description="What a request without one gets.")
    suggested: str = Field(description="What a form may begin with, and the command line does.")
    thinkers: list[ThinkerInfo]
    limits: dict[str, float]
    diffusion: bool
    diffusion_model: str = Field(description="What /api/diffuse writes with.")
    languages: list[str]


class MapRequest(Strict):
    texts: list[str] = Field(min_length=1)
    prompt: str | None = Field(None, description="What they answer: then their relevance is told, and the set's.")
    first: int | None = Field(None, ge=1, description="Figures of the first so many alone; left out: of all.")


class SideUsage(BaseModel):
    """Tokens that went through the embedder or the mask predictor, once a pass."""

    total_tokens: int


class Map(BaseModel):
    points: list[Annotated[list[float], Field(min_length=2, max_length=2)]]
    distances: list[list[float]]
    relevance: list[float] | None = Field(description="Of each text to the prompt, if one was given.")
    metrics: dict[str, float] = Field(description="vendi and mean_distance of the first, relevance if it is told.")
    usage: SideUsage


class SelectRequest(Strict):
    texts: list[str] = Field(min_length=1)
    logprobs: list[Number] = Field(default_factory=list, description="Mean log-probability of each; none: all alike.")
    k: int = Field(ge=1)
    quality_floor: Number = Field(QUALITY_FLOOR, ge=0, le=1, description=_FLOOR)


class LeftOutText(BaseModel):
    index: int
    why: Reason = Field(description="quality: below the floor. near: good, but nearer to the picked than those taken.")
    of: int | None = Field(description="Of a copy what it copies; else the nearest of the picked, or null.")


class Selection(BaseModel):
    indices: list[int]
    left_out: list[LeftOutText]
    facts: dict[str, float] = Field(description="Mean distance of the picked and of as many at random, and so on.")
    usage: SideUsage


class DiffuseRequest(Strict):
    prompt: Annotated[str, StringConstraints(max_length=4000)] = ""
    branches: int = Field(4, ge=1, le=16)
    steps: int = Field(64, ge=1, le=256)
    length: int = Field(128, ge=1, le=512)
    seed: Annotated[int, Field(ge=-(2**62), le=2**62)] = 0


class Health(BaseModel):
    status: Literal["ok", "draining"]


# --- of every route ---

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": description}
    for status, description in {
        400: "The request cannot be served as written.",
        401: "The token is missing or wrong.",
        404: "There is no such model.",
        413: "The body is too large.",
        429: "The server is full; Retry-After says when to try again.",
        500: "Something went wrong inside.",
        503: "The server is stopping, or the request was cancelled.",
        504: "The time was up before anything was whole.",
    }.items()
}
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
_EVENTS: dict[str, Any] = {"text/event-stream": {"schema": {**_EVENT, "description": "Chunks, then [DONE]."}}}
STREAM_RESPONSES: dict[int | str, dict[str, Any]] = {200: {"content": _EVENTS, "description": "The thoughts."}}
