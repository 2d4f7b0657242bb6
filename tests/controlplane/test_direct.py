"""Chats that go past Django's handler: which ones, that the answers are Django's own, and that every change is seen."""

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.utils import timezone

from controlplane.api import direct
from controlplane.api.direct import DirectChats, plain_call
from controlplane.models import ApiKey, Deployment, UsageDay
from controlplane.models.access import SYSTEM, KeyLimits
from controlplane.models.deployments import DeploymentStatus
from controlplane.services import access, gateway, splits, usage
from controlplane.services.key_limits import Gatekeeper
from controlplane.services.routing import traffic
from tests import factories
from tests.controlplane.stand_in_engines import StandIn, running
from tests.controlplane.test_recall import elsewhere

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("home"),
    pytest.mark.urls("controlplane.api.urls"),
]
Communicator: Any = ApplicationCommunicator  # untyped
CHAT = {"messages": [{"role": "user", "content": "Ahoy?"}]}
PATH = "/v1/chat/completions"
Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def engine() -> Iterator[StandIn]:
    """The active engine, of the model `m`."""
    one = StandIn("first")
    with running(one):
        factories.make_deployment(factories.make_model("m"), port=one.port, is_active=True)
        yield one


def scope_of(headers: dict[str, str], path: str = PATH, body: bytes = b"{}", **others: Any) -> dict[str, Any]:
    """What a server tells of a call."""
    whole = {"host": "localhost", "content-length": str(len(body)), "content-type": "application/json", **headers}
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
        "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"", "server": ("localhost", 80),
        "client": ("127.0.0.1", 1), "headers": [(name.encode(), value.encode()) for name, value in whole.items()],
        **others,
    }  # fmt: skip


async def ask(application: Any, headers: dict[str, str], body: bytes, path: str = PATH) -> Answer:
    """One whole answer."""
    communicator = Communicator(application, scope_of(headers, path, body))
    await communicator.send_input({"type": "http.request", "body": body, "more_body": False})
    start = await communicator.receive_output(20)
    pieces, more = [], True
    while more:
        message = await communicator.receive_output(20)
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    await communicator.wait(20)
    told = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    assert len(told) == len(start["headers"]), "no header comes twice"
    return start["status"], told, b"".join(pieces)


def directly(headers: dict[str, str], body: dict[str, Any] | bytes = b"", path: str = PATH) -> Answer:
    """The answer past Django; it fails where that would be asked."""

    async def nobody(*_whatever: Any) -> None:
        raise AssertionError("Django was asked")

    raw = body if isinstance(body, bytes) and body else json.dumps(body or CHAT).encode()
    return asyncio.run(ask(DirectChats(nobody), headers, raw, path))


def by_django(headers: dict[str, str], body: dict[str, Any] | bytes = b"", path: str = PATH) -> Answer:
    """The answer of Django alone."""
    raw = body if isinstance(body, bytes) and body else json.dumps(body or CHAT).encode()
    return asyncio.run(ask(get_asgi_application(), headers, raw, path))


# --- The same answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "role", "body"),
    [
        (200, "use", CHAT), (200, "use", {**CHAT, "stream": True}), (200, "use", {**CHAT, "model": "m"}),
        (200, "use", {"prompt": "Ahoy?"}), (404, "use", {**CHAT, "model": "no/such"}), (400, "use", b"{"),
        (400, "use", b'{"a": "\\ud800"}'), (400, "use", {"model": 3}), (400, "use", {"stream": "yes"}),
        (403, "read", CHAT), (503, "use", {**CHAT, "model": "idle"}),
    ],
)  # fmt: skip
def test_an_answer_is_what_django_says(engine: StandIn, status: int, role: str, body: dict[str, Any] | bytes) -> None:
    factories.make_model("idle")
    key = factories.make_key(role)
    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
        for path in (PATH, "/api/v1/completions"):
            direct, other = directly(headers, body, path), by_django(headers, body, path)
            assert direct == other
            assert direct[0] == status, direct


def test_a_refusal_is_what_django_says(engine: StandIn) -> None:
    engine.status = 503
    mine = {"x-api-key": factories.make_key()}
    assert directly(mine) == by_django(mine)
    assert directly(mine)[0] == 503
    wrong = {"authorization": "Bearer ph_wrong"}
    assert directly(wrong) == by_django(wrong)
    assert directly(wrong)[0] == 401


def test_a_limited_key_hears_of_its_limits_as_from_django(engine: StandIn) -> None:
    told = []
    for way in (directly, by_django):
        limits = KeyLimits(requests_per_minute=1, tokens_per_minute=5000)
        headers = {"x-api-key": access.create_key(SYSTEM, "few", "use", limits=limits)[1]}
        for status in (200, 429):
            answer = way(headers)
            assert answer[0] == status
            told.append((answer[0], {name for name in answer[1] if "retry" in name or "ratelimit" in name}))
    assert told[:2] == told[2:]
    assert "x-ratelimit-remaining-requests" in told[0][1]


def begun(key: str, body: dict[str, Any]) -> Any:
    """A call whose client can leave."""
    raw = json.dumps(body).encode()
    call = Communicator(DirectChats(get_asgi_application()), scope_of({"x-api-key": key}, body=raw))
    asyncio.get_running_loop().create_task(call.send_input({"type": "http.request", "body": raw, "more_body": False}))
    return call


def assert_given_up(engine: StandIn) -> None:
    """The engine was hung up on, nothing is in flight, and the use was written down as half of one."""
    assert engine.left.wait(20), "the engine went on"
    assert traffic.in_flight(Deployment.objects.get().pk) == 0
    usage.ledger.flush()
    assert list(UsageDay.objects.values_list("model", "requests", "failures", "cut_short")) == [("m", 1, 0, 1)]


@pytest.mark.parametrize("name", ["m", "shared"])
def test_a_client_that_goes_away_ends_what_its_engine_does(engine: StandIn, name: str) -> None:
    splits.put(SYSTEM, "shared", [{"model": "m", "weight": 1}])
    engine.go_on.clear()
    key = factories.make_key()

    async def work() -> None:
        call = begun(key, {**CHAT, "model": name, "stream": True})
        assert (await call.receive_output(20))["status"] == 200
        assert (await call.receive_output(20))["body"]
        await call.send_input({"type": "http.disconnect"})
        await call.wait(20)

    asyncio.run(work())
    assert_given_up(engine)
    engine.go_on.set()
    assert directly({"x-api-key": key})[0] == 200


def test_whoever_leaves_before_the_first_token_is_waited_for_no_longer(engine: StandIn) -> None:
    engine.go_on.clear()
    key = factories.make_key()

    async def work() -> None:
        call = begun(key, CHAT)
        async with asyncio.timeout(20):
            while not engine.asked:  # noqa: ASYNC110 - the engine is in another thread
                await asyncio.sleep(0.01)
        await call.send_input({"type": "http.disconnect"})
        await call.wait(20)
        assert await call.receive_nothing()

    asyncio.run(work())
    assert_given_up(engine)


def test_whoever_leaves_just_when_the_stream_is_open_ends_it(engine: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    splits.put(SYSTEM, "shared", [{"model": "m", "weight": 1}])
    engine.go_on.clear()
    row, key = access.create_key(SYSTEM, "few", "use", limits=KeyLimits(tokens_per_minute=1500))
    gatekeeper = Gatekeeper()
    calls: list[Any] = []

    class Slow(ThreadSensitiveContext):  # the look-up of a split needs a thread, whose end is waited for
        async def __aexit__(self, *error: Any) -> None:
            assert self in SyncToAsync.context_to_thread_executor, "no thread was needed"
            await calls[0].send_input({"type": "http.disconnect"})
            try:
                await asyncio.wait_for(asyncio.Event().wait(), 20)
            finally:
                await super().__aexit__(*error)  # type: ignore[no-untyped-call] # asgiref's has no types

    async def work() -> None:
        calls.append(begun(key, {**CHAT, "model": "shared", "stream": True}))
        await calls[0].wait(20)
        assert await calls[0].receive_nothing()
        gatekeeper.admit(row.actor(), CHAT)  # what the call might have taken is reserved no longer

    monkeypatch.setattr(gateway, "gatekeeper", gatekeeper)
    monkeypatch.setattr(direct, "ThreadSensitiveContext", Slow)
    asyncio.run(work())
    assert_given_up(engine)


# --- Which ones -------------------------------------------------------------------------------------------------------


def test_a_plain_call_of_a_script_is_one() -> None:
    call = plain_call(scope_of({"authorization": "bearer  abc "}))
    assert call == ("/v1/chat/completions", "abc", "127.0.0.1")
    both = plain_call(scope_of({"authorization": "Bearer abc", "x-api-key": "def"}, "/api/v1/completions"))
    assert both == ("/v1/completions", "def", "127.0.0.1")


@pytest.mark.parametrize(
    "scope",
    [
        scope_of({}), scope_of({"x-api-key": "a", "cookie": "sessionid=1"}), scope_of({"authorization": "Basic abc"}),
        scope_of({"x-api-key": "a", "content-length": str(6 << 20)}),
        scope_of({"x-api-key": "a", "content-length": ""}),
        scope_of({"x-api-key": "a", "transfer-encoding": "chunked"}), scope_of({"x-api-key": "a", "host": "evil.test"}),
        scope_of({"x-api-key": "a", "host": ""}), scope_of({"x-api-key": "a"}, query_string=b"a=1"),
        scope_of({"x-api-key": "a"}, method="GET"), scope_of({"x-api-key": "a"}, "/v1/models"),
        scope_of({"x-api-key": "a"}, root_path="/panel"), scope_of({"x-api-key": "a"}, type="websocket"),
        {**scope_of({}), "headers": [*scope_of({"x-api-key": "a"})["headers"], (b"x-api-key", b"b")]},
    ],
)  # fmt: skip
def test_whatever_is_unlike_one_is_left_to_django(scope: dict[str, Any]) -> None:
    assert plain_call(scope) is None


def test_calls_past_django_are_counted_with_all_others(engine: StandIn) -> None:
    application = DirectChats(get_asgi_application())
    key = factories.make_key("use")

    async def work() -> bytes:
        await ask(application, {"x-api-key": key}, json.dumps(CHAT).encode())
        await ask(application, {"x-api-key": "wrong"}, b"{}")
        communicator = Communicator(application, scope_of({"x-api-key": key}, "/metrics", method="GET"))
        await communicator.send_input({"type": "http.request", "body": b"", "more_body": False})
        await communicator.receive_output(20)
        return bytes((await communicator.receive_output(20))["body"])

    told = asyncio.run(work()).decode()
    for status in ("2xx", "4xx"):
        assert f'pilothouse_http_requests_total{{method="POST",status="{status}",surface="openai"}} 1.0' in told


# --- Changes ----------------------------------------------------------------------------------------------------------


def test_a_revoked_key_is_refused_at_once_whoever_revokes_it(engine: StandIn) -> None:
    for by_another_process in (False, True):
        row, plain = factories.make_key_row()
        assert [directly({"x-api-key": plain})[0] for _ in range(2)] == [200, 200]
        if by_another_process:
            elsewhere("UPDATE controlplane_apikey SET revoked_at = '2020-01-01'")
        else:
            access.revoke_key(SYSTEM, row.pk)
        assert directly({"x-api-key": plain})[0] == 401


def test_a_key_expires_though_nothing_is_committed(engine: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    row, plain = access.create_key(SYSTEM, "brief", "use", expires_at=timezone.now() + timedelta(hours=1))
    assert directly({"x-api-key": plain})[0] == 200
    late = timezone.now() + timedelta(hours=2)
    monkeypatch.setattr(timezone, "now", lambda: late)
    assert directly({"x-api-key": plain})[0] == 401
    assert not ApiKey.objects.filter(pk=row.pk, last_used_at=late).exists(), "a refused use is none"


def test_that_a_key_was_used_is_written_down_once_a_minute(engine: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    row, plain = factories.make_key_row()
    for minutes, is_written in ((0, True), (0.5, False), (2, True)):
        moment = timezone.now() + timedelta(minutes=minutes)
        with monkeypatch.context() as patched:
            patched.setattr(timezone, "now", lambda moment=moment: moment)
            assert directly({"x-api-key": plain})[0] == 200
        row.refresh_from_db()
        assert (row.last_used_at == moment) is is_written


def test_another_limit_and_another_role_hold_from_the_next_call_on(engine: StandIn) -> None:
    row, plain = factories.make_key_row()
    assert "x-ratelimit-limit-requests" not in directly({"x-api-key": plain})[1]
    access.set_key_limits(SYSTEM, row.pk, KeyLimits(requests_per_minute=40))
    assert directly({"x-api-key": plain})[1]["x-ratelimit-limit-requests"] == "40"
    elsewhere("UPDATE controlplane_apikey SET role = 'read'")
    assert directly({"x-api-key": plain})[0] == 403


def test_an_engine_that_was_stopped_is_asked_no_more(engine: StandIn) -> None:
    headers = {"x-api-key": factories.make_key()}
    second = StandIn("second")
    with running(second):
        assert b"first" in directly(headers)[2]
        Deployment.objects.update(status=DeploymentStatus.STOPPED, is_active=False)
        assert directly(headers)[0] == 503
        factories.make_deployment(factories.make_model("n"), port=second.port, is_active=True)
        assert b"second" in directly(headers)[2]
        elsewhere("UPDATE controlplane_deployment SET status = 'stopped', is_active = false")
        assert directly(headers)[0] == 503
    assert len(engine.asked) == 1
