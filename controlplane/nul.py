"""Refuses a NUL in addresses and forms: no text has one, and PostgreSQL can't hold it. Runs in the web process.

Those in bodies of JSON are `api.json_bodies`'s.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from controlplane.api.errors import openai_answer, rest_answer
from controlplane.errors import FieldFault, InvalidInputError

NUL = "\0"


class NulMiddleware:
    """Goes behind the authentication middleware, so that forms are read only of those who may send them."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Goes on: only what some view answers is looked at."""
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, _view: object, _args: object, _kwargs: object
    ) -> HttpResponseBase | None:
        """The refusal in the shape of whom was asked, or nothing."""
        name = _holder(request)
        if not name:
            return None
        fault = FieldFault(name, "text without NUL")
        error = InvalidInputError(f"{name} holds a NUL, which no text has. Take it out.", (fault,))
        error.status_code = 400
        if request.path.startswith(("/v1/", "/api/v1/")):
            return openai_answer(error)
        if request.path.startswith("/api/"):
            return rest_answer(error)
        return HttpResponse(error.message, status=error.status_code, content_type="text/plain; charset=utf-8")


def _holder(request: HttpRequest) -> str:
    """What holds a NUL: the address itself, a parameter, a field of a page's form; nothing where none does."""
    if NUL in request.path:
        return "The address"
    fields = list(request.GET.lists())
    if not request.path.startswith(("/api/", "/v1/")):  # their bodies are others' to read
        fields += request.POST.lists()
    for name, texts in fields:
        if NUL in name or any(NUL in text for text in texts):
            return name.replace(NUL, "") or "A name"
    return ""
