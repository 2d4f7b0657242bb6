"""The errors that services raise. Runs in the web process; translated to HTTP once, at the edges (api/, pages/)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldFault:
    """One value that can't be taken: its path ("config.hyperparams.learning_rate") and what is allowed."""

    path: str
    message: str


class PilothouseError(Exception):
    """A refusal with a sentence that names the thing and the fix."""

    status_code = 500
    code = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInputError(PilothouseError):
    """What was asked can't be done as written; nothing was changed."""

    status_code = 422
    code = "invalid_input"

    def __init__(self, message: str, faults: tuple[FieldFault, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class NotAuthenticatedError(PilothouseError):
    """Nobody we know."""

    status_code = 401
    code = "not_authenticated"


class ForbiddenError(PilothouseError):
    """The role is too small."""

    status_code = 403
    code = "forbidden"


class NotFoundError(PilothouseError):
    """No such thing."""

    status_code = 404
    code = "not_found"


class UnknownModelError(NotFoundError):
    """No model of this name, or none that can be used."""

    code = "model_not_found"


class ConflictError(PilothouseError):
    """Not in the present state."""

    status_code = 409
    code = "conflict"


class TooLargeError(PilothouseError):
    """Larger than this way in takes."""

    status_code = 413
    code = "too_large"


class UnavailableError(PilothouseError):
    """Nobody can answer now; `retry_after_seconds` says when to ask again."""

    status_code = 503
    code = "unavailable"

    def __init__(self, message: str, retry_after_seconds: int = 5) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RateLimitedError(UnavailableError):
    """A key has had its share; `what` of it (requests, tokens), and the headers that say where it stands."""

    status_code = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after_seconds: int, what: str, headers: dict[str, str]) -> None:
        super().__init__(message, retry_after_seconds)
        self.what = what
        self.headers = headers


class TooManyGuessesError(UnavailableError):
    """Too many wrong keys came from there."""

    status_code = 429
    code = "too_many_guesses"
