"""Every address, call and topic refuses a stranger and too small a role, before it looks at anything else."""

import re
from collections.abc import Iterator

import pytest
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import AnonymousUser
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from controlplane import doors
from controlplane.api.applications import whole_schema
from controlplane.doors import pages
from controlplane.live.consumers import CLOSE_NOT_LOGGED_IN, LiveConsumer
from controlplane.models import AuditLine
from controlplane.models.access import Role
from tests import factories

pytestmark = pytest.mark.django_db
API = ("api/", "v1/")
BY_ITSELF = {"metrics", "openapi-json", "api-docs"}
"""Views beside the API that ask for a key themselves."""

OPEN_CALLS = {"GET /api/health"}
HARMLESS_TO_READERS = {
    "run-beside", "run-preview", "first-steps-show", "password", "POST /api/runs/preview", "POST /api/runs/config",
    "POST /api/data_gen/jobs/{job_id}/examples/check",
}  # fmt: skip
"""What is sent, yet changes nothing but what is the reader's own."""


STANDS_FOR = {"upload_id": "00000000-0000-4000-8000-000000000000"}


def addresses(patterns: list[URLPattern | URLResolver], root: str = "") -> Iterator[tuple[str, str]]:
    """Each address that a view answers, with its name."""
    for pattern in patterns:
        place = root + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from addresses(pattern.url_patterns, place)
        else:
            yield place, str(pattern.name)


def page_addresses() -> dict[str, str]:
    """Pages' addresses by their names, with something in the place of each parameter."""
    found = {name: place for place, name in addresses(get_resolver().url_patterns) if not place.startswith(API)}
    return {
        name: "/" + re.sub(r"<(\w+):\w+>", lambda part: "1" if part[1] == "int" else "x", place)
        for name, place in found.items() if name not in BY_ITSELF
    }  # fmt: skip


def call_addresses() -> dict[str, str]:
    """Calls of the API with an address that matches each."""
    found = {}
    for path, operations in whole_schema()["paths"].items():
        for method, operation in operations.items():
            numbers = {
                item["name"] for item in operation.get("parameters", ()) if item["schema"].get("type") == "integer"
            }
            filled = path
            for name in re.findall(r"{(\w+)}", path):
                filled = filled.replace(f"{{{name}}}", "1" if name in numbers else STANDS_FOR.get(name, "x"))
            found[f"{method.upper()} {path}"] = filled
    return found


def test_every_page_has_its_entry_and_every_entry_its_page() -> None:
    named = set(doors.looks()) | set(doors.writes()) | pages.OPEN
    assert set(page_addresses()) == named


def test_every_call_has_its_entry_and_every_entry_its_call() -> None:
    assert set(call_addresses()) == set(doors.calls())


def test_what_a_reader_may_send_is_named_here() -> None:
    sent = {name for name, role in doors.writes().items() if role == Role.READ}
    calls = {call for call, role in doors.calls().items() if role == Role.READ and not call.startswith("GET ")}
    assert sent | calls == HARMLESS_TO_READERS


def test_a_stranger_sees_no_page() -> None:
    stranger = Client()
    for name, place in page_addresses().items():
        if name in pages.OPEN:
            continue
        for method in ("GET", "POST"):
            response = stranger.generic(method, place)
            assert (response.status_code, response.headers.get("Location", "")[:7]) == (302, "/login?"), (method, name)


def test_a_stranger_makes_no_call() -> None:
    stranger = Client()
    for call, place in call_addresses().items():
        if call not in OPEN_CALLS:
            assert stranger.generic(call.split()[0], place).status_code == 401, call
    for place in ("/metrics", "/api/openapi.json"):
        assert stranger.get(place).status_code == 401, place
    assert stranger.get("/api/docs").status_code == 302
    assert set(stranger.get("/api/health").json()) == {"status"}


@pytest.mark.parametrize("role", [Role.READ, Role.USE])
def test_a_small_role_is_refused_by_every_page_that_needs_more(role: Role) -> None:
    client, lines = factories.client_of(role.word), AuditLine.objects.count()
    tried = 0
    for method, table in (("GET", doors.looks()), ("POST", doors.writes())):
        for name, needed in table.items():
            if role < needed:
                tried += 1
                assert client.generic(method, page_addresses()[name]).status_code == 403, (method, name)
    assert tried > 30
    assert AuditLine.objects.count() == lines


@pytest.mark.parametrize("role", [Role.READ, Role.USE])
def test_a_small_role_is_refused_by_every_call_that_needs_more(role: Role) -> None:
    client = factories.make_client(role.word)
    lines, places, tried = AuditLine.objects.count(), call_addresses(), 0
    for call, needed in doors.calls().items():
        if role < needed:
            tried += 1
            response = client.generic(call.split()[0], places[call], b"", content_type="application/json")
            assert response.status_code == 403, (call, response.content)
    assert tried > 30
    assert AuditLine.objects.count() == lines


def test_a_page_without_a_form_takes_none() -> None:
    client, places = factories.client_of("admin"), page_addresses()
    for name in set(doors.looks()) - set(doors.writes()):
        assert client.post(places[name]).status_code == 405, name


def test_no_topic_answers_a_stranger() -> None:
    @async_to_sync
    async def refused() -> object:
        socket = WebsocketCommunicator(LiveConsumer.as_asgi(), "/ws/live")
        socket.scope["user"] = AnonymousUser()  # type: ignore[typeddict-unknown-key] # the middleware's
        await socket.connect()
        return await socket.receive_output()

    assert refused() == {"type": "websocket.close", "code": CLOSE_NOT_LOGGED_IN}
