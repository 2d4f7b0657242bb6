"""The page of an error that nobody foresaw. Runs in the web process; asks no data base, which may be what is broken."""

import sys

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views.defaults import server_error

from controlplane.outage import away


def broke(request: HttpRequest) -> HttpResponse:
    """503 where the data base's server is away, which the browser asks again for; else 500."""
    unavailable = away(sys.exc_info()[1])
    if unavailable is None:
        return server_error(request)
    facts = {"reason": unavailable.message, "seconds": unavailable.retry_after_seconds}
    if request.headers.get("HX-Request"):
        answer = HttpResponse(unavailable.message, status=503, content_type="text/plain; charset=utf-8")
    else:
        answer = HttpResponse(render_to_string("503.html", facts), status=503)
    answer["Retry-After"] = str(unavailable.retry_after_seconds)
    return answer
