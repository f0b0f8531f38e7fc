"""What /v1/responses takes and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, JsonValue, StringConstraints, Tag, field_validator

from thoughtmix.core.errors import InputError
from thoughtmix.serve.forms import (
    MOST_TOOLS,
    Call,
    CalledFunction,
    Choice,
    Name,
    NamedResponseTool,
    ResponseTextFormat,
    ResponseTool,
    Strict,
)
from thoughtmix.serve.schemas import Nothing, SetFacts, TemplateKwargs, ThoughtFacts, ThoughtRequest


class Part(Strict):
    type: Literal["input_text", "output_text", "text"]
    text: str
    # What an answer's part brings back.
    annotations: Nothing | None = None
    logprobs: list[JsonValue] | None = None


class Item(Strict):
    """A message. Reasoning and references to stored items are refused by their type."""

    type: Literal["message"] = "message"
    role: Literal["system", "user", "assistant", "developer"]
    content: str | list[Part]
    # What an answer's item brings back.
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    thoughtmix: ThoughtFacts | None = None

    @property
    def text(self) -> str:
        """The content in one piece."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class CallItem(Strict):
    """A call that an answer made."""

    type: Literal["function_call"]
    call_id: str = Field(max_length=128)
    name: Name
    arguments: str = "{}"
    id: str | None = None
    status: str | None = None
    thoughtmix: ThoughtFacts | None = None


class CallOutputItem(Strict):
    """Its result."""

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=128)
    output: str | list[Part]
    id: str | None = None
    status: str | None = None

    @property
    def text(self) -> str:
        """The output in one piece."""
        return self.output if isinstance(self.output, str) else "".join(part.text for part in self.output)


def _kind(given: Any) -> str:
    """Which of the items something is; a message unless it says otherwise."""
    kind = given.get("type") if isinstance(given, dict) else getattr(given, "type", None)
    return f"-{kind}" if kind in {"function_call", "function_call_output"} else "-message"


AnyItem = Annotated[
    Annotated[Item, Tag("-message")]
    | Annotated[CallItem, Tag("-function_call")]
    | Annotated[CallOutputItem, Tag("-function_call_output")],
    Discriminator(_kind),
]
"""Tags begin with a sign that no field has: errors leave them out."""


def messages_of(items: Sequence[Item | CallItem | CallOutputItem]) -> list[dict[str, Any]]:
    """As chat templates take them: calls in a row are one message's. Raises `InputError`."""
    out: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, Item):
            out.append({"role": item.role, "content": item.text})
        elif isinstance(item, CallOutputItem):
            out.append({"role": "tool", "content": item.text, "tool_call_id": item.call_id})
        else:
            call = Call(id=item.call_id, function=CalledFunction(name=item.name, arguments=item.arguments)).message()
            if not out or out[-1]["role"] != "assistant":
                out.append({"role": "assistant", "content": ""})
            out[-1].setdefault("tool_calls", []).append(call)
    if not out:
        raise InputError("The input is empty.", "Send a message.")
    return out


class Reasoning(Strict):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextOptions(Strict):
    format: ResponseTextFormat | None = None
    verbosity: str | None = None


class ResponseStreamOptions(Strict):
    include_obfuscation: bool | None = None  # padding against who counts bytes on the way; there is none


class ResponseRequest(ThoughtRequest):
    input: Annotated[str, StringConstraints(min_length=1)] | Annotated[list[AnyItem], Field(min_length=1)]
    instructions: str | None = Field(None, description="A system message before the input.")
    max_output_tokens: int | None = Field(None, ge=1, description="Of a thought. Left out: up to the context's end.")
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = Field(
        None, description="Log-probabilities; there is no reasoning to include."
    )
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream_options: ResponseStreamOptions | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    tools: list[ResponseTool] | None = Field(None, max_length=MOST_TOOLS)
    tool_choice: Choice | NamedResponseTool | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None

    @field_validator("previous_response_id", "conversation", mode="before")
    @classmethod
    def _nothing_is_stored(cls, given: Any) -> Any:
        if given is not None:
            raise ValueError("nothing is stored here. Send the whole conversation as input")
        return given


# --- answers ---


class OutputText(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any]
    logprobs: list[dict[str, Any]]


class OutputMessage(BaseModel):
    """A thought."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]
    thoughtmix: ThoughtFacts


class OutputCall(BaseModel):
    """A call in a thought."""

    id: str
    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"]
    thoughtmix: ThoughtFacts


class InputDetails(BaseModel):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"]


class ResponseAnswer(BaseModel):
    """What was asked is said again, as at OpenAI."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    model: str
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, str] | None
    incomplete_details: IncompleteDetails | None
    output: list[OutputMessage | OutputCall]
    usage: ResponseUsage | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    temperature: float | None
    top_p: float | None
    top_logprobs: int
    parallel_tool_calls: bool
    tool_choice: Choice | dict[str, str]
    tools: list[Any]
    text: dict[str, Any]
    reasoning: dict[str, Any]
    truncation: Literal["disabled"]
    previous_response_id: None
    background: Literal[False]
    store: Literal[False]
    user: str | None
    thoughtmix: SetFacts
