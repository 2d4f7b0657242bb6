"""The bodies of the OpenAI API, as far as this engine has them: what is checked here is honoured.

Runs in the inference process. An option that is unknown or not supported is refused by its name; one that is given
with the value that leaves everything as it is (null, an empty list of tools) is as good as not given.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from inference.engine.base import SamplingParameters
from inference.engine.constraints import NO_PARAMETERS, Constraint, JsonSchema, Tool, ToolCalls
from inference.engine.schema_limits import MOST_CHARACTERS_OF_TOOLS, fault_of_schema, is_too_deep

DEFAULT_COMPLETION_TOKENS = 16
MOST_STOPS = 16

StopText = Annotated[str, Field(min_length=1)]

NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None,),
    "prediction": (None,),
    "prompt_cache_key": (None,),
    "reasoning_effort": (None,),
    "safety_identifier": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Options of the reference that this engine lacks, with the values under which lacking them makes no difference."""


class Body(BaseModel):
    """Strict: a number in quotes is a mistake, an unknown name too."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def drop_neutral(cls, value: Any) -> Any:
        """Leaves out options that this engine lacks but that are given as if they weren't."""
        if not isinstance(value, dict):
            return value
        return {
            name: item
            for name, item in value.items()
            if name in cls.model_fields or name not in NEUTRAL_VALUES or item not in NEUTRAL_VALUES[name]
        }


class TextPart(Body):
    type: Literal["text"]
    text: str


class CalledFunction(Body):
    name: str
    arguments: str

    @field_validator("arguments")
    @classmethod
    def is_an_object(cls, value: str) -> str:
        """Chat templates want the arguments as an object."""
        try:
            arguments = json.loads(value)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict) or is_too_deep(arguments):
            raise PydanticCustomError("arguments", "The arguments of a call must be a JSON object, as text")
        return value


class MadeCall(Body):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"]
    function: CalledFunction

    def plain(self) -> dict[str, Any]:
        """The call as chat templates know it."""
        function = {"name": self.function.name, "arguments": json.loads(self.function.arguments)}
        return {"id": self.id, "type": self.type, "function": function}


class ChatMessage(Body):
    """One turn. `refusal` to `function_call` are what clients send back with an answer: they must be empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[MadeCall] | None = None
    tool_call_id: str | None = Field(default=None, validate_default=True)
    content: str | Annotated[list[TextPart], Field(min_length=1)] | None = Field(default=None, validate_default=True)
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None

    @field_validator("tool_calls")
    @classmethod
    def calls_are_the_assistants(cls, value: list[MadeCall] | None, info: ValidationInfo) -> list[MadeCall] | None:
        """Nobody else calls tools."""
        if value and info.data.get("role") != "assistant":
            raise PydanticCustomError("tool_calls", "Only an assistant's turn has tool_calls")
        return value

    @field_validator("tool_call_id")
    @classmethod
    def answers_a_call(cls, value: str | None, info: ValidationInfo) -> str | None:
        """A tool's answer says which call it answers."""
        if "role" in info.data and (value is None) == (info.data["role"] == "tool"):
            raise PydanticCustomError("tool_call_id", "A turn has a tool_call_id if its role is tool, and only then")
        return value

    @field_validator("content")
    @classmethod
    def says_something(cls, value: str | list[TextPart] | None, info: ValidationInfo) -> str | list[TextPart] | None:
        """Only a turn that calls tools may go without words."""
        if value is None and not info.data.get("tool_calls"):
            raise PydanticCustomError("missing", "Field required")
        return value

    @property
    def characters(self) -> int:
        """How much was said and called."""
        parts = self.content or ""
        said = len(parts) if isinstance(parts, str) else sum(len(part.text) for part in parts)
        return said + sum(len(call.function.arguments) for call in self.tool_calls or ())

    def plain(self) -> dict[str, Any]:
        """The turn as chat templates know it."""
        said = self.content or ""
        content = said if isinstance(said, str) else "".join(part.text for part in said)
        turn: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": content}
        if self.tool_calls:
            turn["tool_calls"] = [call.plain() for call in self.tool_calls]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        return turn


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    if fault := fault_of_schema(schema):
        raise PydanticCustomError("schema", f"The schema {fault}: ask for a simpler form")
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(_bounded)]


class JsonSchemaFormat(Body):
    """`strict` makes no difference: a schema is always kept to."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = Field(default=None, validate_default=True)

    @field_validator("json_schema")
    @classmethod
    def schema_is_where_it_belongs(cls, value: JsonSchemaFormat | None, info: ValidationInfo) -> Any:
        """`json_schema` comes with its own type."""
        if "type" in info.data and (value is None) == (info.data["type"] == "json_schema"):
            raise PydanticCustomError("json_schema", "json_schema is given with the type json_schema, and only then")
        return value

    @property
    def schema_asked(self) -> JsonSchema | None:
        """What an answer is held to."""
        if self.json_schema is not None:
            return JsonSchema(json.dumps(self.json_schema.schema_), "response_format.json_schema.schema")
        return JsonSchema('{"type": "object"}') if self.type == "json_object" else None


class Function(Body):
    """`strict` makes no difference: a schema is always kept to."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class FunctionTool(Body):
    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: FunctionName


class StreamOptions(Body):
    include_usage: bool = False


class SamplingBody(Body):
    """What both ways of asking have in common. `top_k`, `min_p`, `repetition_penalty` and `apply_profile` extend the
    reference; `user` has no effect on the answer there either."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None
    apply_profile: bool = True

    @field_validator("logit_bias")
    @classmethod
    def names_tokens(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        """The keys are token ids."""
        if value and not all(key.isascii() and key.isdecimal() for key in value):
            raise PydanticCustomError("logit_bias", "The keys of logit_bias must be token ids")
        return value

    @model_validator(mode="after")
    def options_belong_together(self) -> Self:
        """`stream_options` says how to stream, so it means nothing without `stream`."""
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options is only allowed when stream is true")
        return self

    @property
    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, defaults: dict[str, float]) -> SamplingParameters:
        """The sampling that is asked for; `defaults` (the model's own) fill in what is not said."""
        given = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
        chosen = {**defaults, **{name: value for name, value in given.items() if value is not None}}
        return SamplingParameters(
            temperature=float(chosen.get("temperature", 1.0)),
            top_p=float(chosen.get("top_p", 1.0)),
            top_k=max(0, int(chosen.get("top_k", 0))),  # -1 is another way to say "off"
            min_p=float(chosen.get("min_p", 0.0)),
            repetition_penalty=float(chosen.get("repetition_penalty", 1.0)),
            seed=self.seed,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
        )


class ChatCompletionBody(SamplingBody):
    """POST /v1/chat/completions. `chat_template_kwargs` extends the reference: switches of the model's own template,
    such as `enable_thinking`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def limits_agree(self) -> Self:
        """Two names for one limit, and log-probabilities that are asked for twice."""
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise PydanticCustomError("max_tokens", "max_tokens and max_completion_tokens differ: give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs is only allowed when logprobs is true")
        return self

    @model_validator(mode="after")
    def tools_agree(self) -> Self:
        """What may be called must be there, once."""
        names = [tool.function.name for tool in self.tools or ()]
        if len(names) != len(set(names)):
            raise PydanticCustomError("tools", "Two of the tools have the same name")
        if sum(len(str(tool.function.parameters)) for tool in self.tools or ()) > MOST_CHARACTERS_OF_TOOLS:
            raise PydanticCustomError(
                "tools", f"The tools' schemas have more than {MOST_CHARACTERS_OF_TOOLS} characters: offer fewer tools"
            )
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise PydanticCustomError("tool_choice", "tool_choice names a tool that is none of tools")
        if self.tool_choice == "required" and not names:
            raise PydanticCustomError("tool_choice", "tool_choice is required, and there are no tools")
        return self

    @property
    def characters(self) -> int:
        """How much there is to write into the prompt: what was said and called, and the tools."""
        said = sum(message.characters for message in self.messages)
        return said + sum(len(str(tool)) for tool in self.tools_offered)

    @property
    def tools_offered(self) -> list[dict[str, Any]]:
        """The tools that the model is told of."""
        offered = () if self.tool_choice == "none" else self.tools or ()
        return [tool.model_dump(exclude_none=True) for tool in offered]

    @property
    def constraint(self) -> Constraint | None:
        """What the answer is held to."""
        schema = self.response_format.schema_asked if self.response_format else None
        if not self.tools_offered:
            return schema
        named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        tools = []
        for position, tool in enumerate(self.tools or ()):
            if named in (None, tool.function.name):
                text = json.dumps(NO_PARAMETERS if tool.function.parameters is None else tool.function.parameters)
                parameters = JsonSchema(text, f"tools.{position}.function.parameters")
                tools.append(Tool(tool.function.name, parameters))
        must_call = named is not None or self.tool_choice == "required"
        may_repeat = named is None and self.parallel_tool_calls is not False
        return ToolCalls(tuple(tools), must_call, may_repeat, otherwise=schema)

    @property
    def tokens_limit(self) -> int | None:
        return self.max_tokens or self.max_completion_tokens

    @property
    def asked_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=128)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def tokens_limit(self) -> int:
        return self.max_tokens or DEFAULT_COMPLETION_TOKENS

    @property
    def asked_logprobs(self) -> int | None:
        return self.logprobs
