"""Points of scripts elsewhere, answered before Django's handler. Runs in the web process, around the application.

As with chats (`direct`), sessions and forms cost a script's call ten times what it takes; what is in any way unlike a
plain call goes on to Django, whose answers are the same. What comes at the same time is stored together
(`services.points_writer`), so many calls cost one write to the disk.
"""

import re
import time

from django.http import HttpResponse, JsonResponse

from controlplane.api.direct import plain_caller, send_response, whole_body
from controlplane.api.errors import as_pilothouse, rest_answer
from controlplane.api.keys import not_valid
from controlplane.api.limits import Application, Receive, Scope, Send
from controlplane.api.metrics import TRAFFIC
from controlplane.services import access
from controlplane.services.exposition.traffic import Traffic
from controlplane.services.points_writer import writer

ADDRESS = re.compile(r"/api/runs/([1-9][0-9]{0,17})/metrics")


class DirectPoints:
    """Answers plain posts of points; passes everything else on. The scope brings the counters."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        address = ADDRESS.fullmatch(scope["path"]) if is_post else None
        caller = plain_caller(scope) if address is not None else None
        if address is None or caller is None:
            await self._application(scope, receive, send)
            return
        body = await whole_body(receive)
        if body is None:
            return
        begun = time.monotonic()
        response = await _answer(int(address[1]), *caller, body)
        traffic: Traffic | None = scope.get(TRAFFIC)
        if traffic is not None:
            traffic.count("POST", scope["path"], response.status_code, time.monotonic() - begun)
        await send_response(scope, response, send)


async def _answer(run_id: int, key: str, client: str, body: bytes) -> HttpResponse:
    try:
        actor = await access.recognise_key(key, client)
        if actor is None:
            raise not_valid()
        stored = await writer.store(actor, run_id, body)
        return JsonResponse(stored.facts(), content_type="application/json; charset=utf-8")  # as Ninja has it
    except Exception as error:
        return rest_answer(as_pilothouse(error))
