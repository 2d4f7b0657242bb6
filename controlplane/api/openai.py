"""The OpenAI surface, mounted at /v1 and /api/v1: checks the key, passes the request to an engine, streams its answer.

Runs in the web process. What an option may be is the engine's to judge: it knows what it can do, and refuses the rest
by name.
"""

import asyncio
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from ninja import Router, Schema

from controlplane.api.json_bodies import read_json
from controlplane.api.keys import ActorRequest
from controlplane.errors import FieldFault, InvalidInputError, UnknownModelError
from controlplane.models import LanguageModel
from controlplane.models.access import Actor, Role
from controlplane.models.language_models import ModelState
from controlplane.services import gateway, key_limits, models
from controlplane.services.gateway import Reply

router = Router(tags=["Inference (OpenAI)"])
OWNER = "pilothouse"
LONG_BODY_BYTES = 1 << 17


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
    """The models that are ready and that the key may use, the active one first."""
    usable = [model for model in models.list_ready() if key_limits.may_use(request.actor, model.name)]
    return {"object": "list", "data": [_openai_model(model) for model in usable]}


@router.get("/models/{path:model_id}", response=OpenAIModel)
def get_model(request: ActorRequest, model_id: str) -> dict[str, Any]:
    """One model that is ready and that the key may use."""
    model = models.get(model_id)
    key_limits.check_model(request.actor, model.name)
    if model.state != ModelState.READY:
        raise UnknownModelError(f"The model {model_id!r} is {model.state}, not ready.")
    return _openai_model(model)


def _openai_model(model: LanguageModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": int(model.created_at.timestamp()), "owned_by": OWNER}


async def _forward(request: ActorRequest, path: str) -> HttpResponseBase:
    request.actor.require(Role.USE)  # before the body is read, which may be too long
    return response_of(await reply_to(request.actor, path, request.body))


async def reply_to(actor: Actor, path: str, raw: bytes) -> Reply:
    """What an engine answers to a body. Raises as `gateway.forward` does, and InvalidInputError."""
    is_long = len(raw) > LONG_BODY_BYTES  # to be read beside the loop, which has others to serve
    body = await asyncio.to_thread(_parsed, raw) if is_long else _parsed(raw)
    return await gateway.forward(path, body, actor)


def headers_of(reply: Reply) -> dict[str, str]:
    """An answer's headers."""
    headers = {"Content-Type": reply.content_type, **reply.headers}
    if reply.chunks is not None:
        headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # a proxy would hold the tokens back
    return headers


def response_of(reply: Reply) -> HttpResponseBase:
    """An answer as Django sends it."""
    if reply.chunks is not None:
        return StreamingHttpResponse(reply.chunks, headers=headers_of(reply))  # closes them, whatever happens
    return HttpResponse(reply.content, status=reply.status_code, headers=headers_of(reply))


def _parsed(raw: bytes) -> dict[str, Any]:
    """The body as an object. Raises InvalidInputError for anything else."""
    body = read_json(raw)
    if not isinstance(body, dict):
        raise InvalidInputError("The body must be a JSON object.")
    for name, kind, word in (("model", str, "a string"), ("stream", bool, "true or false")):
        if body.get(name) is not None and not isinstance(body[name], kind):
            raise InvalidInputError(f"{name} must be {word}.", (FieldFault(name, word),))
    return body
