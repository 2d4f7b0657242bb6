"""`GET /metrics` for Prometheus, and the middleware that counts requests for it. Runs in the web process."""

import time
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from controlplane.api.errors import NO_KEY, rest_answer
from controlplane.api.keys import caller
from controlplane.errors import NotAuthenticatedError, PilothouseError
from controlplane.models.access import Role
from controlplane.services.exposition.text import exposition
from controlplane.services.exposition.traffic import Traffic

TRAFFIC = "pilothouse.traffic"
"""Under which name an ASGI scope holds the counters."""

Answering = Callable[[HttpRequest], HttpResponseBase]


@sync_and_async_middleware
def count_traffic(get_response: Answering) -> Answering | Callable[[HttpRequest], Awaitable[HttpResponseBase]]:
    """Counts each request with what became of it. Stands first, so that nothing is missed.

    What the application around Django counts by itself (`direct`) is counted together with it.
    """
    own = Traffic()

    def begin(request: HttpRequest) -> float:
        shared: Any = getattr(request, "scope", {}).get(TRAFFIC)
        request.traffic = shared or own  # type: ignore[attr-defined] # the view below tells it
        return time.monotonic()

    def end(request: HttpRequest, response: HttpResponseBase, begun: float) -> HttpResponseBase:
        traffic: Traffic = request.traffic  # type: ignore[attr-defined] # set above
        traffic.count(request.method or "", request.path, response.status_code, time.monotonic() - begun)
        return response

    if iscoroutinefunction(get_response):

        async def later(request: HttpRequest) -> HttpResponseBase:
            begun = begin(request)
            return end(request, await get_response(request), begun)

        return later

    def now(request: HttpRequest) -> HttpResponseBase:
        begun = begin(request)
        return end(request, get_response(request), begun)

    return now


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """The present figures in Prometheus's text format. Needs a key (bearer) of the role `read`."""
    try:
        actor = caller(request)
        if actor is None:
            raise NotAuthenticatedError(NO_KEY)
        actor.require(Role.READ)
    except PilothouseError as error:
        return rest_answer(error)
    traffic: Any = getattr(request, "traffic", None) or Traffic()
    text, content_type = exposition(traffic, request.headers.get("Accept", ""))
    return HttpResponse(text, content_type=content_type)
