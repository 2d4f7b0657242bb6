"""Errors become HTTP here, once. Runs in the web process.

Under /api: {"detail": a sentence, "faults": [{"path", "message"}] where single values are at fault}.
Under /v1: OpenAI's {"error": {"message", "type", "param", "code"}}, bad input being 400 there.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from controlplane.errors import (
    FieldFault,
    InvalidInputError,
    NotAuthenticatedError,
    NotFoundError,
    PilothouseError,
    RateLimitedError,
    TooLargeError,
    UnavailableError,
    UnknownModelError,
)
from controlplane.outage import away

log = logging.getLogger(__name__)
NO_KEY = "Send a key: X-API-Key: KEY, or Authorization: Bearer KEY. `manage.py create_key NAME --role use` makes one."
Answer = Callable[[PilothouseError], HttpResponse]

_OPENAI_TYPES = {
    400: ("invalid_request_error", "invalid_value"), 401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "forbidden"), 404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    413: ("invalid_request_error", "too_large"),
    429: ("authentication_error", "too_many_guesses"), 503: ("server_error", "engine_unavailable"),
}  # fmt: skip


def rest_answer(error: PilothouseError) -> HttpResponse:
    """An error of /api as its response."""
    body: dict[str, Any] = {"detail": error.message}
    faults = getattr(error, "faults", ())
    if faults:
        body["faults"] = [{"path": fault.path, "message": fault.message} for fault in faults]
    return _with_headers(error, JsonResponse(body, status=error.status_code))


def openai_answer(error: PilothouseError) -> HttpResponse:
    """An error of /v1 as its response."""
    status = 400 if error.status_code == InvalidInputError.status_code else error.status_code
    kind, code = _OPENAI_TYPES.get(status, ("server_error", error.code))
    if isinstance(error, RateLimitedError):
        kind, code = error.what, error.code
    faults: Sequence[FieldFault] = getattr(error, "faults", ())
    param = faults[0].path if faults else None
    if isinstance(error, UnknownModelError):
        param, code = "model", error.code
    fields = {"message": error.message, "type": kind, "param": param, "code": code}
    return _with_headers(error, JsonResponse({"error": fields}, status=status))


def _with_headers(error: PilothouseError, response: HttpResponse) -> HttpResponse:
    if isinstance(error, UnavailableError):
        response["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, RateLimitedError):
        for name, value in error.headers.items():
            response[name] = value
    if isinstance(error, NotAuthenticatedError):
        response["WWW-Authenticate"] = "Bearer"
    return response


def install(api: NinjaAPI, answer: Answer) -> None:
    """Has every error of an API answered by `answer`."""

    def handle(request: HttpRequest, error: Any) -> HttpResponse:
        return answer(as_pilothouse(error))

    for kind in (PilothouseError, ValidationError, HttpError, Http404, RequestDataTooBig, Exception):
        api.add_exception_handler(kind, handle)


def as_pilothouse(error: Exception) -> PilothouseError:
    """Whatever was raised as one of our own errors; what nobody foresaw is logged and told without its insides."""
    if (ours := error if isinstance(error, PilothouseError) else away(error)) is not None:
        return ours
    if isinstance(error, HttpError):
        return _from_ninja(error)
    if isinstance(error, ValidationError):
        return _invalid(error)
    if isinstance(error, Http404):
        return NotFoundError("There is no such thing here. GET /api/docs lists the calls.")
    if isinstance(error, RequestDataTooBig):
        return TooLargeError("The body is larger than 5 MiB. Send less, or use the uploads for files.")
    log.error("a request failed: %s", error, exc_info=error)
    return PilothouseError("The server failed at this request. Its log (GET /api/logs/api_server) says why.")


def _from_ninja(error: HttpError) -> PilothouseError:
    if isinstance(error, AuthenticationError):
        return NotAuthenticatedError(NO_KEY)
    if isinstance(error.__cause__, PilothouseError):  # what the parser of bodies said
        return error.__cause__
    if error.status_code == 400:
        return InvalidInputError("The body can't be read as JSON.")
    translated = PilothouseError(error.message)
    translated.status_code = error.status_code
    return translated


def _invalid(error: ValidationError) -> InvalidInputError:
    faults = tuple(FieldFault(_path(item["loc"]), str(item["msg"])) for item in error.errors)
    return InvalidInputError("; ".join(f"{fault.path}: {fault.message}" for fault in faults) + ".", faults)


def _path(location: Sequence[Any]) -> str:
    """Where a value stood, without the names that only our own code knows ("body", the parameter)."""
    parts = [str(part) for part in location]
    inner = parts[2:] if parts[0] == "body" else parts[1:]
    return ".".join(inner) or parts[-1]


def not_allowed(response: HttpResponseBase, answer: Answer) -> HttpResponse:
    """A 405 in the shape of its API; `Allow` says what may be done."""
    allowed = response["Allow"]
    error = PilothouseError(f"This address takes {allowed} alone.")
    error.status_code = 405
    shaped = answer(error)
    shaped["Allow"] = allowed
    return shaped


def no_call_named(request: HttpRequest) -> None:
    """The call that answers where the address ends before it names one."""
    nothing_here(request, "")


def nothing_here(request: HttpRequest, rest: str) -> None:
    """The call that answers for every address that has none."""
    raise NotFoundError(f"There is no call {rest!r} here. GET /api/docs lists them.")
