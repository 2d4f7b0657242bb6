"""The queue, engines, hosts and settings over the API."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.models.jobs import Status
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]
JSON = "application/json"


@pytest.fixture
def user() -> Client:
    """A client that may work; it acts as `key mine`."""
    return factories.make_client("use", name="mine")


def test_jobs_are_listed_newest_first_and_filtered(user: Client) -> None:
    old = factories.make_job("fetch", Status.DONE)
    new = factories.make_job("train", Status.PENDING)
    assert [job["id"] for job in user.get("/api/jobs").json()["jobs"]] == [new.pk, old.pk]
    assert [job["id"] for job in user.get("/api/jobs?type=fetch").json()["jobs"]] == [old.pk]
    assert [job["id"] for job in user.get("/api/jobs?status=pending&limit=5").json()["jobs"]] == [new.pk]
    assert user.get("/api/jobs?type=dance").status_code == 422
    assert user.get("/api/jobs?status=odd").status_code == 422


def test_a_job_has_its_facts(user: Client) -> None:
    run = factories.make_run()
    told = user.get(f"/api/jobs/{run.job_id}").json()
    assert (told["job_id"], told["type"], told["status"], told["priority"], told["run_id"]) == (
        run.job_id, "train", "pending", "normal", run.pk
    )  # fmt: skip
    assert user.get("/api/jobs/999999").status_code == 404


def test_statistics_count_what_is_no_engine(user: Client) -> None:
    factories.make_job("train", Status.RUNNING)
    factories.make_job("serve", Status.RUNNING)
    factories.make_job("fetch", Status.DONE, ended_at=timezone.now() - timedelta(minutes=5))
    factories.make_job("fetch", Status.DONE, ended_at=timezone.now() - timedelta(hours=5))
    assert user.get("/api/jobs/stats").json() == {
        "pending": 0, "running": 1, "paused": 0, "done": 2, "failed": 0, "cancelled": 0, "jobs_last_hour": 1
    }  # fmt: skip


def test_a_pending_job_is_cancelled_and_put_back(user: Client) -> None:
    job = factories.make_job("fetch", created_by="key mine", config={"model": factories.make_model().uuid.hex})
    assert user.post(f"/api/jobs/{job.pk}/cancel").json()["status"] == "cancelled"
    assert user.post(f"/api/jobs/{job.pk}/cancel").status_code == 409
    assert user.post(f"/api/jobs/{job.pk}/retry").json()["status"] == "pending"
    assert user.post(f"/api/jobs/{job.pk}/retry").status_code == 409


def test_a_priority_is_high_normal_or_low(user: Client) -> None:
    job = factories.make_job(created_by="key mine")
    path = f"/api/jobs/{job.pk}/priority"
    assert user.post(path, {"priority": "high"}, content_type=JSON).json()["priority"] == "high"
    assert user.post(path, {"priority": "urgent"}, content_type=JSON).status_code == 422
    assert user.post(path, {}, content_type=JSON).status_code == 422


@pytest.mark.parametrize(("call", "body"), [("cancel", {}), ("retry", {}), ("priority", {"priority": "low"})])
def test_a_job_of_somebody_else_is_an_admins_matter(user: Client, call: str, body: dict[str, Any]) -> None:
    job = factories.make_job()
    assert user.post(f"/api/jobs/{job.pk}/{call}", body, content_type=JSON).status_code == 403
    assert user.post(f"/api/jobs/999999/{call}", body, content_type=JSON).status_code == 404


# --- Engines, hosts, settings, the audit log --------------------------------------------------------------------------


def test_engines_are_listed_and_stopped_by_an_admin(user: Client) -> None:
    deployment = factories.make_deployment(is_active=True)
    listed = user.get("/api/deployments").json()["deployments"]
    assert [(row["id"], row["status"], row["is_active"]) for row in listed] == [(deployment.pk, "ready", True)]
    path = f"/api/deployments/{deployment.pk}"
    assert user.get(path).json() == listed[0]
    assert user.post(f"{path}/stop").status_code == 403
    admin = factories.make_client("admin")
    stopped = admin.post(f"{path}/stop").json()
    assert stopped["is_active"] is False
    assert stopped["status"] in ("draining", "stopped")
    assert admin.post("/api/deployments/999999/stop").status_code == 404


def test_hosts_are_told_with_their_readings(user: Client) -> None:
    factories.make_host("b", online=False, fault="no answer")
    factories.make_host("a", gpus=1)
    first, second = user.get("/api/hosts").json()["hosts"]
    assert (first["name"], first["online"], len(first["reading"]["gpus"])) == ("a", True, 1)
    assert (second["name"], second["online"], second["fault"]) == ("b", False, "no answer")
    assert user.get("/api/hosts/a").json() == first
    assert user.get("/api/hosts/none").status_code == 404


def test_a_setting_is_read_and_changed_by_an_admin(user: Client) -> None:
    admin = factories.make_client("admin")
    rows = {row["key"]: row for row in admin.get("/api/settings").json()["settings"]}
    assert (rows["jobs.max_failures"]["value"], rows["jobs.max_failures"]["minimum"]) == (3, 1)
    path = "/api/settings/jobs.max_failures"
    assert user.put(path, {"value": 5}, content_type=JSON).status_code == 403
    assert admin.put(path, {"value": 5}, content_type=JSON).json()["value"] == 5
    assert admin.put(path, {"value": 0}, content_type=JSON).status_code == 422
    assert admin.put("/api/settings/no.such", {"value": 1}, content_type=JSON).status_code == 404
    assert {row["key"]: row["value"] for row in admin.get("/api/settings").json()["settings"]}["jobs.max_failures"] == 5


def test_the_audit_log_pages_back() -> None:
    admin = factories.make_client("admin")
    for index in range(3):
        admin.post("/api/keys", {"name": f"k{index}", "role": "read"}, content_type=JSON)
    newest = admin.get("/api/audit?limit=2").json()["lines"]
    assert [line["target"] for line in newest] == ["k2", "k1"]
    older = admin.get(f"/api/audit?limit=1&before_id={newest[-1]['id']}").json()["lines"]
    assert [line["target"] for line in older] == ["k0"]
