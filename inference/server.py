"""The HTTP surface of one engine: OpenAI's API for the gateway, `/health` and `/stats` for whoever watches.

Runs in the inference process, on the loopback interface. Every call but `/health` needs the token of this launch.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from inference.answers import Answer, ChatAnswer, CompletionAnswer
from inference.compiling import Compiler
from inference.engine.base import Engine, EngineClosedError, EngineError, GenerationChunk, GenerationRequest
from inference.engine.chat import ChatPrompts
from inference.engine.constraints import Constraint, ToolCalls
from inference.errors import ApiError, from_engine, from_validation
from inference.openai import ChatCompletionBody, CompletionBody
from inference.submission import Submission

logger = logging.getLogger(__name__)

LONG_PROMPT_CHARACTERS = 20_000


@dataclass(frozen=True)
class ServedModel:
    """A name that can be asked for: the engine's model, or an adapter beside it."""

    name: str
    adapter: str
    prompts: ChatPrompts
    encode: Callable[[str], list[int]]
    sampling_defaults: dict[str, float]


@dataclass
class Service:
    """What the routes work with, and what they count. `models` by name, the engine's own first."""

    engine: Engine
    models: dict[str, ServedModel]
    token: str
    created: int = field(default_factory=lambda: int(time.time()))
    requests: int = 0
    in_flight: int = 0
    is_draining: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    compiler: Compiler = field(init=False)

    def __post_init__(self) -> None:
        self.compiler = Compiler(self.engine)

    @contextlib.contextmanager
    def request_in_flight(self) -> Iterator[None]:
        """Counts a request from its first byte to its last; `idle` is set when it was the only one."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()

    async def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Whether nothing is in flight any more, within the time given."""
        self.idle.clear()
        if not self.in_flight:
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.idle.wait(), timeout_seconds)
        return not self.in_flight


class TokenGate:
    """Lets in who brings the token; also counts the requests in flight, down to the last byte sent."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._expected = f"Bearer {service.token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 401 or 503 itself."""
        if scope["type"] != "http" or (scope["method"] == "GET" and scope["path"] == "/health"):
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._expected):
            message = "The token of this engine is missing or wrong."
            error = ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
            await error.response()(scope, receive, send)
            return
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._service.is_draining:
            error = from_engine(EngineClosedError("The engine is shutting down and takes no requests."))
            await error.response()(scope, receive, send)
            return
        with self._service.request_in_flight():
            await self._app(scope, receive, send)


class EventStream(StreamingResponse):
    """Server-sent events from a submission, which is closed whichever way the response ends."""

    def __init__(self, events: AsyncIterator[str], submission: Submission) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._submission = submission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events. A client that goes away cancels what is still being generated."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._submission.close()


def create_app(service: Service) -> FastAPI:
    """The application over a ready engine."""
    app = FastAPI(title="Pilothouse engine", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.add_middleware(TokenGate, service=service)
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/stats", stats, methods=["GET"])
    app.add_api_route("/v1/models", models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", model, methods=["GET"])
    app.add_api_route("/v1/chat/completions", chat_completions, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", completions, methods=["POST"], response_model=None)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(EngineError, _on_engine_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_surprise)
    return app


def the_service(request: Request) -> Service:
    """The service of the application that a request came to."""
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(the_service)]


# --- Routes ---------------------------------------------------------------------------------------------------------


async def health(service: Serving) -> dict[str, str]:
    """Says that the engine lives; the only call without a token, so it says nothing else."""
    return {"status": "draining" if service.is_draining else "ok"}


async def stats(service: Serving) -> dict[str, Any]:
    """The engine's figures; `requests` counts HTTP requests for text that were accepted."""
    return {**asdict(service.engine.stats()), "requests": service.requests}


async def models(service: Serving) -> dict[str, Any]:
    """The model that is served here, and the adapters beside it."""
    return {"object": "list", "data": [_described(name, service) for name in service.models]}


async def model(name: str, service: Serving) -> dict[str, Any]:
    """A model, if it is one of these."""
    return _described(_asked(name, service).name, service)


async def chat_completions(body: ChatCompletionBody, request: Request, service: Serving) -> JSONResponse | EventStream:
    """Answers a conversation."""
    model = _asked(body.model, service)
    messages, tools = [message.plain() for message in body.messages], body.tools_offered

    def render() -> list[int]:
        return model.prompts.token_ids(
            messages, body.chat_template_kwargs, apply_profile=body.apply_profile, tools=tools
        )

    constraint = body.constraint
    if constraint is not None:
        await service.compiler.prepare(constraint)
    prompt = await _encoded(render, body.characters)
    stops = [*body.stop_strings, *model.prompts.stop_strings]
    requests = [_generation(body, model, prompt, stops, constraint)]
    answer = ChatAnswer(
        model.name,
        n=body.n or 1,
        has_logprobs=bool(body.logprobs),
        includes_usage=body.includes_usage,
        may_call=bool(tools),
        is_either=isinstance(constraint, ToolCalls) and constraint.otherwise is not None,
    )
    return await _respond(request, service, requests, answer, is_streamed=bool(body.stream), prompt_option="messages")


async def completions(body: CompletionBody, request: Request, service: Serving) -> JSONResponse | EventStream:
    """Continues plain text, one or several pieces of it."""
    model = _asked(body.model, service)
    requests = []
    for text in body.prompts:
        prompt = await _encoded(partial(model.encode, text), len(text))
        requests.append(_generation(body, model, prompt, body.stop_strings))
    answer = CompletionAnswer(
        model.name,
        n=body.n or 1,
        prompts=len(requests),
        has_logprobs=body.logprobs is not None,
        includes_usage=body.includes_usage,
    )
    return await _respond(request, service, requests, answer, is_streamed=bool(body.stream), prompt_option="prompt")


# --- What routes share ----------------------------------------------------------------------------------------------


def _described(name: str, service: Service) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.created, "owned_by": "pilothouse"}


def _asked(name: str, service: Service) -> ServedModel:
    if name not in service.models:
        names = ", ".join(f"'{known}'" for known in service.models)
        message = f"The model '{name}' is not served here; this engine serves {names}."
        raise ApiError(404, message, param="model", code="model_not_found")
    return service.models[name]


async def _encoded(encode: Callable[[], list[int]], characters: int) -> list[int]:
    """A prompt's tokens; a long text is worked on beside the event loop, which has others to serve."""
    if characters > LONG_PROMPT_CHARACTERS:
        return await asyncio.to_thread(encode)
    return encode()


def _generation(
    body: ChatCompletionBody | CompletionBody,
    model: ServedModel,
    prompt: list[int],
    stops: list[str],
    constraint: Constraint | None = None,
) -> GenerationRequest:
    return GenerationRequest(
        prompt_token_ids=prompt,
        max_tokens=body.tokens_limit,
        sampling=body.sampling(model.sampling_defaults),
        stop=stops,
        n=body.n or 1,
        top_logprobs=body.asked_logprobs,
        apply_processors=body.apply_profile,
        constraint=constraint,
        adapter=model.adapter,
    )


async def _respond(
    request: Request,
    service: Service,
    requests: list[GenerationRequest],
    answer: Answer,
    *,
    is_streamed: bool,
    prompt_option: str,
) -> JSONResponse | EventStream:
    """Generates. Until the first token has come an error is still an HTTP error, in a stream as well."""
    try:
        submission = Submission(service.engine, requests)
    except EngineError as error:
        raise from_engine(error, prompt_option) from error
    service.requests += 1
    departure = asyncio.create_task(_close_when_gone(request, submission))
    chunks = aiter(submission)
    try:
        if is_streamed:
            first = await anext(chunks)
            return EventStream(_events(answer, first, chunks), submission)
        async for position, chunk in chunks:
            answer.collect(position, chunk)
        return JSONResponse(answer.whole())
    except BaseException:
        submission.close()
        raise
    finally:
        departure.cancel()


async def _close_when_gone(request: Request, submission: Submission) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    submission.close()


async def _events(
    answer: Answer, first: tuple[int, GenerationChunk], chunks: AsyncIterator[tuple[int, GenerationChunk]]
) -> AsyncIterator[str]:
    for event in answer.opening():
        yield _sse(event)
    yield _sse(answer.event(*first))
    try:
        async for position, chunk in chunks:
            yield _sse(answer.event(position, chunk))
    except EngineError as error:
        yield _sse(from_engine(error).body)
        return
    for event in answer.closing():
        yield _sse(event)
    yield "data: [DONE]\n\n"


def _sse(value: dict[str, Any]) -> str:
    # ASCII alone: some clients split lines at U+2028 and its like, which JSON leaves as they are.
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


# --- Errors ---------------------------------------------------------------------------------------------------------


async def _on_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this type
    return error.response()


async def _on_engine_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EngineError)  # noqa: S101 - registered for this type
    return from_engine(error).response()


async def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
    return from_validation(list(error.errors())).response()


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
    message = {404: f"There is no {request.url.path} here.", 405: f"{request.url.path} knows no {request.method}."}
    return ApiError(error.status_code, message.get(error.status_code, error.detail)).response()


async def _on_surprise(_: Request, error: Exception) -> JSONResponse:
    logger.error("a request failed", exc_info=error)
    message = f"The engine failed: {type(error).__name__}."
    return ApiError(500, message, kind="server_error", code="internal_error").response()
