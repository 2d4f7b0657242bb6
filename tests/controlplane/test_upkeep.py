"""Draining and maintenance: what is paused and ended for it, and what goes on again when it is over."""

import pytest

from controlplane.errors import ForbiddenError, InvalidInputError, NotFoundError
from controlplane.fleet.protocol import Wish
from controlplane.models import Attempt, AuditLine, Gpu, Host, Job, Member
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import Desired, Status
from controlplane.services import jobs, upkeep
from tests import factories
from tests.controlplane.hosts import AbsentHost

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
ANNA = Actor(name="anna", role=Role.ADMIN)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> AbsentHost:
    host = AbsentHost()
    monkeypatch.setattr(upkeep, "carrier", lambda _host: host)
    return host


def running(kind: str, host: Host, gpu: Gpu) -> Job:
    """A job that runs on one card, with its attempt."""
    run = factories.make_run() if kind == "train" else None
    job = run.job if run else factories.make_job(kind)
    Job.objects.filter(pk=job.pk).update(status=Status.RUNNING, host=host, gpus=[gpu.uuid], attempt_count=1)
    Attempt.objects.create(job=job, number=1, host=host, gpus=[gpu.uuid], launched=True)
    return job


def test_draining_leaves_alone_what_runs(absent: AbsentHost) -> None:
    host = factories.make_host("tower", gpus=1)
    job = running("train", host, host.gpus.get())
    upkeep.set_host(ANNA, "tower", "draining", "new fans")
    upkeep.look()
    assert jobs.get(job.pk).desired == Desired.RUN
    assert upkeep.words(Host.objects.get()) == "is draining (by anna: new fans)"
    assert [left.pk for left in upkeep.still_here(host)] == [job.pk]
    line = AuditLine.objects.get(action="upkeep.set")
    assert (line.actor, line.target, line.detail["after"]) == ("anna", "host tower", "draining")


def test_maintenance_pauses_runs_which_go_on_when_it_is_over(absent: AbsentHost) -> None:
    host = factories.make_host("tower", gpus=1)
    job = running("train", host, host.gpus.get())
    upkeep.set_host(ANNA, "tower", "maintenance")
    upkeep.look()
    upkeep.look()
    assert jobs.get(job.pk).desired == Desired.PAUSE
    upkeep.set_host(ANNA, "tower", "open")
    upkeep.look()
    assert jobs.get(job.pk).status == Status.RUNNING, "it still writes its checkpoint"
    jobs.transition(job.pk, Status.PAUSED, reason="paused with a checkpoint")
    upkeep.look()
    assert (jobs.get(job.pk).status, jobs.get(job.pk).desired) == (Status.PENDING, Desired.RUN)
    assert Host.objects.get().upkeep_note is None


def test_a_run_that_somebody_has_paused_stays_paused(absent: AbsentHost) -> None:
    host = factories.make_host("tower", gpus=1)
    job = running("train", host, host.gpus.get())
    jobs.wish(SYSTEM, job.pk, Desired.PAUSE)
    upkeep.set_host(ANNA, "tower", "maintenance")
    upkeep.look()
    jobs.transition(job.pk, Status.PAUSED, reason="paused with a checkpoint")
    upkeep.set_host(ANNA, "tower", "open")
    upkeep.look()
    assert jobs.get(job.pk).status == Status.PAUSED


def test_maintenance_of_one_card_concerns_what_works_on_it(absent: AbsentHost) -> None:
    host = factories.make_host("tower", gpus=2)
    first, second = host.gpus.all()
    held, other = running("train", host, first), running("train", host, second)
    engine, spared = running("serve", host, first), running("serve", host, second)
    upkeep.set_gpu(ANNA, "tower", 0, "maintenance")
    upkeep.look()
    upkeep.look()
    assert (jobs.get(held.pk).desired, jobs.get(other.pk).desired) == (Desired.PAUSE, Desired.RUN)
    assert absent.signals == [(engine.pk, 1, Wish.PAUSE)], "once, and not its neighbour"
    assert jobs.get(engine.pk).desired == jobs.get(spared.pk).desired == Desired.RUN


def test_a_run_on_several_hosts_is_paused_when_one_of_them_is_in_maintenance(absent: AbsentHost) -> None:
    host, other = factories.make_host("a", gpus=1), factories.make_host("b", gpus=1)
    job = running("train", host, host.gpus.get())
    Member.objects.create(attempt=job.attempts.get(), number=1, host=other, gpus=[other.gpus.get().uuid])
    assert [left.pk for left in upkeep.still_here(other)] == [job.pk]
    upkeep.set_host(ANNA, "b", "maintenance")
    upkeep.look()
    assert jobs.get(job.pk).desired == Desired.PAUSE


def test_it_is_an_admins_and_says_what_it_can_not_do() -> None:
    factories.make_host("tower", gpus=1)
    with pytest.raises(ForbiddenError):
        upkeep.set_host(Actor(name="ben", role=Role.USE), "tower", "draining")
    with pytest.raises(InvalidInputError, match="choose open, draining, maintenance"):
        upkeep.set_host(ANNA, "tower", "closed")
    with pytest.raises(NotFoundError, match="There is no GPU 7 on tower"):
        upkeep.set_gpu(ANNA, "tower", 7, "draining")
    with pytest.raises(InvalidInputError, match="at most 200"):
        upkeep.set_host(ANNA, "tower", "draining", "x" * 201)
    assert not AuditLine.objects.filter(action="upkeep.set").exists()
