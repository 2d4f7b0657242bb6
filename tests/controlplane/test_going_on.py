"""A failed run goes on from a checkpoint of one's choice, with another learning rate: page, API and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from controlplane.errors import ConflictError
from controlplane.kinds.registry import KINDS
from controlplane.models import Attempt, AuditLine, Run, User
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Status
from controlplane.services import going_on
from tests.controlplane.page_reading import read
from tests.factories import client_of, make_checkpoint, make_client, make_host, make_run, make_user

pytestmark = pytest.mark.django_db
JSON = "application/json"


@pytest.fixture
def diverged(home: Path) -> Run:
    """Jonas' run that ran away after its checkpoint of step 20, which was the best."""
    run = make_run(status=Status.FAILED, created_by="jonas")
    run.job.error = {"code": "loss_diverged", "message": "The loss has run away.", "fix": "Lower it."}
    run.job.save()
    for step, loss in ((10, 2.0), (20, 1.0), (30, 9.0)):
        make_checkpoint(run, step, loss=loss, manifest_sha256=f"{step:064d}")
    return run


def jonas() -> Client:
    """A browser of who made the run."""
    client = Client()
    client.force_login(User.objects.filter(username="jonas").first() or make_user("use", "jonas"))
    return client


def test_the_page_proposes_the_best_checkpoint_and_half_the_rate(diverged: Run) -> None:
    page = read(jonas().get(f"/runs/{diverged.pk}/"))
    assert page.by_id("go-on-rate").get("value") == "0.0001"
    assert [item.get("value") for item in page.all("option") if "selected" in item.attributes] == ["20"]
    assert [item.get("value") for item in page.all("option")] == ["30", "20", "10"]
    other = client_of("use", "mara")
    assert 'id="go-on-rate"' not in other.get(f"/runs/{diverged.pk}/").content.decode()


def test_it_goes_on_from_there(diverged: Run) -> None:
    form = {"step": "20", "learning_rate": "5e-5"}
    assert jonas().post(f"/runs/{diverged.pk}/go-on", form)["Location"] == f"/runs/{diverged.pk}/"
    run = Run.objects.get()
    assert (run.job.status, run.job.error) == (Status.PENDING, None)
    assert run.config["hyperparams"]["learning_rate"] == 5e-5
    assert list(run.checkpoints.filter(gone_at=None).values_list("step", flat=True)) == [10, 20]
    line = AuditLine.objects.get(action="run.go_on")
    assert (line.actor, line.detail) == ("jonas", {"step": 20, "learning_rate": 5e-5})
    attempt = Attempt.objects.create(job=run.job, number=2, host=make_host())
    spec = KINDS["train"].spec(run.job, attempt)
    assert spec.inputs.resume_from is not None
    assert (spec.inputs.resume_from.id, spec.inputs.resume_from.sha256) == (f"{run.pk}/20", f"{20:064d}")
    assert spec.config["hyperparams"]["learning_rate"] == 5e-5


def test_a_later_checkpoint_that_is_kept_is_not_given_up(diverged: Run) -> None:
    kept = diverged.folder / "checkpoints" / "step-30"
    (kept / "keep.pin").touch()
    with pytest.raises(ConflictError, match="step 30"):
        going_on.go_on(SYSTEM, diverged.pk, 20)
    assert Run.objects.get().job.status == Status.FAILED
    assert diverged.checkpoints.filter(gone_at=None).count() == 3
    assert going_on.go_on(SYSTEM, diverged.pk, 30).job.status == Status.PENDING


def test_other_faults_go_on_from_the_last_as_they_were(diverged: Run) -> None:
    diverged.job.error = {"code": "out_of_memory", "message": "It did not fit.", "fix": ""}
    diverged.job.save()
    offered = going_on.offer(diverged)
    assert offered is not None
    assert (offered["step"], offered["learning_rate"], offered["ran_away"]) == (30, 2e-4, False)
    told = make_client("admin").post(f"/api/runs/{diverged.pk}/go-on", {}, content_type=JSON).json()
    assert told["status"] == "pending"
    assert Run.objects.get().config == diverged.config


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"step": 15}, 404, "no checkpoint at step 15. There are: 30, 20, 10."),
        ({"learning_rate": 0}, 422, "above 0 and at most 1"),
        ({"learning_rate": 7}, 422, "above 0 and at most 1"),
        ({"rate": 1}, 422, ""),
    ],
)
def test_what_can_not_be_is_refused(diverged: Run, body: dict[str, Any], status: int, told: str) -> None:
    response = make_client("admin").post(f"/api/runs/{diverged.pk}/go-on", body, content_type=JSON)
    assert response.status_code == status
    assert told in response.json()["detail"]
    assert Run.objects.get().job.status == Status.FAILED
    assert jonas().post(f"/runs/{diverged.pk}/go-on", {"step": "x"}).status_code == 422
    assert jonas().post(f"/runs/{diverged.pk}/go-on", {"step": "20", "learning_rate": "fast"}).status_code == 422


@pytest.mark.parametrize("status", [Status.RUNNING, Status.DONE, Status.PAUSED])
def test_only_a_failed_run_goes_on(home: Path, status: str) -> None:
    run = make_run(status=status)
    response = make_client("admin").post(f"/api/runs/{run.pk}/go-on", {}, content_type=JSON)
    assert response.status_code == 409
    failed = make_run(status=Status.FAILED)
    told = make_client("admin").post(f"/api/runs/{failed.pk}/go-on", {}, content_type=JSON)
    assert "it has no checkpoint" in told.json()["detail"]
    assert make_client("use").post(f"/api/runs/{failed.pk}/go-on", {}, content_type=JSON).status_code == 403
