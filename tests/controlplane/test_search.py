"""What the command palette finds, by its call."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from controlplane.models.language_models import ModelState
from tests.factories import make_client, make_dataset, make_deployment, make_model, make_run

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls"), pytest.mark.usefixtures("home")]


def found(client: Client, words: str) -> list[tuple[str, str]]:
    answer = client.get("/api/search", {"q": words})
    assert answer.status_code == 200
    return [(item["kind"], item["name"]) for item in answer.json()["results"]]


def test_every_word_must_be_in_the_name_and_the_newest_comes_first() -> None:
    first, second = make_run("harbour talk"), make_run("Harbour walk, second")
    make_run("open sea")
    dataset = make_dataset("harbour rows")
    make_model("owner/harbour-talk")
    client = make_client("read")
    assert found(client, "HARBOUR") == [
        ("model", "owner/harbour-talk"), ("run", f"{second.pk} · Harbour walk, second"),
        ("run", f"{first.pk} · harbour talk"), ("dataset", f"{dataset.name} v1"),
    ]  # fmt: skip
    assert found(client, "talk harb") == [("model", "owner/harbour-talk"), ("run", f"{first.pk} · harbour talk")]
    assert found(client, "nowhere") == found(client, "  ") == []


def test_a_number_finds_what_it_is_the_number_of() -> None:
    run = make_run("by its number")
    assert ("run", f"{run.pk} · by its number") in found(make_client("read"), str(run.pk))
    assert ("run", f"{run.pk} · by its number") in found(make_client("read"), f"#{run.pk}")


@pytest.mark.parametrize("words", ["9" * 30, "%", "_", "'; drop table", "<b>"])
def test_signs_are_signs(words: str) -> None:
    make_run("plain")
    assert found(make_client("read"), words) == []


def test_only_who_may_activate_is_offered_it() -> None:
    make_model("ready-one")
    make_model("failed-one", state=ModelState.FAILED)
    make_deployment(make_model("active-one"), is_active=True)
    for role, offered in (("admin", ["ready-one"]), ("use", [])):
        results = make_client(role).get("/api/search", {"q": "one"}).json()["results"]
        assert len(results) == 3
        assert [item["name"] for item in results if item["can_activate"]] == offered


def test_six_of_a_kind_are_enough_and_a_long_question_is_refused() -> None:
    for number in range(8):
        make_run(f"one of many {number}")
    assert len(found(make_client("read"), "one of many")) == 6
    assert make_client("read").get("/api/search", {"q": "a" * 201}).status_code == 422


def test_as_many_models_are_read_as_are_told() -> None:
    for number in range(8):
        make_model(f"one-of-many-{number}")
    client = make_client("read")
    with CaptureQueriesContext(connection) as asked:
        assert len(found(client, "one MANY")) == 6
    (question,) = [query["sql"] for query in asked if 'FROM "controlplane_languagemodel"' in query["sql"]]
    assert question.endswith("LIMIT 6")


def test_nobody_finds_anything_without_a_key() -> None:
    assert Client().get("/api/search", {"q": "a"}).status_code == 401
