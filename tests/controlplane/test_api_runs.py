"""Training runs over the API: creating, what a run tells, curves, checkpoints, stopping."""

from typing import Any

import pytest
from django.db import transaction
from django.test import Client

from controlplane.models import Job, LanguageModel, Run
from controlplane.models.jobs import Status
from controlplane.services import curves
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls"), pytest.mark.usefixtures("home")]
JSON = "application/json"


@pytest.fixture
def user() -> Client:
    """A client that may work; it acts as `key mine`."""
    return factories.make_client("use", name="mine")


def create(client: Client, **fields: Any) -> Any:
    body = {"name": "first", "profile": "plain", "priority": "high", "config": {}, **fields}
    return client.post("/api/runs", body, content_type=JSON)


def test_a_run_is_queued_with_a_whole_configuration(user: Client) -> None:
    dataset, model = factories.make_dataset("chats"), factories.make_model("Qwen/Qwen3-0.6B")
    config = {"hyperparams": {"learning_rate": 1e-3, "max_steps": 5}, "data": {"eval_fraction": 0.2}}
    response = create(user, dataset=dataset.pk, model=model.name, config=config)
    assert response.status_code == 201, response.content
    answer = response.json()
    run = Run.objects.select_related("job").get(pk=answer["id"])
    assert answer == {"id": run.pk, "job_id": run.job_id, "status": "pending"}
    assert (run.job.kind, run.job.priority, run.created_by) == ("train", 2, "key mine")
    assert run.config["hyperparams"]["learning_rate"] == 1e-3
    assert run.config["hyperparams"]["weight_decay"] == 0.0
    assert run.config["data"]["eval_fraction"] == 0.2


def test_a_dataset_by_name_is_its_newest_version(user: Client) -> None:
    factories.make_dataset("chats")
    newest = factories.make_dataset("chats")
    response = create(user, dataset="chats", model=factories.make_model().name)
    assert Run.objects.get(pk=response.json()["id"]).dataset_id == newest.pk


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"hyperparams": {"learning_rate": 5}}, "config.hyperparams.learning_rate"),
        ({"hyperparams": {"learning_rate": "fast"}}, "config.hyperparams.learning_rate"),
        ({"hyperparams": {"learning_rat": 1e-4}}, "config.hyperparams.learning_rat"),
        ({"hyperparam": {}}, "config.hyperparam"),
        ({"data": {"eval_fraction": 0.9}}, "config.data.eval_fraction"),
        ({"model": {"method": "magic"}}, "config.model.method"),
        ({"locked": {"model_architecture": "LlamaForCausalLM"}}, "config.locked.model_architecture"),
        (
            {"monitoring": {"evaluate_checkpoints": True}, "data": {"eval_fraction": 0.0}},
            "config.monitoring.evaluate_checkpoints",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_with_its_path(
    user: Client, config: dict[str, Any], path: str
) -> None:
    dataset, model = factories.make_dataset(), factories.make_model()
    response = create(user, dataset=dataset.pk, model=model.name, config=config)
    assert response.status_code == 422, response.content
    assert [fault["path"] for fault in response.json()["faults"]] == [path]
    assert response.json()["faults"][0]["message"]
    assert not Run.objects.exists()
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"name": ""}, 422),
        ({"profile": "no-such"}, 422),
        ({"priority": "urgent"}, 422),
        ({"dataset": 999999}, 404),
        ({"dataset": "no such"}, 404),
        ({"model": "no/such"}, 404),
        ({"config": []}, 422),
        ({"surplus": 1}, 422),
    ],
)
def test_a_run_of_what_is_not_there_is_refused(user: Client, fields: dict[str, Any], status: int) -> None:
    whole = {"dataset": factories.make_dataset().pk, "model": factories.make_model().name, **fields}
    assert create(user, **whole).status_code == status
    assert not Run.objects.exists()


def test_a_run_needs_a_dataset_and_a_model_that_are_ready(user: Client) -> None:
    waiting = factories.make_dataset(status="validating")
    assert create(user, dataset=waiting.pk, model=factories.make_model().name).status_code == 422
    coming = factories.make_model(state="fetching")
    assert create(user, dataset=factories.make_dataset().pk, model=coming.name).status_code == 422


def test_what_a_run_tells(user: Client) -> None:
    run = factories.make_run(
        "first", status=Status.RUNNING, last={"loss": 1.5, "grad_norm": "NaN", "tokens_per_second": 900.0},
        last_step=10, total_steps=40, epoch=0.25,
    )  # fmt: skip
    told = user.get(f"/api/runs/{run.pk}").json()
    assert told["status"] == "running"
    assert {"step": 10, "total_steps": 40, "epoch": 0.25, "tokens_per_second": 900.0}.items() <= told[
        "progress"
    ].items()
    assert "eta_seconds" in told["progress"]
    assert told["last"] == {"loss": 1.5, "grad_norm": "NaN", "tokens_per_second": 900.0}
    assert {"phase", "result", "error", "job_id", "config"} <= set(told)
    assert user.get("/api/runs").json()["runs"] == [told]
    assert user.get(f"/api/runs?before_id={run.pk}").json()["runs"] == []
    assert user.get("/api/runs/999999").status_code == 404


def test_curves_are_chosen_cut_and_thinned(user: Client) -> None:
    run = factories.make_run()
    points = [(step, float(step), 1000.0 + step) for step in range(1, 101)]
    with transaction.atomic():
        curves.append(run, "loss", [*points, (101, float("nan"), 1101.0)])
        curves.append(run, "eval_loss", points[::10])
    path = f"/api/runs/{run.pk}/metrics"
    whole = user.get(path).json()
    assert set(whole["series"]) == {"loss", "eval_loss"}
    assert whole["last_step"] == 101
    assert whole["series"]["loss"]["step"] == list(range(1, 102))
    assert whole["series"]["loss"]["value"][-1] == "NaN"
    assert set(user.get(f"{path}?keys=loss,nothing").json()["series"]) == {"loss"}
    assert set(user.get(f"{path}?keys=loss&keys=eval_loss").json()["series"]) == {"loss", "eval_loss"}
    assert user.get(f"{path}?keys=loss&after_step=99").json()["series"]["loss"]["step"] == [100, 101]
    assert len(user.get(f"{path}?keys=loss&max_points=20").json()["series"]["loss"]["step"]) <= 20
    assert user.get(f"{path}?max_points=0").status_code == 422
    assert user.get("/api/runs/999999/metrics").status_code == 404


def test_checkpoints_come_in_order_with_the_best_marked(user: Client) -> None:
    run = factories.make_run()
    for step, eval_loss in ((20, 1.0), (10, 0.5), (30, 2.0)):
        factories.make_checkpoint(run, step, eval_loss=eval_loss)
    listed = user.get(f"/api/runs/{run.pk}/checkpoints").json()
    assert [(item["step"], item["eval_loss"], item["is_best"]) for item in listed] == [
        (10, 0.5, True), (20, 1.0, False), (30, 2.0, False)
    ]  # fmt: skip
    assert set(listed[0]) == {
        "step", "loss", "eval_loss", "bytes", "created_at", "is_best", "is_kept", "is_pinned", "coming_from",
    }  # fmt: skip


def test_a_checkpoint_becomes_a_model_by_a_job(user: Client) -> None:
    run = factories.make_run()
    factories.make_checkpoint(run, 10)
    response = user.post(f"/api/runs/{run.pk}/checkpoints/10/register", {"id": "mine/step-10"}, content_type=JSON)
    assert response.status_code == 201, response.content
    answer = response.json()
    assert (answer["id"], answer["state"], answer["run_id"], answer["checkpoint_step"]) == (
        "mine/step-10", "fetching", run.pk, 10
    )  # fmt: skip
    config = Job.objects.get(pk=answer["job_id"]).config
    assert (config["source"], config["path"]) == ("checkpoint", str(run.folder / "checkpoints" / "step-10"))
    assert LanguageModel.objects.get(name="mine/step-10").base == run.model
    path = f"/api/runs/{run.pk}/checkpoints"
    assert user.post(f"{path}/10/register", {"id": "mine/step-10"}, content_type=JSON).status_code == 409
    assert user.post(f"{path}/11/register", {"id": "other"}, content_type=JSON).status_code == 404
    assert user.post(f"{path}/10/register", {"id": "../x"}, content_type=JSON).status_code == 422


def test_a_running_run_is_stopped_paused_and_resumed_by_wish(user: Client) -> None:
    run = factories.make_run(status=Status.RUNNING, created_by="key mine")
    path = f"/api/runs/{run.pk}"
    assert user.post(f"{path}/pause").json()["desired"] == "pause"
    assert user.post(f"{path}/resume").status_code == 409
    Job.objects.filter(pk=run.job_id).update(status=Status.PAUSED)
    assert user.post(f"{path}/pause").status_code == 409
    assert user.post(f"{path}/resume").json()["status"] == "pending"
    Job.objects.filter(pk=run.job_id).update(status=Status.RUNNING)
    assert user.post(f"{path}/stop", {"mode": "save"}, content_type=JSON).json()["desired"] == "stop"
    assert user.post(f"{path}/stop", {"mode": "now"}, content_type=JSON).json()["desired"] == "cancel"
    assert user.post(f"{path}/stop", {"mode": "later"}, content_type=JSON).status_code == 422


@pytest.mark.parametrize("call", ["stop", "pause", "resume"])
def test_a_run_of_somebody_else_is_an_admins_matter(user: Client, call: str) -> None:
    status = Status.PAUSED if call == "resume" else Status.RUNNING
    run = factories.make_run(status=status)
    assert user.generic("POST", f"/api/runs/{run.pk}/{call}").status_code == 403
    assert factories.make_client("admin").generic("POST", f"/api/runs/{run.pk}/{call}").status_code == 200
    assert user.generic("POST", f"/api/runs/999999/{call}").status_code == 404


def test_a_run_that_has_ended_is_deleted(user: Client) -> None:
    running = factories.make_run(status=Status.RUNNING, created_by="key mine")
    done = factories.make_run(status=Status.DONE, created_by="key mine")
    assert user.delete(f"/api/runs/{running.pk}").status_code == 409
    assert user.delete(f"/api/runs/{done.pk}").status_code == 204
    assert not Run.objects.filter(pk=done.pk).exists()
    assert user.delete(f"/api/runs/{factories.make_run(status=Status.DONE).pk}").status_code == 403
