"""What /v1/responses takes and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue, StringConstraints, field_validator

from thoughtmix.serve.schemas import Nothing, SetFacts, Strict, TemplateKwargs, TextFormat, ThoughtFacts, ThoughtRequest


class Part(Strict):
    type: Literal["input_text", "output_text", "text"]
    text: str
    # What an answer's part brings back.
    annotations: Nothing | None = None
    logprobs: list[JsonValue] | None = None


class Item(Strict):
    """A message. Calls of tools, reasoning and references to stored items are refused by their type."""

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


class Reasoning(Strict):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextOptions(Strict):
    format: TextFormat | None = None
    verbosity: str | None = None


class ResponseStreamOptions(Strict):
    include_obfuscation: bool | None = None  # padding against who counts bytes on the way; there is none


class ResponseRequest(ThoughtRequest):
    input: Annotated[str, StringConstraints(min_length=1)] | Annotated[list[Item], Field(min_length=1)]
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
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
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
    output: list[OutputMessage]
    usage: ResponseUsage | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    temperature: float | None
    top_p: float | None
    top_logprobs: int
    parallel_tool_calls: bool
    tool_choice: Literal["none", "auto"]
    tools: list[Any]
    text: dict[str, Any]
    reasoning: dict[str, Any]
    truncation: Literal["disabled"]
    previous_response_id: None
    background: Literal[False]
    store: Literal[False]
    user: str | None
    thoughtmix: SetFacts
