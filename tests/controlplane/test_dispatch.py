"""What the dispatcher decides: one bad job stops no other, a retry is not undone, a cancelled job doesn't run."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane import dispatch, stuck
from controlplane.fleet.protocol import AgentRefusedError, AttemptNews, Wish
from controlplane.models import Attempt, Host, Job
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Desired, Status
from controlplane.placement import Place
from controlplane.services import ingest, jobs
from tests.controlplane.hosts import AbsentHost
from tests.factories import make_dataset, make_host, make_job, make_model, make_run

pytestmark = pytest.mark.django_db


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> AbsentHost:
    """The only host; it answers as a machine with room would."""
    absent = AbsentHost()
    row = make_host("absent")
    absent.reading = row.reading
    monkeypatch.setattr(dispatch, "carrier", lambda _host: absent)
    monkeypatch.setattr(stuck, "carrier", lambda _host: absent)
    return absent


def fetch_job() -> Job:
    """A fetch that can be launched."""
    return make_job("fetch", config={"source": "hub", "model": str(make_model(state="fetching").uuid)})


def tick() -> None:
    """One round of deciding, without threads."""
    dispatch.launch_claimed()
    dispatch.launch_pending()
    dispatch.carry_out_wishes()


def status(job: Job) -> str:
    return jobs.get(job.pk).status


def error_of(job: Job) -> dict[str, str]:
    error = jobs.get(job.pk).error
    assert error is not None
    found: dict[str, str] = error
    return found


def test_a_pending_job_is_claimed_launched_and_counted(host: AbsentHost) -> None:
    job = fetch_job()
    tick()
    assert host.launched == [(job.pk, 1)]
    attempt = Attempt.objects.get(job=job)
    assert (status(job), attempt.launched, attempt.number) == (Status.RUNNING, True, 1)


def test_a_job_whose_noun_is_gone_fails_alone(host: AbsentHost) -> None:
    orphan, sound = make_job("fetch"), fetch_job()
    tick()
    assert status(orphan) == Status.FAILED
    assert "deleted" in error_of(orphan)["message"]
    assert host.launched == [(sound.pk, 1)]


def test_what_nobody_foresaw_fails_its_job_alone(host: AbsentHost) -> None:
    broken, sound = make_job("validate", config={"dataset": "no number"}), fetch_job()
    tick()
    tick()
    assert (status(broken), status(sound)) == (Status.FAILED, Status.RUNNING)


def test_a_retry_after_a_refused_launch_is_not_undone(host: AbsentHost) -> None:
    job = fetch_job()
    host.refusal = AgentRefusedError("disk_full", "The disk is full.", "Make room.")
    tick()
    assert jobs.get(job.pk).error == {"code": "disk_full", "message": "The disk is full.", "fix": "Make room."}
    host.refusal = None
    jobs.retry(SYSTEM, job.pk)
    tick()
    tick()
    assert (status(job), host.launched) == (Status.RUNNING, [(job.pk, 2)])


def test_a_host_that_is_not_ready_is_asked_again(host: AbsentHost) -> None:
    job = fetch_job()
    host.refusal = AgentRefusedError("stopping", "The agent is stopping.", "")
    tick()
    assert status(job) == Status.RUNNING
    host.refusal = None
    tick()
    assert host.launched == [(job.pk, 1)]


def test_a_job_cancelled_between_claim_and_launch_is_not_launched(host: AbsentHost) -> None:
    job = fetch_job()
    attempt = dispatch.claim(job, Place(Host.objects.get(), ()))
    assert attempt is not None
    jobs.transition(job.pk, Status.CANCELLED, reason="test")
    dispatch.launch(attempt)
    assert host.launched == []
    attempt.refresh_from_db()
    assert attempt.ended_at is not None


def test_a_process_whose_job_has_ended_here_is_killed(host: AbsentHost) -> None:
    job = fetch_job()
    tick()
    jobs.transition(job.pk, Status.CANCELLED, reason="test")
    host.live = [(job.pk, 1), (987654, 1)]
    dispatch.poll(Host.objects.get())
    assert host.signals == [(job.pk, 1, Wish.CANCEL)]


def test_a_wish_is_delivered_once(host: AbsentHost) -> None:
    job = fetch_job()
    tick()
    jobs.cancel(SYSTEM, job.pk)
    tick()
    tick()
    assert host.signals == [(job.pk, 1, Wish.CANCEL)]
    assert jobs.get(job.pk).phase == "stopping"


def news(job: Job) -> AttemptNews:
    return AttemptNews(job_id=job.pk, attempt=1, offset=0, next_offset=0, lines="", drained=True, state="running",
                       exit=None)  # fmt: skip


def test_events_that_cannot_be_stored_fail_their_job_and_hold_up_no_other(
    host: AbsentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, sound = fetch_job(), fetch_job()
    tick()
    store = ingest.store

    def failing(what: AttemptNews) -> bool:
        if what["job_id"] == poison.pk:
            raise RuntimeError("a bad row")
        return store(what)

    monkeypatch.setattr(ingest, "store", failing)
    host.news = [news(poison), news(sound)]
    for _ in range(dispatch.STORE_TRIES):
        dispatch.poll(Host.objects.get())
    assert (status(poison), status(sound)) == (Status.FAILED, Status.RUNNING)
    assert "a bad row" in error_of(poison)["message"]


def test_a_run_that_reports_nothing_is_killed_and_tried_again(
    host: AbsentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("controlplane.stuck.time.monotonic", lambda: clock[0])
    run = make_run(status=Status.RUNNING)
    row = Host.objects.get()
    Job.objects.filter(pk=run.job_id).update(host=row, attempt_count=1)
    Attempt.objects.create(job_id=run.job_id, number=1, host=row, launched=True)
    watch = stuck.StuckWatch()
    watch.look()
    clock[0] += 899
    watch.look()
    assert host.signals == []
    clock[0] += 2
    watch.look()
    assert host.signals == [(run.job_id, 1, Wish.CANCEL)]
    ended = {"code": None, "signal": 9, "started_at": 1.0, "ended_at": 2.0, "max_rss_bytes": 1, "cpu_seconds": 1.0}
    ingest.store({**news(jobs.get(run.job_id)), "state": "exited", "exit": ended})  # type: ignore[typeddict-item]
    assert (status(run.job), error_of(run.job)["code"]) == (Status.PENDING, "stuck")


def test_a_run_waits_for_a_dataset_that_is_ready(host: AbsentHost) -> None:
    run = make_run(dataset=make_dataset(status="rejected"))
    tick()
    assert status(run.job) == Status.FAILED
    assert "rejected, not ready" in error_of(run.job)["message"]


def test_a_job_that_waits_a_little_says_so(host: AbsentHost) -> None:
    job = fetch_job()
    Job.objects.filter(pk=job.pk).update(not_before=timezone.now() + timedelta(seconds=60))
    tick()
    assert (status(job), host.launched) == (Status.PENDING, [])
    assert jobs.get(job.pk).waiting_reason == "waits a little before it is tried again"
    assert jobs.get(job.pk).desired == Desired.RUN
