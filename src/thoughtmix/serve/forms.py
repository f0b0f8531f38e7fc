"""What requests say of the form of an answer: response formats, tools, and calls that are sent back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import parse_json, require_whole_characters
from thoughtmix.core.grammar import Grammar

MOST_TOOLS = 128
Name = Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,64}$")]
Schema = dict[str, JsonValue]
Choice = Literal["none", "auto", "required"]


class Body(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, given: Any) -> Any:
        require_whole_characters(given)
        if isinstance(given, dict):
            return {name: value for name, value in given.items() if value is not None or name not in cls.model_fields}
        return given


class Strict(Body):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


# --- formats ---


class TextFormat(Strict):
    type: Literal["text"] = "text"


class JsonObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Strict):
    name: str = Field(max_length=64)
    description: str | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = Field(None, description="Every answer is held to the schema, whatever this says.")


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class ResponseJsonSchemaFormat(NamedSchema):
    """The same, as /v1/responses has it."""

    type: Literal["json_schema"]


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
ResponseTextFormat = Annotated[TextFormat | JsonObjectFormat | ResponseJsonSchemaFormat, Field(discriminator="type")]


class StructuredOutputs(Strict):
    """As vLLM has it."""

    json_: Schema | str | None = Field(None, alias="json")
    regex: str | None = Field(None, max_length=10_000)


def form_of(
    format: TextFormat | JsonObjectFormat | JsonSchemaFormat | ResponseJsonSchemaFormat | None,
    structured: StructuredOutputs | None,
) -> Grammar | None:
    """What an answer is held to. Raises `InputError`."""
    asked: list[Any] = []
    if isinstance(format, JsonObjectFormat):
        asked.append({"type": "object"})
    elif isinstance(format, JsonSchemaFormat):
        asked.append(format.json_schema.schema_)
    elif isinstance(format, ResponseJsonSchemaFormat):
        asked.append(format.schema_)
    regex = None if structured is None else structured.regex
    if structured is not None and structured.json_ is not None:
        asked.append(structured.json_)
    if len(asked) > 1:
        raise InputError("Two forms of an answer were asked for.", "Send response_format or structured_outputs.")
    return Grammar.given(asked[0] if asked else None, regex)


# --- tools ---


class Function(Strict):
    name: Name
    description: str | None = None
    parameters: Schema = Field(default_factory=dict)
    strict: bool | None = Field(None, description="Every call is held to the parameters, whatever this says.")


class Tool(Strict):
    type: Literal["function"]
    function: Function


class ResponseTool(Function):
    """The same, as /v1/responses has it."""

    type: Literal["function"]


class NamedFunction(Strict):
    name: Name


class NamedTool(Strict):
    """This function is to be called."""

    type: Literal["function"]
    function: NamedFunction


class NamedResponseTool(NamedFunction):
    type: Literal["function"]


class CalledFunction(Strict):
    name: Name
    arguments: str = "{}"


class Call(Strict):
    """That an assistant made, sent back."""

    id: str = Field(max_length=128)
    type: Literal["function"] = "function"
    index: int | None = None
    function: CalledFunction

    def message(self) -> dict[str, Any]:
        """As chat templates take it. Raises `InputError`."""
        name = self.function.name
        try:
            arguments = parse_json(self.function.arguments or "{}")
        except ValueError as error:
            raise InputError(
                f"The arguments of {name} are no JSON: {error}.", "Leave out a call that was cut."
            ) from None
        if not isinstance(arguments, dict):
            raise InputError(f"The arguments of {name} are no object.", "Send them as they came.")
        return {"id": self.id, "type": "function", "function": {"name": name, "arguments": arguments}}
