"""The first steps: what they know, whose they are, what their buttons do, and the data that comes with the product."""

import json
from collections import Counter
from typing import Any

import pytest
from django.test import Client

from controlplane.models import AuditLine, Conversation, Dataset, LanguageModel, Turn, User
from controlplane.models.conversations import Speaker
from controlplane.models.jobs import Status
from controlplane.models.language_models import ModelState
from controlplane.services import first_steps, models, sample_data
from tests import factories
from tests.controlplane.page_reading import read
from training.data.rows import read_rows

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def logged_in(role: str = "admin", name: str = "newcomer") -> tuple[Client, User]:
    client = factories.client_of(role, name)
    return client, User.objects.get(username=name)


def is_shown(client: Client) -> bool:
    """Whether the bridge has the card."""
    return bool(read(client.get("/")).all("section", class_="card-box first-steps"))


def test_an_empty_home_shows_four_steps_and_the_way_on() -> None:
    client, user = logged_in()
    text = client.get("/bridge/start").content.decode()
    assert "0 of 4 done" in text
    assert "Get a small model" in text
    assert "Use the sample data" in text
    found = first_steps.of(user)
    assert found is not None
    assert found.next == "model"
    factories.make_host()
    factories.make_model("small", parameters=135_000_000)
    found = first_steps.of(user)
    assert found is not None
    assert (found.done_count, found.next) == (2, "data")


def test_the_small_model_is_fetched_and_tried_again() -> None:
    client, user = logged_in()
    client.post("/first-steps/model")
    model = LanguageModel.objects.get(name=models.STARTER)
    assert model.job is not None
    assert model.job.created_by == user.get_username()
    client.post("/first-steps/model")
    assert LanguageModel.objects.count() == 1
    models.fetch_failed(str(model.uuid), {"code": "network", "message": "PyPI is away.", "fix": ""})
    type(model.job).objects.filter(pk=model.job.pk).update(status=Status.FAILED)
    assert "PyPI is away." in client.get("/bridge/start").content.decode()
    client.post("/first-steps/model")
    model.refresh_from_db()
    assert model.state == ModelState.FETCHING


def test_the_sample_data_comes_in_as_any_upload() -> None:
    user, reader = factories.make_client("use"), factories.make_client("read")
    assert reader.post("/api/datasets/sample").status_code == 403
    first = user.post("/api/datasets/sample")
    assert first.status_code == 201
    again = user.post("/api/datasets/sample")
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    dataset = Dataset.objects.get()
    assert (dataset.name, dataset.status, dataset.generator) == ("harbour", "validating", "pilothouse sample")
    assert (dataset.folder / "source.jsonl").read_bytes() == sample_data.FILE.read_bytes()
    assert AuditLine.objects.filter(action="dataset.create", target="harbour v1").count() == 1
    client, _ = logged_in("use")
    assert client.post("/first-steps/data").status_code == 302


def test_the_sample_data_is_whole_and_speaks_with_one_voice() -> None:
    rows = read_rows(sample_data.FILE, 0, 1000)
    assert len(rows) == 324
    assert len({json.dumps(row) for row in rows}) == 324
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        for message in row["messages"]:
            assert "!" not in message["content"]
            if message["role"] == "assistant":
                assert message["content"].startswith("Aye. ")
                assert message["content"].endswith(" Steady as she goes.")
    turns = Counter(len(row["messages"]) for row in rows)
    assert turns[4] >= 5, "some go on for a second question"


def made_run(created_by: str, **fields: Any) -> Any:
    """A run that is done, by somebody."""
    return factories.make_run(status=Status.DONE, created_by=created_by, **fields)


def test_after_the_run_one_activates_and_talks_and_then_they_are_gone() -> None:
    client, user = logged_in()
    run = made_run("newcomer")
    text = client.get("/bridge/start").content.decode()
    assert "Its model is being published" in text
    factories.make_model("mine", run=run, source="run")
    text = client.get("/bridge/start").content.decode()
    assert "Activate it" in text
    factories.make_deployment(LanguageModel.objects.get(name="mine"), is_active=True)
    text = client.get("/bridge/start").content.decode()
    assert "Talk to it" in text
    assert 'href="/chat"' in text
    conversation = Conversation.objects.create(owner=user.actor().owner, created_by="newcomer")
    Turn.objects.create(conversation=conversation, role=Speaker.ASSISTANT, content="Aye.")
    assert first_steps.of(user) is None
    assert not is_shown(client)


def test_they_are_for_whoever_may_train_where_nobody_else_has() -> None:
    _, reader = logged_in("read", "looker")
    assert first_steps.of(reader) is None
    _, newcomer = logged_in("use", "newcomer")
    assert first_steps.of(newcomer) is not None
    made_run("an old hand")
    assert first_steps.of(newcomer) is None


def test_each_person_puts_them_away_and_brings_them_back() -> None:
    client, user = logged_in()
    _, other = logged_in("use", "other")
    assert is_shown(client)
    client.post("/first-steps/shown")
    user.refresh_from_db()
    assert first_steps.of(user) is None
    assert not is_shown(client)
    assert first_steps.of(other) is not None
    assert AuditLine.objects.get(action="person.first_steps").detail == {"shown": False}
    assert "Show the first steps" in client.get("/settings/").content.decode()
    client.post("/first-steps/shown", {"shown": "yes"})
    assert is_shown(client)


def test_the_form_of_the_first_run_fits_the_machine() -> None:
    client, user = logged_in()
    factories.make_host()
    factories.make_model("small", parameters=135_000_000)
    factories.make_model("large", parameters=7_000_000_000)
    dataset = factories.make_dataset()
    found = first_steps.of(user)
    assert found is not None
    chosen = first_steps.choices(found)
    steps = chosen["config"]["hyperparams"]["max_steps"]
    assert 12 <= steps <= 40
    assert chosen["minutes"] <= 3
    page = read(client.get("/runs/new?first=yes"))
    assert page.one("input", name="hyperparams.max_steps").get("value") == str(steps)
    assert page.one("input", name="name").get("value") == "first run"
    selected = [option.get("value") for option in page.all("option") if "selected" in option.attributes]
    assert {"small", str(dataset.pk), "lora"} <= set(selected)


def test_a_model_with_very_few_parameters_is_trained_whole() -> None:
    _, user = logged_in()
    factories.make_model("tiny", parameters=900_000)
    found = first_steps.of(user)
    assert found is not None
    assert first_steps.choices(found)["config"]["model"]["method"] == "full"


def test_a_machine_with_gpus_gets_all_steps_and_no_guess() -> None:
    _, user = logged_in()
    host = factories.make_host(gpus=1)
    host.reading = {**host.reading, "gpus": [{"index": 0}]}
    host.save()
    factories.make_model("small", parameters=135_000_000)
    found = first_steps.of(user)
    assert found is not None
    chosen = first_steps.choices(found)
    assert (chosen["config"]["hyperparams"]["max_steps"], chosen["minutes"]) == (40, None)
