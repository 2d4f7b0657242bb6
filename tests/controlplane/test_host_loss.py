"""A host that is silent past the grace time, and one that returns: no job is lost, none counts twice."""

import time
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from controlplane import dispatch, host_loss, stuck
from controlplane.fleet.protocol import AttemptNews, HostUnreachableError, Wish
from controlplane.models import Attempt, AuditLine, Host, Job
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Desired, Status
from controlplane.services import ingest, jobs
from tests.controlplane.hosts import AbsentHost
from tests.factories import client_of, make_client, make_host, make_run

pytestmark = pytest.mark.django_db
EVENT = '{"seq":1,"time":1.0,"kind":"progress","done":7,"total":10,"unit":"steps"}\n'


class Clock:
    """This machine's monotonic clock, as the watch reads it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("controlplane.host_loss.time.monotonic", clock)
    return clock


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> AbsentHost:
    """What every host's agent answers."""
    absent = AbsentHost()
    monkeypatch.setattr(dispatch, "carrier", lambda _host: absent)
    monkeypatch.setattr(stuck, "carrier", lambda _host: absent)
    return absent


def running_on(host: Host) -> Attempt:
    """A run at work on a host."""
    run = make_run(status=Status.RUNNING)
    Job.objects.filter(pk=run.job_id).update(host=host, attempt_count=1, phase="active", status=Status.RUNNING)
    return Attempt.objects.create(job_id=run.job_id, number=1, host=host, launched=True)


def watch_for(watch: host_loss.LossWatch, clock: Clock, seconds: float) -> None:
    """Looks every five seconds, as the dispatcher does (oftener)."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += 5
        watch.look()


def heard(host: Host) -> None:
    """The host answers a poll."""
    Host.objects.filter(pk=host.pk).update(last_seen_at=timezone.now())


def make_apart(name: str, **fields: Any) -> Host:
    """A host with a home that nobody else sees."""
    host = make_host(name, **fields)
    host.facts["home_id"] = "f" * 32
    host.save(update_fields=["facts"])
    return host


def test_a_silent_hosts_jobs_wait_as_lost_and_go_on_when_it_returns(clock: Clock, absent: AbsentHost) -> None:
    host = make_host("away")
    attempt = running_on(host)
    watch = host_loss.LossWatch()
    watch.look()
    watch_for(watch, clock, 60)
    assert jobs.get(attempt.job_id).phase == "active"
    watch_for(watch, clock, 10)
    job = jobs.get(attempt.job_id)
    assert (job.status, job.phase) == (Status.RUNNING, "lost")
    heard(host)
    watch.look()
    host.refresh_from_db()
    assert (jobs.get(attempt.job_id).phase, host.lost_at) == ("active", None)
    actions = list(AuditLine.objects.filter(target="away").order_by("id").values_list("action", flat=True))
    assert actions == ["host.lost", "host.return"]


def test_a_lost_job_goes_on_elsewhere_and_its_old_process_is_fenced(clock: Clock, absent: AbsentHost) -> None:
    host = make_apart("away", on_loss="resume")
    attempt = running_on(host)
    watch = host_loss.LossWatch()
    watch.look()
    watch_for(watch, clock, 70)
    job = jobs.get(attempt.job_id)
    assert (job.status, job.host, job.gpus) == (Status.PENDING, None, [])
    assert job.error is not None and job.error["code"] == "host_lost"

    jobs.transition(job.pk, Status.RUNNING, reason="elsewhere", host=make_host("other"), attempt_count=2)
    news = AttemptNews(job_id=job.pk, attempt=1, offset=0, next_offset=len(EVENT), lines=EVENT, drained=True,
                       state="running", exit=None)  # fmt: skip
    assert ingest.store(news) is False
    assert jobs.get(job.pk).progress is None
    Attempt.objects.filter(pk=attempt.pk).update(ended_at=timezone.now() - timedelta(seconds=60))
    heard(host)
    absent.live, absent.reading = [(job.pk, 1)], host.reading
    dispatch.poll(Host.objects.get(pk=host.pk))
    assert absent.signals == [(job.pk, 1, Wish.CANCEL)]
    assert jobs.get(job.pk).status == Status.RUNNING


@pytest.mark.parametrize("hold", ["desired", "pinned", "shared home", "sees the library", "setting"])
def test_what_must_not_go_on_elsewhere_waits(clock: Clock, absent: AbsentHost, hold: str) -> None:
    host = make_apart("away", on_loss="wait" if hold == "setting" else "resume", home_id="a" * 32)
    attempt = running_on(host)
    if hold == "desired":
        jobs.cancel(SYSTEM, attempt.job_id)
    if hold == "pinned":
        Job.objects.filter(pk=attempt.job_id).update(is_pinned=True)
    if hold == "shared home":
        make_host("twin", home_id="a" * 32)
    if hold == "sees the library":
        Host.objects.filter(pk=host.pk).update(shared_files={"here": "/", "there": "/mnt"})
    watch = host_loss.LossWatch()
    watch.look()
    watch_for(watch, clock, 70)
    assert jobs.get(attempt.job_id).status == Status.RUNNING


def test_the_job_of_another_installation_is_not_ended_for_its_number(absent: AbsentHost) -> None:
    attempt = running_on(make_host("ours"))
    Attempt.objects.filter(pk=attempt.pk).update(ended_at=timezone.now() - timedelta(seconds=60))
    absent.live = [(attempt.job_id, 1)]
    newcomer = make_host("joined with a home that has been at work")
    absent.reading = newcomer.reading
    dispatch.poll(newcomer)
    assert absent.signals == []


def test_a_stop_given_while_the_host_is_away_applies_when_it_returns(absent: AbsentHost) -> None:
    host = make_host("away")
    attempt = running_on(host)
    Host.objects.update(last_seen_at=timezone.now() - timedelta(minutes=5))
    jobs.wish(SYSTEM, attempt.job_id, Desired.STOP)
    dispatch.carry_out_wishes()
    assert absent.signals == []
    heard(host)
    dispatch.carry_out_wishes()
    dispatch.carry_out_wishes()
    assert absent.signals == [(attempt.job_id, 1, Wish.STOP)]


def test_time_in_which_nobody_looked_is_not_the_hosts_silence(clock: Clock, absent: AbsentHost) -> None:
    attempt = running_on(make_apart("there", on_loss="resume"))
    watch = host_loss.LossWatch()
    watch.look()
    clock.now += 3600  # this process was stopped, or its machine slept
    watch.look()
    watch_for(watch, clock, 55)
    assert jobs.get(attempt.job_id).phase == "active"


def test_without_a_way_to_the_fleet_no_host_of_it_is_lost(
    clock: Clock, absent: AbsentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = running_on(make_apart("far", carrier="ray", on_loss="resume"))

    class Down:
        is_up = False

    monkeypatch.setattr(host_loss, "bridge", Down)
    watch = host_loss.LossWatch()
    watch.look()
    watch_for(watch, clock, 300)
    assert jobs.get(attempt.job_id).phase == "active"


def test_a_clock_that_is_an_hour_off_is_told_and_loses_nothing(
    clock: Clock, absent: AbsentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_apart("ahead", on_loss="resume")
    attempt = running_on(host)
    now = time.time()
    poll = absent.poll

    def ahead(*args: object, **named: object) -> dict[str, object]:
        return {**poll([], 0.0), "now": now + 3600}

    monkeypatch.setattr(absent, "poll", ahead)
    watch = host_loss.LossWatch()
    for second in range(80):
        absent.reading = {**host.reading, "time": now + 3600 + second}
        dispatch.poll(host)
        clock.now += 1
        watch.look()
    host.refresh_from_db()
    assert host.clock_skew_seconds == pytest.approx(3600, abs=30)
    assert host.is_online
    assert jobs.get(attempt.job_id).phase == "active"


def test_a_host_that_nobody_reaches_is_not_asked(absent: AbsentHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host("away", online=False)
    running_on(host)

    def unreachable(*_args: object) -> None:
        raise HostUnreachableError("away")

    monkeypatch.setattr(absent, "signal", unreachable)
    Job.objects.update(desired=Desired.CANCEL)
    dispatch.carry_out_wishes()
    assert Attempt.objects.get().wish_sent == ""


def test_an_admin_says_what_becomes_of_a_hosts_jobs_by_page_and_api() -> None:
    host = make_host("somewhere")
    answer = make_client("admin").patch("/api/hosts/somewhere", {"on_loss": "resume"}, content_type="application/json")
    assert (answer.status_code, answer.json()["on_loss"], answer.json()["lost_at"]) == (200, "resume", None)
    wrong = make_client("admin").patch("/api/hosts/somewhere", {"on_loss": "panic"}, content_type="application/json")
    assert wrong.status_code == 422
    assert "There is no 'panic'" in wrong.content.decode()
    refused = make_client("use").patch("/api/hosts/somewhere", {"on_loss": "wait"}, content_type="application/json")
    assert refused.status_code == 403
    page = client_of("admin")
    assert "Jobs go on elsewhere" in page.get("/hosts/somewhere/").content.decode()
    page.post("/hosts/somewhere/edit", {"role": "both", "on_loss": "wait", "labels": "", "group": "", "address": ""})
    host.refresh_from_db()
    assert host.on_loss == "wait"
    assert AuditLine.objects.filter(action="host.edit", target="host somewhere").count() == 2
