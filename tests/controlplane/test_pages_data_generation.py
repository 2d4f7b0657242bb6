"""Generated data on pages and over the API: the form, one generation, its review, the dataset that it becomes."""

import json
from typing import Any

import pytest
from django.test import Client

from controlplane.models import DataGeneration, Dataset
from controlplane.models.jobs import Status
from controlplane.services import data_generation
from controlplane.services.data_generation_dataset import work
from tests.controlplane.data_generations import line, make_generation, some_rows, turns
from tests.controlplane.page_reading import HOSTILE, read
from tests.factories import client_of, make_client, make_dataset, make_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
JSON = "application/json"
HERE = "/datasets/generate/"


def typed(**fields: Any) -> dict[str, Any]:
    """What the form sends."""
    defaults = {
        "strategy": "self_instruct", "model": "mine", "seeds": str(make_dataset("harbour").pk), "num_examples": "20",
        "name": "", "domain": "", "temperature": "0.8", "top_p": "0.95", "max_tokens": "64",
        "similarity_threshold": "0.7", "seed": "1", "check": "on", "review": "on",
    }  # fmt: skip
    return {**defaults, **fields}


def for_review(*rows: bytes, **fields: Any) -> DataGeneration:
    """A generation whose rows wait for a review."""
    row = make_generation(list(rows) or some_rows(), **fields)
    work()
    return data_generation.get(row.pk)


# --- Pages ------------------------------------------------------------------------------------------------------------


def test_the_form_makes_a_generation() -> None:
    make_model("mine")
    client = client_of("use", "jonas")
    page = read(client.get(f"{HERE}new?model=mine"))
    assert [box.get("value") for box in page.all("input", name="strategy") if "checked" in box.attributes] == [
        "self_instruct"
    ]
    answer = client.post(f"{HERE}new", typed(domain="tides", name="more"))
    row = DataGeneration.objects.get()
    assert answer["Location"] == f"{HERE}{row.pk}/"
    assert (row.name, row.strategy, row.options["domain"], row.created_by) == (
        "more",
        "self_instruct",
        "tides",
        "jonas",
    )
    assert (row.options["check"], row.review) == (True, True)
    without = typed(strategy="regime3", model="", seeds="")
    del without["review"]
    client.post(f"{HERE}new", without)
    assert not DataGeneration.objects.get(strategy="regime3").review


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"model": ""}, "id_model_error"), ({"seeds": ""}, "id_seeds_error"), ({"strategy": "x"}, "id_strategy_error"),
        ({"num_examples": "0"}, "id_num_examples_error"), ({"temperature": "nan"}, "id_temperature_error"),
        ({"name": "a/b"}, "id_name_error"), ({"domain": "x" * 501}, "id_domain_error"),
    ],
)  # fmt: skip
def test_a_fault_stands_beside_its_field(fields: dict[str, Any], place: str) -> None:
    make_model("mine")
    answer = client_of("use").post(f"{HERE}new", typed(**{"seed": "77", **fields}))
    assert answer.status_code == 422
    page = read(answer)
    assert page.by_id(place).text
    assert page.by_id("id_seed").get("value") == "77"
    assert not DataGeneration.objects.exists()


def test_where_it_is_reached_from() -> None:
    model, row = make_model("sea/style"), for_review()
    client = client_of("use")
    for address, link in (
        ("/datasets/", HERE), ("/models/at/sea/style", f"{HERE}new?model=sea%2Fstyle"),
        (f"/datasets/{row.seeds_id}/", f"{HERE}new?seeds={row.seeds_id}"), (HERE, f"{HERE}{row.pk}/"),
        ("/queue/jobs/", f"{HERE}jobs/{row.job_id}"), (f"{HERE}{row.pk}/", f"{HERE}{row.pk}/review"),
    ):  # fmt: skip
        assert read(client.get(address)).all("a", href=link), f"{address} has no link to {link}"
    assert client.get(f"{HERE}jobs/{row.job_id}")["Location"] == f"{HERE}{row.pk}/"
    form = read(client.get(f"{HERE}new?model=sea%2Fstyle&seeds={row.seeds_id}"))
    chosen = [option.get("value") for option in form.all("option") if "selected" in option.attributes]
    assert chosen == [model.name, str(row.seeds_id)]


def test_one_that_runs_shows_how_far_it_is_and_one_that_failed_why() -> None:
    running = make_generation(status=Status.RUNNING, name=HOSTILE)
    running.job.progress = {"done": 30, "total": 120, "unit": "examples", "note": "9 a second"}
    running.job.save()
    client = client_of("read")
    page = read(client.get(f"{HERE}{running.pk}/"))
    assert HOSTILE in page.one("h1").text
    assert "30 of 120 examples, 9 a second" in page.by_id("main").text
    failed = make_generation(status=Status.FAILED)
    failed.job.error = {"code": "nothing_generated", "message": "Nothing was made.", "fix": "Other seeds."}
    failed.job.save()
    assert "Nothing was made. Other seeds." in read(client.get(f"{HERE}{failed.pk}/")).by_id("main").text


def test_what_was_dropped_is_told_with_its_reason() -> None:
    text = read(client_of("read").get(f"{HERE}{for_review().pk}/")).by_id("main").text
    assert "exact doubles" in text
    assert "failed the profile" not in text, "nothing was dropped for it"


def test_the_review_page_by_the_state_of_things() -> None:
    client = client_of("use")
    empty = make_generation(status=Status.RUNNING)
    assert "No row yet" in read(client.get(f"{HERE}{empty.pk}/review")).by_id("main").text
    row = for_review(line(turns(1, HOSTILE)))
    page = read(client.get(f"{HERE}{row.pk}/review"))
    assert page.by_id("review").get("data-api") == f"/api/data_gen/jobs/{row.job_id}/examples"
    assert {button.get("data-do") for button in page.all("button") if button.get("data-do")} == {
        "accept", "reject", "edit", "undo", "back", "next",
    }  # fmt: skip
    assert "data-locked" in read(client_of("read").get(f"{HERE}{row.pk}/review")).by_id("review").attributes
    answer = client.post(f"{HERE}{row.pk}/accept")
    assert answer["Location"] == f"{HERE}{row.pk}/review"
    assert row.examples.get().state == "accepted"


def test_the_dataset_is_made_by_a_press_and_not_twice() -> None:
    row = for_review()
    client = client_of("use", "jonas")
    assert "No row is accepted yet" in read(client.get(f"{HERE}{row.pk}/")).by_id("dataset").text
    client.post(f"{HERE}{row.pk}/accept")
    assert "3 accepted rows go into it" in read(client.get(f"{HERE}{row.pk}/dataset")).source
    for _ in range(2):
        answer = client.post(f"{HERE}{row.pk}/make", {"name": "sea", "eval_fraction": "0.05"})
        assert answer["Location"] == f"{HERE}{row.pk}/#dataset"
    (dataset,) = Dataset.objects.filter(name="sea")
    assert read(client.get(f"/datasets/{dataset.pk}/")).all("a", href=f"{HERE}{row.pk}/")
    page = read(client.get(f"{HERE}{row.pk}/"))
    assert page.all("a", href=f"/datasets/{dataset.pk}/")
    assert page.button("Make dataset") is None
    assert "3 were accepted" in read(client.get(f"{HERE}{row.pk}/review")).by_id("main").text
    assert page.all("a", href=f"{HERE}{row.pk}/review") == []


def test_a_dataset_without_a_name_is_refused_in_its_place() -> None:
    row = for_review()
    client = client_of("use")
    client.post(f"{HERE}{row.pk}/accept")
    answer = client.post(f"{HERE}{row.pk}/make", {"name": "", "eval_fraction": "2"})
    assert answer.status_code == 422
    assert read(answer).by_id("id_name_error").text


def test_who_may_only_look_changes_nothing() -> None:
    make_model("mine")
    row = for_review()
    client = client_of("read")
    for path, body in (
        ("new", typed()), (f"{row.pk}/accept", {}), (f"{row.pk}/make", {"name": "x", "eval_fraction": "0"}),
        (f"{row.pk}/delete", {}),
    ):  # fmt: skip
        assert client.post(HERE + path, body).status_code == 403, path
    assert client_of("use").post(f"{HERE}{row.pk}/delete").status_code == 403, "it is somebody else's"
    assert client_of("admin").post(f"{HERE}{row.pk}/delete")["Location"] == HERE


# --- The API ----------------------------------------------------------------------------------------------------------


def send(client: Client, method: str, path: str, **body: Any) -> Any:
    return client.generic(method, path, json.dumps(body), content_type=JSON)


def test_an_old_client_asks_and_reads() -> None:
    make_model("mine")
    make_dataset("harbour")
    client = make_client("use", "old")
    config = {"num_examples": 5, "domain": "tides", "output_dir": "more", "dataset_ref": "harbour"}
    answer = send(client, "POST", "/api/data_gen/jobs", model_id="mine", strategy="answer", config=config)
    assert answer.status_code == 201
    job = answer.json()["job_id"]
    told = client.get(f"/api/data_gen/jobs/{job}").json()
    assert {name: told[name] for name in ("job_id", "type", "model_id", "status", "shards", "dataset_id")} == {
        "job_id": job, "type": "data_gen", "model_id": "mine", "status": "pending", "shards": [], "dataset_id": None,
    }  # fmt: skip
    assert (told["config"]["num_examples"], told["config"]["output_dir"]) == (5, "more")
    assert [row["job_id"] for row in client.get("/api/data_gen/jobs").json()["generations"]] == [job]
    assert client.post(f"/api/jobs/{job}/cancel").json()["status"] == "cancelled"
    assert client.post(f"/api/jobs/{job}/retry").json()["status"] == "pending"
    assert client.delete(f"/api/data_gen/jobs/{job}").status_code == 409
    client.post(f"/api/jobs/{job}/cancel")
    assert client.delete(f"/api/data_gen/jobs/{job}").status_code == 204
    assert client.get(f"/api/data_gen/jobs/{job}").status_code == 404


def test_a_review_over_the_api_from_its_rows_to_the_dataset() -> None:
    row = for_review(strategy="regime3", profile={"name": "plain"}, name="sums")
    client = make_client("use")
    whole = f"/api/data_gen/jobs/{row.job_id}"
    told = client.get(f"{whole}/examples?state=pending&limit=2").json()
    assert ([one["number"] for one in told["rows"]], told["total"]) == ([1, 2], 3)
    decided = send(client, "PATCH", f"{whole}/examples/1", state="accepted").json()
    assert (decided["row"]["state"], decided["counts"]["accepted"]) == ("accepted", 1)
    checked = send(client, "POST", f"{whole}/examples/check", messages=turns(2, " ")).json()
    assert (checked["faults"][0]["code"], checked["may_be_kept"]) == ("empty_content", False)
    refused = send(client, "PATCH", f"{whole}/examples/2", messages=turns(2, " "))
    assert (refused.status_code, refused.json()["faults"][0]["path"]) == (422, "messages")
    edited = send(client, "PATCH", f"{whole}/examples/2", messages=turns(2, "Better."), state="rejected").json()
    assert (edited["row"]["original"], edited["row"]["edited_by"][:4]) == (turns(2), "key ")
    assert client.post(f"{whole}/examples/accept").json() == {"accepted": 1}
    made = send(client, "POST", f"{whole}/dataset", name="sums")
    assert (made.status_code, made.json()["name"], made.json()["status"]) == (201, "sums", "validating")
    again = client.post(f"{whole}/dataset", content_type=JSON)
    assert (again.status_code, again.json()["dataset_id"]) == (200, made.json()["dataset_id"])
    assert client.get(whole).json()["dataset_id"] == made.json()["dataset_id"]
    assert client.get(f"{whole}/examples").json()["rows"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422), ({"strategy": "magic"}, 422), ({"strategy": "answer"}, 422),
        ({"strategy": "answer", "model_id": "none", "config": {"dataset_ref": "harbour"}}, 404),
        ({"strategy": "answer", "model_id": "mine", "config": {"dataset_ref": "none"}}, 404),
        ({"strategy": "answer", "model_id": "mine", "config": {"dataset_ref": 10**30}}, 404),
        ({"strategy": "regime3", "config": {"num_examples": 0}}, 422),
        ({"strategy": "regime3", "config": {"output_dir": "../x"}}, 422),
        ({"strategy": "regime3", "config": {"speed": 3}}, 422), ({"strategy": "regime3", "priority": "now"}, 422),
    ],
)  # fmt: skip
def test_bad_calls_change_nothing(body: dict[str, Any], status: int) -> None:
    make_model("mine")
    make_dataset("harbour")
    answer = send(make_client("use"), "POST", "/api/data_gen/jobs", **body)
    assert answer.status_code == status, answer.content
    assert answer.json()["detail"]
    assert not DataGeneration.objects.exists()


def test_a_small_key_looks_and_changes_nothing() -> None:
    row = for_review()
    client = make_client("read")
    whole = f"/api/data_gen/jobs/{row.job_id}"
    for method, path, body in (
        ("POST", "/api/data_gen/jobs", {"strategy": "regime3"}),
        ("PATCH", f"{whole}/examples/1", {"state": "accepted"}),
        ("POST", f"{whole}/examples/accept", {}), ("POST", f"{whole}/dataset", {}), ("DELETE", whole, {}),
    ):  # fmt: skip
        assert send(client, method, path, **body).status_code == 403, path
    assert client.get(f"{whole}/examples").json()["counts"]["pending"] == 3
    for number in (9, 10**30):
        assert send(make_client("use"), "PATCH", f"{whole}/examples/{number}", state="accepted").status_code == 404
