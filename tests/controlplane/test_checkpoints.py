"""Checkpoints marked as ones that stay, and taken away by hand, by the same service from page and API."""

import pytest

from controlplane.errors import ConflictError, ForbiddenError, NotFoundError
from controlplane.models import Job, Run
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import Status
from controlplane.services import checkpoints, models, runs
from tests.factories import make_checkpoint, make_client, make_run
from training.checkpoints import is_kept, path_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


@pytest.fixture
def run() -> Run:
    made = make_run(status=Status.DONE)
    for step in (10, 20):
        make_checkpoint(made, step)
    return made


def test_a_pinned_one_is_kept_in_the_eyes_of_retention(run: Run) -> None:
    client, folder = make_client("admin"), path_of(run.folder / "checkpoints", 10)
    answer = client.post(f"/api/runs/{run.pk}/checkpoints/10/keep", content_type="application/json").json()
    assert (answer["is_kept"], answer["is_pinned"], is_kept(folder)) == (True, True, True)
    assert [row["is_pinned"] for row in client.get(f"/api/runs/{run.pk}/checkpoints").json()] == [True, False]
    refused = client.delete(f"/api/runs/{run.pk}/checkpoints/10")
    assert (refused.status_code, folder.exists()) == (409, True)
    client.post(f"/api/runs/{run.pk}/checkpoints/10/keep", {"keep": False}, content_type="application/json")
    assert not is_kept(folder)
    assert client.delete(f"/api/runs/{run.pk}/checkpoints/10").status_code == 204
    assert not folder.exists()
    assert [row["step"] for row in client.get(f"/api/runs/{run.pk}/checkpoints").json()] == [20]


def test_one_that_a_model_is_made_of_is_kept_until_that_is_deleted(run: Run) -> None:
    folder = path_of(run.folder / "checkpoints", 20)
    model = models.register_checkpoint(SYSTEM, run, checkpoints.get(run, 20), "made-of-it")
    assert is_kept(folder)
    assert not checkpoints.is_pinned(checkpoints.get(run, 20))
    assert model.job is not None
    Job.objects.filter(pk=model.job.pk).update(status=Status.FAILED)
    models.delete(SYSTEM, "made-of-it")
    assert not is_kept(folder)


def test_one_that_has_just_gone_makes_no_model(run: Run) -> None:
    row = checkpoints.get(run, 20)
    checkpoints.folder_of(row).rename(run.folder / "elsewhere")
    with pytest.raises(NotFoundError):
        models.register_checkpoint(SYSTEM, run, row, "of-nothing")
    assert models.count() == 1  # the run's own start


@pytest.mark.parametrize("status", [Status.RUNNING, Status.PENDING, Status.PAUSED])
def test_a_run_that_goes_on_keeps_what_it_needs(status: str) -> None:
    run = make_run(status=status)
    make_checkpoint(run, 10)
    with pytest.raises(ConflictError):
        checkpoints.delete(SYSTEM, run, 10)


def test_only_its_owner_or_an_admin_may(run: Run) -> None:
    other = Actor("other", Role.USE)
    with pytest.raises(ForbiddenError):
        checkpoints.keep(other, run, 10)
    with pytest.raises(ForbiddenError):
        checkpoints.delete(other, run, 10)
    with pytest.raises(NotFoundError, match="There are: 10, 20"):
        checkpoints.keep(SYSTEM, run, 30)


def test_a_deleted_run_leaves_nothing_on_the_disk(run: Run) -> None:
    runs.delete(SYSTEM, run.pk)
    assert not run.folder.exists()
