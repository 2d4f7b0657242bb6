"""What the call `generate` takes and answers."""

from typing import Annotated, Literal

from ninja import Field, Schema


class Generate(Schema):
    """A prompt and how to go on from it. Without `model_id` the active model answers."""

    prompt: str = Field(min_length=1)
    model_id: str | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    mode: Literal["normal", "profile"] = "normal"
    wait: bool = False


class Usage(Schema):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Generation(Schema):
    """A generation's job; `text`, `usage` and `finish_reason` are None until it is `done`."""

    job_id: int
    status: str
    model_id: str
    text: str | None
    usage: Usage | None
    finish_reason: str | None
