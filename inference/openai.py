"""The bodies of the OpenAI API, as far as this engine has them: what is checked here is honoured.

Runs in the inference process. An option that is unknown or not supported is refused by its name; one that is given
with the value that leaves everything as it is (null, an empty list of tools) is as good as not given.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from inference.engine.base import SamplingParameters

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


class ChatMessage(Body):
    """One turn. The fields below `content` are those that clients send back with an answer: they must be empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    def plain(self) -> dict[str, str]:
        """The turn as chat templates know it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


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
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @field_validator("response_format")
    @classmethod
    def is_text(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        """Only plain text can be promised so far."""
        if value is not None and value != {"type": "text"}:
            raise PydanticCustomError("unsupported", 'response_format supports only {"type": "text"}')
        return value

    @model_validator(mode="after")
    def limits_agree(self) -> Self:
        """Two names for one limit, and log-probabilities that are asked for twice."""
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise PydanticCustomError("max_tokens", "max_tokens and max_completion_tokens differ: give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs is only allowed when logprobs is true")
        return self

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
