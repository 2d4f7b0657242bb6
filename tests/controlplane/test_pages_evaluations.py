"""Evaluations on pages and over the API: the form, one of them, rows by filter, two compared, the leaderboard."""

import json
from typing import Any

import pytest
from django.test import Client

from controlplane.models import Evaluation
from controlplane.models.jobs import Status
from tests.controlplane.evaluations import logged, make_evaluation
from tests.controlplane.page_reading import HOSTILE, read
from tests.factories import chat_rows, client_of, make_client, make_dataset, make_model, make_run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
JSON = "application/json"


def typed(**fields: Any) -> dict[str, Any]:
    """What the form sends."""
    defaults = {
        "model": "mine", "dataset": str(make_dataset(rows=chat_rows(40)).pk), "rows": "", "max_samples": "1000",
        "max_tokens": "64", "name": "", "metrics": ["accuracy", "loss"], "pattern": "", "keep_texts": "on",
    }  # fmt: skip
    return {**defaults, **fields}


# --- Pages ------------------------------------------------------------------------------------------------------------


def test_the_form_makes_an_evaluation() -> None:
    make_model("mine")
    client = client_of("use", "jonas")
    page = read(client.get("/evaluate/new?model=mine"))
    assert [box.get("value") for box in page.all("input", name="metrics") if "checked" in box.attributes] == [
        "accuracy", "exact_match", "loss",
    ]  # fmt: skip
    answer = client.post("/evaluate/new", typed(name="first look", metrics=["bleu"]))
    row = Evaluation.objects.get()
    assert answer["Location"] == f"/evaluate/{row.pk}/"
    assert (row.name, row.metrics, row.take, row.max_tokens, row.created_by) == ("first look", ["bleu"], 2, 64, "jonas")


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"metrics": ["regex"]}, "id_pattern_error"), ({"metrics": []}, "id_metrics_error"),
        ({"max_samples": "0"}, "id_max_samples_error"), ({"max_tokens": "many"}, "id_max_tokens_error"),
    ],
)  # fmt: skip
def test_a_fault_stands_beside_its_field(fields: dict[str, Any], place: str) -> None:
    make_model("mine")
    answer = client_of("use").post("/evaluate/new", typed(**fields, name="kept"))
    assert answer.status_code == 422
    page = read(answer)
    assert page.by_id(place).text
    assert page.by_id("id_name").get("value") == "kept"
    assert not Evaluation.objects.exists()


def test_one_evaluation_shows_figures_with_intervals_and_its_rows() -> None:
    rows = [logged(0, 1, answer=HOSTILE), logged(1, 0, faults=["The first line is wrong."]), logged(2, None)]
    row = make_evaluation(rows=rows, name=HOSTILE)
    page = read(client_of("read").get(f"/evaluate/{row.pk}/"))
    assert HOSTILE in page.one("h1").text
    text = page.by_id("main").text
    for words in ("50.0", "9.5 to 90.5", "1 failed", "The first line is wrong.", "The device is full."):
        assert words in text
    assert HOSTILE in page.by_id("example-rows").text
    assert page.button("Delete") is None, "it is somebody else's"


def test_rows_are_filtered_in_place() -> None:
    row = make_evaluation([1, 0, 0])
    client = client_of("read")
    part = read(client.get(f"/evaluate/{row.pk}/examples?wrong=yes"))
    assert "rows 1 to 2 of 2" in part.source
    assert "Answer 0." not in part.source
    assert "No row is so" in read(client.get(f"/evaluate/{row.pk}/examples?search=nowhere")).source
    assert client.get(f"/evaluate/{row.pk}/examples?offset=x").status_code == 200


def test_one_that_runs_shows_how_far_it_is() -> None:
    row = make_evaluation(status=Status.RUNNING)
    row.job.progress = {"done": 30, "total": 120, "unit": "rows", "note": "answering, 9 rows/s"}
    row.job.save()
    text = read(client_of("read").get(f"/evaluate/{row.pk}/")).by_id("main").text
    assert "30 of 120 rows, answering, 9 rows/s" in text


def test_two_are_compared_in_words() -> None:
    dataset = make_dataset()
    first = make_evaluation([1] * 12, model=make_model("sharp"), dataset=dataset)
    second = make_evaluation([0] * 12, model=make_model("dull"), dataset=dataset)
    client = client_of("read")
    assert "sharp" in read(client.get(f"/evaluate/{second.pk}/")).by_id("compare-with").text
    text = read(client.get(f"/evaluate/compare?first={first.pk}&second={second.pk}")).by_id("main").text
    assert "sharp is really better than dull by accuracy" in text
    assert "Wrong 3." in text
    assert client.get("/evaluate/compare?first=x&second=1").status_code == 422
    assert client.get(f"/evaluate/compare?first={first.pk}&second=999").status_code == 404


def test_the_lists_and_the_leaderboard() -> None:
    assert "Nothing evaluated yet" in read(client_of("use").get("/evaluate/")).by_id("main").text
    row = make_evaluation([1, 1, 0], model=make_model("sharp"))
    waiting = make_evaluation(status=Status.PENDING)
    client = client_of("use")
    page = read(client.get("/evaluate/"))
    assert page.all("a", href=f"/evaluate/{row.pk}/")
    assert page.all("a", href=f"/evaluate/{waiting.pk}/")
    board = read(client.get(f"/evaluate/datasets/{row.dataset_id}/")).by_id("main").text
    assert "sharp" in board
    assert "66.7 %" in board
    assert "No model has this figure" in read(client.get(f"/evaluate/datasets/{row.dataset_id}/?metric=bleu")).source
    assert client.get(f"/evaluate/jobs/{row.job_id}")["Location"] == f"/evaluate/{row.pk}/"
    assert "Evaluate" in read(client.get("/queue/")).source


def test_a_runs_checkpoints_under_its_curve() -> None:
    run = make_run(status=Status.DONE)
    client = client_of("use")
    assert "Once there is a checkpoint" in client.get(f"/runs/{run.pk}/evaluations").content.decode()
    make_evaluation([1, 0, 1, 1], run=run, checkpoint_step=20, dataset=run.dataset)
    text = client.get(f"/runs/{run.pk}/evaluations").content.decode()
    assert "75.0 %" in text
    assert client.post(f"/runs/{run.pk}/evaluate").status_code == 409, "there is no checkpoint on the disk"


def test_who_may_only_look_cant_ask() -> None:
    make_model("mine")
    row = make_evaluation()
    client = client_of("read")
    assert client.post("/evaluate/new", typed()).status_code == 403
    assert client.post(f"/evaluate/{row.pk}/delete").status_code == 403


# --- The API ----------------------------------------------------------------------------------------------------------


def post(client: Client, path: str, **body: Any) -> Any:
    return client.post(path, json.dumps(body), content_type=JSON)


def test_an_old_client_asks_and_reads() -> None:
    make_model("mine")
    make_dataset("harbour", rows=chat_rows(40))
    client = make_client("use", "old")
    answer = post(
        client, "/api/eval/jobs", model_id="mine", name="nightly", dataset_ref="harbour", metrics=["accuracy"],
        max_samples=1000, per_example_logging=True,
    )  # fmt: skip
    assert answer.status_code == 201
    job = answer.json()["job_id"]
    told = client.get(f"/api/eval/jobs/{job}").json()
    assert {name: told[name] for name in ("job_id", "type", "model_id", "status", "progress", "result")} == {
        "job_id": job, "type": "eval", "model_id": "mine", "status": "pending", "progress": None, "result": None,
    }  # fmt: skip
    assert [row["job_id"] for row in client.get("/api/eval/jobs").json()["evaluations"]] == [job]
    assert client.get("/api/jobs?type=eval").json()["jobs"][0]["job_id"] == job
    assert client.post(f"/api/jobs/{job}/cancel").json()["status"] == "cancelled"
    assert client.delete(f"/api/eval/jobs/{job}").status_code == 204
    assert client.get(f"/api/eval/jobs/{job}").status_code == 404


def test_a_result_has_every_field_and_its_rows_are_paged() -> None:
    row = make_evaluation([1, 0, 1])
    client = make_client("read")
    told = client.get(f"/api/eval/jobs/{row.job_id}?examples=true&limit=1&offset=1").json()
    result = told["result"]
    assert {"accuracy", "total_samples", "correct", "avg_loss", "exact_match", "loss", "ci95"} <= set(result)
    assert set(result["ci95"]) == {"accuracy", "exact_match", "loss"}
    assert (told["examples"]["total"], told["examples"]["offset"]) == (3, 1)
    (example,) = told["examples"]["rows"]
    assert (example["row"], example["answer"], example["scores"]["accuracy"]) == (1, "Wrong 1.", 0.0)
    assert client.get(f"/api/eval/jobs/{row.job_id}?examples=true&wrong=true").json()["examples"]["total"] == 1
    assert client.get(f"/api/eval/jobs/{row.job_id}").json()["examples"] is None
    assert client.get(f"/api/eval/jobs/{row.job_id}?limit=0").status_code == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422), ({"model_id": "mine"}, 422), ({"model_id": "mine", "dataset_ref": "none"}, 404),
        ({"model_id": "none", "dataset_ref": "harbour"}, 404), ({"run_id": 99, "checkpoint_step": 1}, 404),
        ({"run_id": 99, "checkpoint_step": 1, "model_id": "mine"}, 422),
        ({"model_id": "mine", "dataset_ref": "harbour", "metrics": ["wit"]}, 422),
        ({"model_id": "mine", "dataset_ref": "harbour", "max_samples": -1}, 422),
        ({"model_id": "mine", "dataset_ref": "harbour", "speed": 3}, 422),
        ({"model_id": "mine", "dataset_ref": "harbour", "priority": "now"}, 422),
    ],
)  # fmt: skip
def test_bad_calls_change_nothing(body: dict[str, Any], status: int) -> None:
    make_model("mine")
    make_dataset("harbour")
    answer = post(make_client("use"), "/api/eval/jobs", **body)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert not Evaluation.objects.exists()


def test_two_jobs_are_compared_and_ranked() -> None:
    dataset = make_dataset("harbour")
    first = make_evaluation([1] * 12, model=make_model("sharp"), dataset=dataset)
    second = make_evaluation([0] * 12, model=make_model("dull"), dataset=dataset)
    client = make_client("read")
    told = client.get(f"/api/eval/compare?first={first.job_id}&second={second.job_id}").json()
    accuracy = next(item for item in told["metrics"] if item["metric"] == "accuracy")
    assert (accuracy["difference"], accuracy["is_real"], accuracy["rows"]) == (1.0, True, 12)
    assert accuracy["p_value"] == pytest.approx(2 * 0.5**12)
    assert "really better" in accuracy["sentence"]
    for number in (999, 10**30):
        assert client.get(f"/api/eval/compare?first={first.job_id}&second={number}").status_code == 404
    assert client.get(f"/api/eval/compare?first={first.job_id}&second={second.job_id}&confidence=2").status_code == 422
    board = client.get("/api/eval/leaderboard?dataset=harbour").json()
    assert [entry["model_id"] for entry in board["tables"][0]["entries"]] == ["sharp", "dull"]
    assert board["tables"][0]["entries"][1]["note"] == "really behind"


def test_a_small_key_cant_ask() -> None:
    make_model("mine")
    make_dataset("harbour")
    answer = post(make_client("read"), "/api/eval/jobs", model_id="mine", dataset_ref="harbour")
    assert answer.status_code == 403
