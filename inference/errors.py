"""Errors of the HTTP surface, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.

Runs in the inference process.
"""

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from inference.engine.base import (
    ContextLengthError,
    EngineClosedError,
    EngineError,
    InvalidRequestError,
    QueueFullError,
)
from inference.openai import NEUTRAL_VALUES

RETRY_AFTER_SECONDS = 1
DRAINING_RETRY_AFTER_SECONDS = 5


class ApiError(Exception):
    """An answer that is an error. `param` names the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def from_engine(error: EngineError, prompt_option: str = "messages") -> ApiError:
    """What an engine's error is to a client. `prompt_option` is where the prompt was given."""
    if isinstance(error, QueueFullError | EngineClosedError):
        seconds = DRAINING_RETRY_AFTER_SECONDS if isinstance(error, EngineClosedError) else RETRY_AFTER_SECONDS
        headers = {"Retry-After": str(seconds)}
        return ApiError(503, error.message, kind="server_error", code=error.code, headers=headers)
    if isinstance(error, InvalidRequestError):
        is_about_prompt = isinstance(error, ContextLengthError) or error.parameter == "prompt"
        param = prompt_option if is_about_prompt else error.parameter
        return ApiError(400, error.message, param=param, code=error.code)
    return ApiError(500, error.message, kind="server_error", code=error.code)


def from_validation(faults: list[Any]) -> ApiError:
    """What pydantic found, told by the first fault: the name of the option and what is wrong with it."""
    # Where an option may have one of several forms, each form has its complaint: the deepest one got the furthest.
    fault = max((f for f in faults if f["loc"][:2] == faults[0]["loc"][:2]), key=lambda f: len(f["loc"]))
    path = [str(part) for part in fault["loc"] if part != "body"]
    if fault["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON: {fault.get('ctx', {}).get('error', fault['msg'])}.")
    if fault["type"] == "missing" and not path:
        return ApiError(400, "The request has no JSON body.")
    if fault["type"] == "extra_forbidden":
        name = ".".join(path)
        reason = "is not supported by this engine" if path[-1] in NEUTRAL_VALUES else "is unknown"
        return ApiError(400, f"The option '{name}' {reason}.", param=name, code="unsupported_parameter")
    if not path:  # a rule about several options: its type is the name of the one at fault
        return ApiError(400, f"{fault['msg']}.", param=fault["type"], code="invalid_value")
    name = _name(path)
    if fault["type"] == "unsupported":
        return ApiError(400, f"{fault['msg']}.", param=name, code="unsupported_parameter")
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return ApiError(400, f"Invalid '{name}': {fault['msg']}.", param=name, code=code)


def _name(path: list[str]) -> str:
    """The path without what pydantic adds to tell the members of a union apart: "stop.list[str]" is `stop`."""
    names = [part for part in path if part.isdecimal() or (part.isidentifier() and part not in {"str", "int", "float"})]
    names = [name for name in names if not name[0].isupper()]  # a class: no option begins with a capital
    return ".".join(names)
