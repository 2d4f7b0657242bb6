"""The OpenAPI schema and the page that shows it, from packaged assets. Runs in the web process."""

from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from controlplane.api.applications import whole_schema
from controlplane.api.errors import NO_KEY, rest_answer
from controlplane.api.keys import caller
from controlplane.errors import NotAuthenticatedError, PilothouseError

_schema: dict[str, Any] = {}


@login_not_required
@require_GET
def openapi_json(request: HttpRequest) -> HttpResponse:
    """The whole schema; a key or a session opens it."""
    try:
        if caller(request) is None:
            raise NotAuthenticatedError(NO_KEY)
    except PilothouseError as error:
        return rest_answer(error)
    if not _schema:
        _schema.update(whole_schema())
    return JsonResponse(_schema)


@require_GET
def docs(request: HttpRequest) -> HttpResponse:
    """Swagger UI, for somebody who has logged in."""
    return render(request, "api/docs.html")
