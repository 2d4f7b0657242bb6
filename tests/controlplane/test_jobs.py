"""Jobs: legal changes, wishes, order."""

import pytest
from django.test import TestCase

from controlplane.errors import ConflictError, ForbiddenError
from controlplane.models import AuditLine, Job, LiveMessage
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import LEGAL, Desired, Priority, Status
from controlplane.services import jobs
from tests.factories import make_dataset, make_job, make_model, make_run

pytestmark = pytest.mark.django_db
SOMEBODY = Actor(name="somebody", role=Role.USE)
STRANGER = Actor(name="stranger", role=Role.USE)


@pytest.mark.parametrize("before", Status.values)
@pytest.mark.parametrize("after", Status.values)
def test_only_legal_changes_happen(before: str, after: str) -> None:
    job = make_job(status=before)
    if after in LEGAL[before]:
        assert jobs.transition(job.pk, after, reason="test").status == after
        line = AuditLine.objects.get(action="job.status")
        assert line.detail == {"before": before, "after": after, "reason": "test"}
    else:
        with pytest.raises(ConflictError, match=f"is {before}"):
            jobs.transition(job.pk, after, reason="test")
        assert jobs.get(job.pk).status == before
        assert not AuditLine.objects.filter(action="job.status").exists()


def test_a_change_is_announced_with_a_durable_seq_on_queue_and_run() -> None:
    run = make_run()
    jobs.transition(run.job_id, Status.RUNNING, reason="test")
    told = {m.topic_id: m.data["status"] for m in LiveMessage.objects.all()}
    assert told == {"jobs": "running", f"run:{run.pk}": "running"}


def test_a_wish_is_stored_for_a_running_job_and_ends_a_waiting_one() -> None:
    running = make_run(status=Status.RUNNING).job
    waiting = make_job()
    assert jobs.wish(SOMEBODY, running.pk, Desired.STOP).desired == "stop"
    assert jobs.get(running.pk).status == Status.RUNNING
    assert jobs.cancel(SOMEBODY, waiting.pk).status == Status.CANCELLED


def test_only_the_owner_or_an_admin_may_change_a_job() -> None:
    job = make_job()
    with pytest.raises(ForbiddenError, match="belongs to somebody"):
        jobs.cancel(STRANGER, job.pk)
    assert jobs.cancel(SYSTEM, job.pk).status == Status.CANCELLED


def test_a_job_that_has_nothing_to_save_is_cancelled_when_stopped() -> None:
    job = make_job("fetch", Status.RUNNING)
    assert jobs.wish(SOMEBODY, job.pk, Desired.STOP).desired == Desired.CANCEL


def test_only_a_run_can_be_paused() -> None:
    job = make_job("validate", Status.RUNNING)
    with pytest.raises(ConflictError, match="only a training run can be paused"):
        jobs.wish(SOMEBODY, job.pk, Desired.PAUSE)


def test_the_queue_goes_by_priority_then_age() -> None:
    low = make_job(priority=Priority.LOW)
    first, second = make_job(), make_job()
    jobs.set_priority(SOMEBODY, second.pk, "high")
    assert [job.pk for job in jobs.queue()] == [second.pk, first.pk, low.pk]


def test_retry_puts_a_failed_job_back_with_a_clean_slate() -> None:
    job = make_job(status=Status.FAILED, failures=3, error={"code": "x", "message": "y", "fix": ""})
    again = jobs.retry(SOMEBODY, job.pk)
    assert (again.status, again.failures, again.error, again.ended_at) == (Status.PENDING, 0, None, None)


def test_cancelling_and_retrying_a_waiting_validation_is_told_to_its_dataset() -> None:
    dataset = make_dataset(status="validating")
    job = make_job("validate", config={"dataset": dataset.pk})
    jobs.cancel(SOMEBODY, job.pk)
    dataset.refresh_from_db()
    assert (dataset.status, "cancelled" in dataset.reason) == ("rejected", True)
    jobs.retry(SOMEBODY, job.pk)
    dataset.refresh_from_db()
    assert (dataset.status, dataset.reason) == ("validating", "")


def test_cancelling_and_retrying_a_waiting_fetch_is_told_to_its_model() -> None:
    model = make_model(state="fetching")
    job = make_job("fetch", config={"model": str(model.uuid), "source": "hub"})
    jobs.cancel(SOMEBODY, job.pk)
    model.refresh_from_db()
    assert (model.state, "cancelled" in model.error) == ("failed", True)
    jobs.retry(SOMEBODY, job.pk)
    model.refresh_from_db()
    assert (model.state, model.error) == ("fetching", "")


class TransactionTest(TestCase):
    """What a rolled-back change leaves."""

    def test_a_failed_change_announces_nothing(self) -> None:
        job = Job.objects.create(kind="fetch", created_by="somebody", status=Status.DONE)
        with pytest.raises(ConflictError), self.captureOnCommitCallbacks() as callbacks:
            jobs.transition(job.pk, Status.RUNNING, reason="test")
        assert callbacks == []
        assert not LiveMessage.objects.exists()
