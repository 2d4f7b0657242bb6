"""Points that go past Django's handler: the same answers, one write for what waits, and pages told in time."""

import asyncio
import json
import queue
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from django.db import OperationalError, connections

from controlplane.api.direct_points import DirectPoints
from controlplane.models import LiveMessage, Metric, Run
from controlplane.models.access import SYSTEM
from controlplane.services import external_points, points_writer, run_points
from controlplane.services.points_writer import PointsWriter
from tests import factories
from tests.controlplane.test_direct import Answer, ask

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("home"),
    pytest.mark.urls("controlplane.api.urls"),
]
POINT = {"step": 1, "values": {"loss": 0.5}}


class Beside(PointsWriter):
    """A writer whose rounds a test makes itself, in its own thread."""

    async def store(self, actor: Any, run_id: int, body: bytes) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._posts.put(points_writer._Waiting(actor, run_id, body, answer))
        await asyncio.to_thread(self._beside)
        return await answer

    def _beside(self) -> None:
        self.round(0.0)
        connections.close_all()


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> tuple[Run, dict[str, str]]:
    """A run of a script, and the header with which that sends."""
    monkeypatch.setattr("controlplane.api.direct_points.writer", Beside())
    key = factories.make_key("use", "mine")
    return factories.make_external_run(created_by="key mine"), {"x-api-key": key}


def both(path: str, headers: dict[str, str], body: bytes) -> tuple[Answer, Answer]:
    """The answer past Django, which fails where that would be asked, and Django's own."""

    async def nobody(*_whatever: Any) -> None:
        raise AssertionError("Django was asked")

    headers = {name: value for name, value in headers.items() if value}
    return (
        asyncio.run(ask(DirectPoints(nobody), headers, body, path)),
        asyncio.run(ask(get_asgi_application(), headers, body, path)),
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (json.dumps({**POINT, "seq": 1}).encode(), 200),
        (b'{"step": -1, "values": {}}', 422),
        (b"{", 422),
        (b"", 422),
    ],
)
def test_the_answers_are_djangos(mine: tuple[Run, dict[str, str]], body: bytes, status: int) -> None:
    run, headers = mine
    past, own = both(f"/api/runs/{run.pk}/metrics", headers, body)
    assert past[0] == own[0] == status
    if status == 200:  # the same batch, the second time
        assert json.loads(past[2]) == {"stored": 1, "left_out": 0, "last_step": 1, "repeated": False}
        assert json.loads(own[2]) == {"stored": 0, "left_out": 0, "last_step": 1, "repeated": True}
    else:
        assert json.loads(past[2]) == json.loads(own[2])
    assert {name: value for name, value in past[1].items() if name != "content-length"} == {
        name: value for name, value in own[1].items() if name != "content-length"
    }


def test_who_may_not_is_refused_alike(mine: tuple[Run, dict[str, str]]) -> None:
    run, headers = mine
    body = json.dumps(POINT).encode()
    for path, sent, status in (
        (f"/api/runs/{run.pk}/metrics", {"x-api-key": "made up"}, 401),
        (f"/api/runs/{run.pk}/metrics", {"x-api-key": factories.make_key("read")}, 403),
        (f"/api/runs/{run.pk}/metrics", {"x-api-key": factories.make_key("use")}, 403),
        (f"/api/runs/{run.pk + 1}/metrics", headers, 404),
    ):
        past, own = both(path, sent, body)
        assert (past[0], json.loads(past[2])) == (status, json.loads(own[2]))
    assert not Metric.objects.exists()


def test_what_comes_together_is_stored_together_and_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    run, clock = factories.make_external_run(), [100.0]
    monkeypatch.setattr("controlplane.services.points_writer.monotonic", lambda: clock[0])
    writer = Beside()

    def send(*steps: int) -> None:
        for step in steps:
            body = json.dumps({"step": step, "values": {"loss": float(step)}}).encode()
            asyncio.run(writer.store(SYSTEM, run.pk, body))

    def told() -> list[str]:
        kinds = LiveMessage.objects.filter(topic_id=f"run:{run.pk}").order_by("seq")
        return list(kinds.values_list("kind", flat=True))

    send(1)
    assert told() == ["reset"]  # what the process before stored and didn't tell of is read then
    send(2, 3)
    assert told() == ["reset"]
    clock[0] += points_writer.RESET_SECONDS
    writer.round(0.0)
    assert told() == ["reset", "metrics"]
    message = LiveMessage.objects.get(topic_id=f"run:{run.pk}", kind="metrics")
    assert [point[0] for point in message.data["points"]["loss"]] == [2, 3]
    monkeypatch.setattr(run_points, "TOLD_POINTS", 2)
    send(4, 5, 6)
    clock[0] += points_writer.TELL_SECONDS
    writer.round(0.0)
    assert told() == ["reset", "metrics", "reset"]
    writer.round(0.0)
    assert told() == ["reset", "metrics", "reset"]
    clock[0] += points_writer.RESET_SECONDS + points_writer.FORGET_SECONDS
    writer.round(0.0)
    assert not writer._untold, "a run that is silent is kept for ever"


def test_a_fault_is_answered_and_the_writer_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    run, writer = factories.make_external_run(), Beside()
    body = json.dumps(POINT).encode()
    with monkeypatch.context() as broken:
        broken.setattr("controlplane.services.external_points.store", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            asyncio.run(writer.store(SYSTEM, run.pk, body))
    assert asyncio.run(writer.store(SYSTEM, run.pk, body)).stored == 1
    with pytest.raises(queue.Empty):
        writer._posts.get_nowait()


def test_a_fault_of_one_run_is_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = factories.make_external_run(), factories.make_external_run()
    kept = external_points._Intake.keep

    def keep(intake: Any, *rest: Any) -> None:
        kept(intake, *rest)
        if intake.run == bad:
            raise OperationalError("disk I/O error")

    monkeypatch.setattr(external_points._Intake, "keep", keep)
    posts = [external_points.Post(SYSTEM, run.pk, {"step": 1, "values": {"loss": 0.5}}) for run in (bad, good, bad)]
    first, second, third = PointsWriter()._kept(posts)
    assert isinstance(first, OperationalError)
    assert isinstance(third, OperationalError)
    assert isinstance(second, external_points.Stored)
    assert list(Metric.objects.values_list("run", "count")) == [(good.pk, 1)]
