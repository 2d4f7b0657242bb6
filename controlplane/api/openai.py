"""The OpenAI surface, mounted at /v1 and /api/v1: checks the key, passes the request to an engine, streams its answer.

Runs in the web process. What an option may be is the engine's to judge: it knows what it can do, and refuses the rest
by name.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from ninja import Router, Schema

from controlplane.api.keys import ActorRequest
from controlplane.errors import FieldFault, InvalidInputError, NotFoundError
from controlplane.models import LanguageModel
from controlplane.models.access import Role
from controlplane.models.language_models import ModelState
from controlplane.services import gateway, models

router = Router(tags=["Inference (OpenAI)"])
OWNER = "pilothouse"


class OpenAIModel(Schema):
    """A model in OpenAI's form; `created` in Unix seconds."""

    id: str
    object: str
    created: int
    owned_by: str


class OpenAIModelList(Schema):
    """The models that are ready, the active one first."""

    object: str
    data: list[OpenAIModel]


def _body(required: str, described: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI description of a request; the options are OpenAI's own."""
    common = {
        "model": {"type": "string", "description": "A model that is served; the active one where none is named."},
        "stream": {"type": "boolean", "default": False}, "stream_options": {"type": "object"},
        "max_tokens": {"type": "integer", "minimum": 1}, "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number"}, "stop": {"anyOf": [{"type": "string"}, {"type": "array"}]},
        "seed": {"type": "integer"}, "n": {"type": "integer", "minimum": 1},
        "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    }  # fmt: skip
    schema = {"type": "object", "required": [required], "properties": {required: described, **common}}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {200: {"description": "OpenAI's own form; with `stream` server-sent events."}},
    }


CHAT_BODY = _body("messages", {"type": "array", "items": {"type": "object"}, "minItems": 1})
COMPLETION_BODY = _body("prompt", {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})


@router.post("/chat/completions", openapi_extra=CHAT_BODY)
async def chat_completions(request: ActorRequest) -> HttpResponseBase:
    """Answers a conversation, whole or as a stream."""
    return await _forward(request, "/v1/chat/completions")


@router.post("/completions", openapi_extra=COMPLETION_BODY)
async def completions(request: ActorRequest) -> HttpResponseBase:
    """Continues a text, whole or as a stream."""
    return await _forward(request, "/v1/completions")


@router.get("/models", response=OpenAIModelList)
def list_models(request: ActorRequest) -> dict[str, Any]:
    """The models that are ready, the active one first."""
    return {"object": "list", "data": [_openai_model(model) for model in models.list_ready()]}


@router.get("/models/{path:model_id}", response=OpenAIModel)
def get_model(request: ActorRequest, model_id: str) -> dict[str, Any]:
    """One model that is ready."""
    model = models.get(model_id)
    if model.state != ModelState.READY:
        raise NotFoundError(f"The model {model_id!r} is {model.state}, not ready.")
    return _openai_model(model)


def _openai_model(model: LanguageModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": int(model.created_at.timestamp()), "owned_by": OWNER}


async def _forward(request: ActorRequest, path: str) -> HttpResponseBase:
    request.actor.require(Role.USE)
    reply = await gateway.forward(path, _parsed(request))
    response: HttpResponseBase
    if reply.chunks is not None:
        response = StreamingHttpResponse(_closing(reply.chunks), content_type=reply.content_type)
        response["Cache-Control"] = "no-cache"
        response["X-Accel-Buffering"] = "no"  # a proxy that buffers would hold the tokens back
    else:
        response = HttpResponse(reply.content, status=reply.status_code, content_type=reply.content_type)
    for name, value in reply.headers.items():
        response[name] = value
    return response


async def _closing(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks; whatever ends the response (a client that goes away, too) closes the engine's stream."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


def _parsed(request: HttpRequest) -> dict[str, Any]:
    """The body as an object. Raises InvalidInputError for anything else."""
    try:
        body = json.loads(request.body)
    except ValueError as error:
        raise InvalidInputError(f"The body can't be read as JSON: {error}.") from error
    if not isinstance(body, dict):
        raise InvalidInputError("The body must be a JSON object.")
    for name, kind, word in (("model", str, "a string"), ("stream", bool, "true or false")):
        if body.get(name) is not None and not isinstance(body[name], kind):
            raise InvalidInputError(f"{name} must be {word}.", (FieldFault(name, word),))
    return body
