"""The addresses of both APIs. Runs in the web process.

Ninja answers for who may call, so Django's own login redirect is off for its views; the page of the docs keeps it.
"""

from collections.abc import Sequence
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.urls import URLPattern, URLResolver, path
from ninja import NinjaAPI

from controlplane.api.applications import OPENAI, OPENAI_UNDER_API, REST
from controlplane.api.docs import docs, openapi_json


def _open(api: NinjaAPI) -> tuple[Any, str, str]:
    """An API's addresses, without the login redirect."""
    patterns, app_name, namespace = api.urls
    _mark(patterns)
    return patterns, app_name, namespace


def _mark(patterns: Sequence[URLPattern | URLResolver]) -> None:
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            pattern.callback = login_not_required(pattern.callback)
        else:
            _mark(pattern.url_patterns)


urlpatterns: list[URLPattern | URLResolver] = [
    path("api/openapi.json", openapi_json, name="openapi-json"),
    path("api/docs", docs, name="api-docs"),
    path("v1/", _open(OPENAI)),
    path("api/v1/", _open(OPENAI_UNDER_API)),
    path("api/", _open(REST)),
]
