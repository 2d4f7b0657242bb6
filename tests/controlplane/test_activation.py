"""The active place: swaps where memory is short, what comes back after a failure, replicas, rolling back, idleness."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, InvalidInputError, UnavailableError
from controlplane.kinds.registry import kind_of
from controlplane.models import Attempt, Deployment, Host
from controlplane.models.access import SYSTEM
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.jobs import Status
from controlplane.services import activation, deployments, engine_watch, jobs, serving_options
from controlplane.services.engine_room import PROCESS_BYTES, room_for
from controlplane.services.routing import traffic
from tests.controlplane.test_deployments import Answering, end, port, ready
from tests.factories import gpu_process, make_deployment, make_gpu, make_host, make_model

__all__ = ["port"]
pytestmark = pytest.mark.django_db(transaction=True)
LARGE = 9_000_000_000
"""With what a process takes more than half of the 12 GiB that `make_host` has free."""


def take_memory(deployment: Deployment, free_bytes: int) -> None:
    """The deployment's host has so much left."""
    assert deployment.host is not None
    host = Host.objects.get(pk=deployment.host.pk)
    host.reading["memory_used_bytes"] = host.reading["memory_total_bytes"] - free_bytes
    host.save()


def short_of_memory(port: int) -> Deployment:
    """An active engine that leaves no room for another."""
    first = ready(make_model("old", size_bytes=LARGE).name, port)
    take_memory(first, 3_000_000_000)
    return first


def start(deployment: Deployment, port: int) -> None:
    """Its process starts and says that it is ready."""
    host = Host.objects.latest("pk")
    job = jobs.transition(deployment.job_id, Status.RUNNING, reason="test", host=host, attempt_count=1)
    attempt = Attempt.objects.create(job=job, number=1, host=host, launched=True)
    with transaction.atomic():
        activation.launching(job, attempt)
        activation.engine_ready(job, attempt, port)


def test_without_room_it_asks_and_then_ends_the_old_engine_first(port: int) -> None:
    old = short_of_memory(port)
    new = make_model("new", size_bytes=LARGE)
    with pytest.raises(ConflictError, match=r"It needs about 10\.9 GB, and 3\.0 GB are free"):
        activation.activate(SYSTEM, "new", swap="ask")
    assert Deployment.objects.count() == 1
    row = activation.activate(SYSTEM, "new", swap="wait")
    old.refresh_from_db()
    assert (row.swaps, old.status, old.is_active) == (True, DeploymentStatus.DRAINING, False)
    assert kind_of(row.job).waits_for(row.job) == "waits until the engine of old has ended"
    end(old, signal=15)
    assert kind_of(row.job).waits_for(row.job) is None
    start(row, port)
    engine_watch.check(deployments.get(row.pk))
    active = deployments.active()
    assert active is not None
    assert active.model_id == new.pk


def test_beside_engines_that_stay_there_must_be_room(port: int) -> None:
    kept = short_of_memory(port)
    Deployment.objects.filter(pk=kept.pk).update(kept=True)
    large = make_model("new", size_bytes=LARGE)
    with pytest.raises(ConflictError, match="has no room beside the engines that stay: old"):
        activation.activate(SYSTEM, "new")
    with pytest.raises(UnavailableError, match="new has no room beside the engines that run"):
        activation.load(large)
    assert Deployment.objects.count() == 1


def test_what_failed_is_not_loaded_again_and_again(port: int) -> None:
    model = make_model("m")
    first = activation.load(model)
    assert activation.load(model).pk == first.pk
    end(first, signal=9)
    now = timezone.now()
    Deployment.objects.filter(pk=first.pk).update(status=DeploymentStatus.FAILED, error="It is broken.", ended_at=now)
    with pytest.raises(UnavailableError, match="could not be started: It is broken") as refused:
        activation.load(model)
    assert 0 < refused.value.retry_after_seconds <= activation.FAILED_PAUSE_SECONDS
    past = timezone.now() - timedelta(seconds=activation.FAILED_PAUSE_SECONDS)
    Deployment.objects.filter(pk=first.pk).update(ended_at=past)
    assert activation.load(model).pk != first.pk


def test_by_itself_it_swaps_only_where_it_must(port: int) -> None:
    first = ready(make_model("old").name, port)
    assert not activation.activate(SYSTEM, make_model("small").name).swaps
    take_memory(first, 1_000_000)
    assert activation.activate(SYSTEM, make_model("large").name).swaps
    with pytest.raises(InvalidInputError, match="swap is one of"):
        activation.activate(SYSTEM, "old", swap="perhaps")


def test_when_the_new_engine_fails_the_old_model_comes_back(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    old = short_of_memory(port)
    row = activation.activate(SYSTEM, make_model("new", size_bytes=LARGE).name)
    end(old, signal=15)
    start(row, port)
    monkeypatch.setattr(Answering, "status", 500)
    engine_watch.check(deployments.get(row.pk))
    monkeypatch.setattr(Answering, "status", 200)
    back = Deployment.objects.latest("pk")
    assert (back.model.name, back.wants_active, back.swaps) == ("old", True, True)
    assert activation.waits_for(back.job) == "waits until the engine of new has ended"
    end(row, signal=9)
    start(back, port)
    monkeypatch.setattr(Answering, "status", 500)
    engine_watch.check(deployments.get(back.pk))  # that fails too: it isn't tried for ever
    assert Deployment.objects.latest("pk").pk == back.pk


def test_on_cards_the_one_with_most_memory_counts_and_what_the_old_engine_holds_there() -> None:
    host = make_host("forge")
    old = make_deployment(make_model("old"), host=host)
    make_gpu(host, 0, memory_total_bytes=24 << 30, memory_used_bytes=20 << 30)
    held = gpu_process(9, memory_used_bytes=15 << 30, job_id=old.job_id)
    make_gpu(host, 1, memory_total_bytes=24 << 30, memory_used_bytes=16 << 30, processes=[held])
    room = room_for(make_model("new", size_bytes=10 << 30), host, [old])
    assert room is not None
    assert (room.free_bytes, room.freed_bytes, room.fits) == (8 << 30, 15 << 30, False)
    assert room.sentence.endswith("not enough for two engines at once.")
    huge = room_for(make_model("huge", size_bytes=40 << 30), host, [old])
    assert huge is not None
    assert "even when the present engine has ended" in huge.sentence
    adapter = make_model("adapter", kind="adapter", size_bytes=0, base=make_model("base", size_bytes=1000))
    fits = room_for(adapter, host, [])
    assert fits is not None
    assert (fits.needed_bytes, fits.fits, fits.sentence) == (1150 + PROCESS_BYTES, True, "")


def test_a_replica_shares_and_takes_the_place_when_the_active_one_ends(port: int) -> None:
    first = ready(make_model("m").name, port)
    replica = activation.add_engine(SYSTEM, "m")
    assert (replica.kept, replica.wants_active) == (False, False)
    start(replica, port)
    engine_watch.check(deployments.get(replica.pk))
    assert [row.pk for row in deployments.ready()] == [first.pk, replica.pk]
    activation.stop(SYSTEM, first.pk)
    active = deployments.active()
    assert active is not None
    assert active.pk == replica.pk


def test_another_model_takes_the_place_of_all_engines_but_those_that_are_kept(port: int) -> None:
    ready(make_model("old").name, port)
    replica = activation.add_engine(SYSTEM, "old")
    beside = activation.add_engine(SYSTEM, make_model("beside").name)
    assert beside.kept
    for row in (replica, beside):
        start(row, port)
        engine_watch.check(deployments.get(row.pk))
    ready(make_model("new").name, port)
    assert sorted(row.model.name for row in deployments.ready()) == ["beside", "new"]
    assert activation.activate(SYSTEM, "beside").is_active  # it answers already: no second engine is needed
    assert [row.model.name for row in deployments.ready()] == ["beside"]
    ready("new", port)
    assert sorted(row.model.name for row in deployments.ready()) == ["beside", "new"]


def test_rolling_back_activates_the_model_before(port: int) -> None:
    with pytest.raises(ConflictError, match="nothing to roll back to"):
        activation.roll_back(SYSTEM)
    for name in ("one", "two", "three"):
        ready(make_model(name).name, port)
    assert [row.model.name for row in activation.history()] == ["three", "two", "one"]
    back = activation.roll_back(SYSTEM)
    assert back.model.name == "two"
    start(back, port)
    engine_watch.check(deployments.get(back.pk))
    assert [row.model.name for row in activation.history()] == ["two", "three", "two", "one"]


def test_an_engine_that_crashed_is_said_to_be_starting_and_why(port: int) -> None:
    row = ready(make_model("m").name, port)
    end(row, signal=11)
    row = deployments.get(row.pk)
    assert (row.status, row.port, row.is_active) == (DeploymentStatus.STARTING, None, True)
    told = deployments.facts(row)["restart"]
    assert (told["failures"], told["most_failures"]) == (1, 3)
    assert "SIGSEGV" in told["reason"]


def test_what_nobody_asks_is_ended_when_its_model_says_so(port: int) -> None:
    active = ready(make_model("active").name, port)
    beside = activation.add_engine(SYSTEM, make_model("beside").name)
    start(beside, port)
    engine_watch.check(deployments.get(beside.pk))
    Deployment.objects.update(ready_at=timezone.now() - timedelta(hours=1))
    engine_watch.end_idle()
    for name in ("active", "beside"):
        serving_options.put(SYSTEM, name, idle_unload_seconds=1)
    traffic.begin(beside.pk)
    engine_watch.end_idle()
    assert deployments.get(beside.pk).status == DeploymentStatus.READY, "it was at work"
    traffic.end(beside.pk)
    engine_watch.end_idle()
    assert deployments.get(beside.pk).status == DeploymentStatus.READY
    traffic._used_at[beside.pk] -= 5
    engine_watch.end_idle()
    assert deployments.get(beside.pk).status == DeploymentStatus.DRAINING
    assert deployments.get(active.pk).status == DeploymentStatus.READY
