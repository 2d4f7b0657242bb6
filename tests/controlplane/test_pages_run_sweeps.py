"""Sweeps of runs on pages and over the API: the form keeps what was typed, and both steer the same service."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from controlplane.models import Run, RunSweep
from controlplane.models.access import Actor, Role
from controlplane.services import run_sweep_work, run_sweeps, run_templates
from tests.controlplane.page_reading import HOSTILE, read
from tests.controlplane.test_run_sweeps import GRID, RANK, RATE, end
from tests.factories import client_of, make_client, make_dataset, make_model

pytestmark = pytest.mark.django_db
JSON = "application/json"
PARTS = ("field", "values", "low", "high", "step", "scale")


@pytest.fixture
def material(home: Path) -> dict[str, Any]:
    """A dataset and a model that are ready."""
    return {"dataset": make_dataset("harbour").pk, "model": make_model("starter").name}


def typed(material: dict[str, Any], *rows: dict[str, str], **fields: str) -> dict[str, Any]:
    """What the form sends."""
    columns = {f"space-{part}": [row.get(part, "") for row in rows] for part in PARTS}
    shared = {"name": "rates", "profile": "", "start": "", "config": "", "max_trials": "", "max_parallel": "1"}
    choosing = {"method": "tpe", "metric": "eval_loss", "seed": "42"}
    return {**material, **shared, **choosing, **columns, **fields}


def jonas() -> Client:
    """A browser of somebody who may work."""
    return client_of("use", "jonas")


def test_what_is_typed_becomes_a_sweep(material: dict[str, Any]) -> None:
    rows: tuple[dict[str, str], ...] = (
        {"field": RATE, "low": "1e-5", "high": "1e-2", "scale": "log"},
        {"field": "data.packing", "values": "true, false"},
        {},
    )
    more = {"config": '{"hyperparams": {"max_steps": 9}}', "max_trials": "12", "max_parallel": "2"}
    response = jonas().post("/runs/sweeps/new", typed(material, *rows, **more))
    sweep = RunSweep.objects.get()
    assert response["Location"] == f"/runs/sweeps/{sweep.pk}/"
    assert sweep.space == [
        {"field": RATE, "low": 1e-5, "high": 1e-2, "step": None, "log": True},
        {"field": "data.packing", "values": [True, False]},
    ]
    assert (sweep.max_trials, sweep.max_parallel, sweep.created_by) == (12, 2, "jonas")
    assert (sweep.profile, sweep.config) == ("plain", {"hyperparams": {"max_steps": 9}})


def test_settings_come_from_a_template_or_a_run(material: dict[str, Any]) -> None:
    settings = {"hyperparams": {"max_steps": 9, "seed": 3}, "profile": {"name": "emoji_think"}}
    template = run_templates.save(Actor("mara", Role.USE), name="short", config=settings)
    over = '{"hyperparams": {"max_steps": 4}}'
    row = {"field": RANK, "values": "4, 8"}
    client = jonas()
    client.post("/runs/sweeps/new", typed(material, row, start=f"template:{template.pk}", config=over))
    sweep = RunSweep.objects.get()
    assert sweep.config == {"hyperparams": {"max_steps": 4, "seed": 3}, "profile": {"name": "emoji_think"}}
    assert sweep.profile == "emoji_think"
    run_sweep_work.work()
    run = Run.objects.get()
    assert client.post("/runs/sweeps/new", typed(material, row, start=f"run:{run.pk}")).status_code == 302
    assert RunSweep.objects.order_by("-id")[0].config["hyperparams"] == {"max_steps": 4, "seed": 3}
    assert "data" not in RunSweep.objects.order_by("-id")[0].config, "each dataset has its own evaluation share"


def test_a_fault_stands_beside_its_row_and_nothing_is_lost(material: dict[str, Any]) -> None:
    rows = ({"field": RANK, "values": "4, 8"}, {"field": RATE, "values": "1e-4, fast"})
    response = jonas().post("/runs/sweeps/new", typed(material, *rows, name="my rates"))
    assert response.status_code == 422
    page = read(response)
    fault = next(item.text for item in page.all("p", class_="fault"))
    assert "it must be a number above 0 and at most 1" in fault
    assert [item.get("value") for item in page.all("input", name="space-values")] == ["4, 8", "1e-4, fast"]
    assert page.by_id("id_name").get("value") == "my rates"
    assert not RunSweep.objects.exists()


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"config": "{"}, "id_config_error"), ({"config": "[1]"}, "id_config_error"),
        ({"config": '{"hyperparams": {"max_steps": 0}}'}, "id_config_error"),
        ({"max_parallel": "0"}, "id_max_parallel_error"), ({"name": ""}, "id_name_error"),
        ({"config": '{"data": {"eval_fraction": 0.0}}'}, "id_metric_error"),
    ],
)  # fmt: skip
def test_a_fault_stands_beside_its_field(material: dict[str, Any], fields: dict[str, str], place: str) -> None:
    response = jonas().post("/runs/sweeps/new", typed(material, {"field": RANK, "values": "4"}, **fields))
    assert response.status_code == 422
    assert read(response).by_id(place).text
    assert not RunSweep.objects.exists()


def test_the_page_shows_its_runs_and_marks_the_best(material: dict[str, Any]) -> None:
    sweep = run_sweeps.create(Actor("jonas", Role.USE), name=HOSTILE, space=GRID, method="grid", **material)
    client = jonas()
    assert "queued within seconds" in read(client.get(f"/runs/sweeps/{sweep.pk}/")).by_id("main").text
    for loss in (0.5, 0.25, 0.75):
        run_sweep_work.work()
        end(sweep.trials.get(state="running"), loss)
    run_sweep_work.work()
    response = client.get(f"/runs/sweeps/{sweep.pk}/")
    page = read(response)
    assert "<script>alert(1)" not in response.content.decode()
    best = sweep.trials.get(number=2)
    assert "Run 2 is the best so far: eval loss 0.25" in " ".join(page.by_id("main").text.split())
    assert page.all("a", href=f"/runs/new?like={best.run_id}")
    assert [page.button(text) is not None for text in ("Pause", "Stop", "Stop now", "Resume")] == [True] * 3 + [False]
    assert "0.25" in read(client.get("/runs/sweeps/")).by_id("main").text
    part = client.get(f"/runs/sweeps/{sweep.pk}/", headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part
    assert "belongs to jonas" in read(client_of("use").get(f"/runs/sweeps/{sweep.pk}/")).by_id("main").text


def test_the_buttons_steer_it(material: dict[str, Any]) -> None:
    sweep = run_sweeps.create(Actor("jonas", Role.USE), name="rates", space=GRID, method="grid", **material)
    client = jonas()
    for action, state in (("pause", "paused"), ("resume", "running"), ("stop", "stopped")):
        assert client.post(f"/runs/sweeps/{sweep.pk}/{action}")["Location"] == f"/runs/sweeps/{sweep.pk}/"
        sweep.refresh_from_db()
        assert sweep.state == state
    assert client.post(f"/runs/sweeps/{sweep.pk}/delete")["Location"] == "/runs/sweeps/"
    assert not RunSweep.objects.exists()


def test_a_reader_looks_and_changes_nothing(material: dict[str, Any]) -> None:
    sweep = run_sweeps.create(Actor("jonas", Role.USE), name="rates", space=GRID, method="grid", **material)
    client = client_of("read")
    assert client.get(f"/runs/sweeps/{sweep.pk}/").status_code == 200
    assert client.post("/runs/sweeps/new", typed(material, {"field": RANK, "values": "4"})).status_code == 403
    for action in ("pause", "resume", "stop", "delete"):
        assert client.post(f"/runs/sweeps/{sweep.pk}/{action}").status_code == 403
    sweep.refresh_from_db()
    assert sweep.state == "running"


@pytest.mark.urls("controlplane.api.urls")
def test_the_api_does_all_of_it(material: dict[str, Any]) -> None:
    user = make_client("use", name="mine")
    body = {"name": "rates", "space": GRID, "method": "grid", **material, "max_parallel": 2}
    made = user.post("/api/run-sweeps", body, content_type=JSON)
    assert made.status_code == 201, made.content
    address = f"/api/run-sweeps/{made.json()['id']}"
    assert (made.json()["max_trials"], made.json()["trials"]) == (6, [])
    run_sweep_work.work()
    end(RunSweep.objects.get().trials.get(number=1), 0.5)
    run_sweep_work.work()
    told = user.get(address).json()
    assert told["counts"] == {"running": 2, "done": 1, "failed": 0}
    assert (told["best"], told["best_value"]) == (1, 0.5)
    first = told["trials"][0]
    assert (first["value"], first["is_best"], first["run_status"], set(first["params"])) == (
        0.5,
        True,
        "done",
        {RATE, RANK},
    )
    assert user.post(f"{address}/pause").json()["state"] == "paused"
    assert user.post(f"{address}/pause").status_code == 409
    assert user.post(f"{address}/resume").json()["state"] == "running"
    assert user.delete(address).status_code == 409
    assert user.post(f"{address}/stop", {"mode": "never"}, content_type=JSON).status_code == 422
    assert user.post(f"{address}/stop", {"mode": "now"}, content_type=JSON).json()["state"] == "stopped"
    run_sweep_work.work()
    assert [sweep["id"] for sweep in user.get("/api/run-sweeps").json()["sweeps"]] == [made.json()["id"]]
    assert make_client("read").post("/api/run-sweeps", body, content_type=JSON).status_code == 403
    assert user.delete(address).status_code == 204
    assert user.get(address).status_code == 404
    wrong = user.post("/api/run-sweeps", {**body, "space": [{"field": "nothing", "values": [1]}]}, content_type=JSON)
    assert [fault["path"] for fault in wrong.json()["faults"]] == ["space.0"]
