"""The addresses of both APIs. Runs in the web process.

Ninja answers for who may call, so Django's own login redirect is off for its views; the page of the docs keeps it.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver, path
from ninja import NinjaAPI

from controlplane.api.applications import OPENAI, OPENAI_UNDER_API, REST
from controlplane.api.docs import docs, openapi_json
from controlplane.api.errors import Answer, not_allowed, openai_answer, rest_answer
from controlplane.api.metrics import metrics

View = Callable[..., HttpResponseBase]


def _open(api: NinjaAPI, answer: Answer) -> tuple[Any, str, str]:
    """An API's addresses, without the login redirect."""
    patterns, app_name, namespace = api.urls
    _mark(patterns, answer)
    return patterns, app_name, namespace


def _mark(patterns: Sequence[URLPattern | URLResolver], answer: Answer) -> None:
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            pattern.callback = login_not_required(_shaped(pattern.callback, answer))
        else:
            _mark(pattern.url_patterns, answer)


def _shaped(view: View, answer: Answer) -> View:
    """The view with its 405, which Ninja answers in plain text, in the shape of its API."""

    def shape(response: HttpResponseBase) -> HttpResponseBase:
        return response if response.status_code != 405 else not_allowed(response, answer)

    if iscoroutinefunction(view):
        awaitable: Callable[..., Awaitable[HttpResponseBase]] = view

        @wraps(view)
        async def later(*args: Any, **named: Any) -> HttpResponseBase:
            return shape(await awaitable(*args, **named))

        return later  # type: ignore[return-value] # Django takes both

    @wraps(view)
    def now(*args: Any, **named: Any) -> HttpResponseBase:
        return shape(view(*args, **named))

    return now


urlpatterns: list[URLPattern | URLResolver] = [
    path("metrics", login_not_required(metrics), name="metrics"),
    path("api/openapi.json", openapi_json, name="openapi-json"),
    path("api/docs", docs, name="api-docs"),
    path("v1/", _open(OPENAI, openai_answer)),
    path("api/v1/", _open(OPENAI_UNDER_API, openai_answer)),
    path("api/", _open(REST, rest_answer)),
]
