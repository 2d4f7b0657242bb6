"""What the doctor and the health say of a larger house; what its web processes hear of each other."""

import pytest
from pytest_django import Settings

from controlplane.models import WebProcess
from controlplane.services import health, leases, neighbours
from controlplane.services.checks import database, servers
from controlplane.services.key_limits import gatekeeper
from controlplane.services.leases import DISPATCHER
from controlplane.services.routing import traffic

pytestmark = pytest.mark.django_db


def found(name: str) -> tuple[str, str]:
    """The state and the words of one finding."""
    (finding,) = (each for each in servers.check().look() if each.name == name)
    return finding.state, f"{finding.found} {finding.fix}"


def test_a_server_that_is_well() -> None:
    state, said = found("data base server")
    assert (state, "UTF8" in said) == ("ok", True)
    assert {finding.name for finding in database.check().look()} == {"data base tables"}


def test_a_server_that_is_too_old_or_too_small(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setattr(servers, "OLDEST_POSTGRES", 99)
    assert found("data base server")[0] == "fail"
    monkeypatch.undo()
    settings.DATABASES["default"]["OPTIONS"]["pool"]["max_size"] = 1000
    state, said = found("data base server")
    settings.DATABASES["default"]["OPTIONS"]["pool"]["max_size"] = 30
    assert (state, "DATABASE_CONNECTIONS" in said) == ("warn", True)


def test_who_runs_and_who_dispatches() -> None:
    assert found("web processes") == ("ok", "None runs now. ")
    neighbours.tell("one")
    state, said = found("web processes")
    assert (state, "none of them dispatches" in said) == ("warn", True)
    assert health.health()["dispatching"] is False
    assert leases.take(DISPATCHER, "one") is not None
    assert found("web processes") == ("ok", "1 at work; one dispatches. ")
    assert health.health()["dispatching"] is True
    neighbours.tell("two")
    state, said = found("web processes")
    assert (state, "REDIS_URL" in said) == ("warn", True)


def test_a_redis_that_is_away_is_said(settings: Settings) -> None:
    backend = "channels_redis.pubsub.RedisPubSubChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"hosts": ["redis://127.0.0.1:1/0"]}}}
    state, said = found("live messages")
    assert (state, "REDIS_URL" in said) == ("fail", True)


def test_what_another_process_has_in_flight_counts_here() -> None:
    row = {"traffic": [[7, 2, 0.0], [8, 0, 100.0]], "keys": {"3": [[[1, 4]], [[0, 50], [30, 20]]]}}
    neighbours.tell("me")
    WebProcess.objects.filter(name="me").update(name="another", doings=row)
    try:
        neighbours.listen("me")
        assert (traffic.in_flight(7), traffic.idle_seconds(7)) == (2, 0.0)
        assert traffic.in_flight(8) == 0
        assert gatekeeper.told() == {}, "what is heard isn't told on"
        WebProcess.objects.all().delete()
    finally:
        neighbours.listen("me")
    assert traffic.in_flight(7) == 0
