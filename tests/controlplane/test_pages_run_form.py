"""The run form's beginnings (a template, a run, a config.json), what stands beside it, and the pages of templates."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from controlplane.models import Dataset, LanguageModel, Run, RunTemplate
from controlplane.models.access import Actor, Role
from controlplane.services import run_templates, runs
from tests.controlplane.page_reading import Page, read
from tests.factories import client_of, make_dataset, make_model

pytestmark = pytest.mark.django_db
ANN = Actor("ann", Role.USE)


@pytest.fixture
def ground(home: Path) -> tuple[Dataset, LanguageModel]:
    """A dataset of 100 rows and a model, both ready."""
    return make_dataset("harbour", examples=100, eval_fraction=0.1), make_model("starter")


@pytest.fixture
def ann() -> Client:
    """Ann's browser."""
    return client_of("use", "ann")


def values(page: Page) -> dict[str, str]:
    """What the form would send as it stands."""
    found: dict[str, str] = {}
    latest = ""
    for item in page.elements:
        name = item.get("name")
        if item.tag == "input" and item.get("type") not in ("checkbox", "file", "submit"):
            found[name] = item.get("value")
        elif item.tag == "textarea":
            found[name] = item.text.strip("\n")
        elif item.tag == "input" and item.get("type") == "checkbox" and "checked" in item.attributes:
            found[name] = "on"
        elif item.tag == "select":
            latest = name
        elif item.tag == "option" and ("selected" in item.attributes or latest not in found):
            found[latest] = item.get("value")
    return {name: value for name, value in found.items() if name and name != "csrfmiddlewaretoken"}


def started(ground: tuple[Dataset, LanguageModel], **config: Any) -> Run:
    return runs.create(ANN, name="first", dataset=ground[0].pk, model=ground[1].name, config=config)


def test_a_run_again_begins_with_its_settings_and_tells_what_was_changed(
    ground: tuple[Dataset, LanguageModel], ann: Client
) -> None:
    first = started(
        ground, hyperparams={"learning_rate": 0.000123456, "max_steps": 30}, data={"shuffle": False},
        profile={"name": "emoji_think"}, monitoring={"sample_prompts": ["Ahoy?", "Where?"]},
        output={"register_as": "mine"},
    )  # fmt: skip
    form = values(read(ann.get(f"/runs/new?like={first.pk}")))
    assert form["hyperparams.learning_rate"] == "0.000123456"
    assert (form["profile"], form["dataset"], form["model"]) == ("emoji_think", str(ground[0].pk), "starter")
    assert form["monitoring.sample_prompts"] == "Ahoy?\nWhere?"
    assert "data.shuffle" not in form
    assert form["output.register_as"] == form["data.eval_fraction"] == ""
    beside = ann.post("/runs/new/beside", {**form, "hyperparams.max_steps": "60", "data.shuffle": "on"})
    told = read(beside)
    assert [row.get("data-path") for row in told.all("tr") if row.get("data-path")] == [
        "hyperparams.max_steps", "data.shuffle",
    ]  # fmt: skip
    assert Run.objects.count() == 1
    answer = ann.post("/runs/new", {**form, "name": "second", "hyperparams.max_steps": "60"})
    second = Run.objects.get(name="second")
    assert answer["Location"] == f"/runs/{second.pk}/"
    assert second.based_on == first
    assert second.config["hyperparams"]["learning_rate"] == 0.000123456
    page = read(ann.get(f"/runs/{second.pk}/"))
    assert "Max steps" in page.by_id("differences").text
    assert [row.get("data-path") for row in page.all("tr") if row.get("data-path")] == ["hyperparams.max_steps"]
    assert not read(ann.get(f"/runs/{first.pk}/")).all("section", id="differences")
    runs.stop(ANN, first.pk, "now")
    runs.delete(ANN, first.pk)
    assert ann.get(f"/runs/{second.pk}/").status_code == 200


def test_nothing_typed_is_lost_when_the_run_it_began_with_is_deleted(
    ground: tuple[Dataset, LanguageModel], ann: Client
) -> None:
    first = started(ground)
    form = values(read(ann.get(f"/runs/new?like={first.pk}")))
    first.delete()
    answer = ann.post("/runs/new", {**form, "name": "second"})
    second = Run.objects.get()
    assert (answer["Location"], second.name, second.based_on) == (f"/runs/{second.pk}/", "second", None)


def test_steps_and_rates_stand_beside_the_form(ground: tuple[Dataset, LanguageModel], ann: Client) -> None:
    form = values(read(ann.get("/runs/new")))
    form |= {"hyperparams.warmup_ratio": "0.5", "hyperparams.gradient_accumulation_steps": "2"}
    data = read(ann.post("/runs/new/beside", form)).by_id("rate-data")
    assert json.loads(data.get("data-steps")) == [0, 1, 2, 3, 4, 5, 6]
    assert json.loads(data.get("data-rates"))[3] == 2e-4
    assert json.loads(data.get("data-rates"))[-1] == 0.0
    wrong = ann.post("/runs/new/beside", {**form, "hyperparams.learning_rate": "fast"})
    assert "Learning rate" in wrong.content.decode()
    assert "rate-data" not in wrong.content.decode()
    assert "There is already a model" in ann.post(
        "/runs/new/beside", {**form, "output.register_as": "starter"}
    ).content.decode()  # fmt: skip


@pytest.mark.parametrize("is_file", [True, False])
def test_a_flat_file_fills_the_form_in_and_keeps_what_was_typed(
    ground: tuple[Dataset, LanguageModel], ann: Client, is_file: bool
) -> None:
    form = values(read(ann.get("/runs/new"))) | {"name": "typed", "hyperparams.seed": "777", "data.shuffle": "on"}
    text = json.dumps({"epochs": 3, "lr": 1e-4, "shuffle": False, "wandb": True, "base_model": "elsewhere",
                       "profile": "regime3", "output_dir": "/x"})  # fmt: skip
    sent: dict[str, Any] = {**form, "config_text": text}
    if is_file:
        sent |= {"config_text": "", "config_file": SimpleUploadedFile("config.json", text.encode())}
    page = read(ann.post("/runs/new/load", sent))
    filled = values(page)
    assert (filled["hyperparams.num_train_epochs"], filled["hyperparams.learning_rate"]) == ("3", "0.0001")
    assert (filled["name"], filled["hyperparams.seed"], filled["profile"]) == ("typed", "777", "regime3")
    assert "data.shuffle" not in filled
    assert filled["model"] == "starter"
    for words in ("There is no model 'elsewhere'", "output.output_dir is left out", "wandb", "4 settings of"):
        assert words in page.source or words in page.source.replace("&#x27;", "'"), words
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"lr": 7}', "The file calls it"), ("{", "no JSON"), ("[1]", "must be an object"), ("", "Choose a file")],
)
def test_a_file_that_cannot_be_taken_changes_nothing(
    ground: tuple[Dataset, LanguageModel], ann: Client, text: str, words: str
) -> None:
    form = values(read(ann.get("/runs/new"))) | {"name": "typed"}
    answer = ann.post("/runs/new/load", {**form, "config_text": text})
    assert answer.status_code == 422
    page = read(answer)
    assert any(words in element.text for element in page.all("div", role="alert"))
    assert values(page) == {**form, "config_text": text}


def test_a_chain_is_gone_on_with_without_a_model(ground: tuple[Dataset, LanguageModel], ann: Client) -> None:
    form = values(read(ann.get("/runs/new"))) | {"name": "link"}
    assert form["model"] == "starter", "a model is chosen as long as nobody chooses the chain's"
    neither = ann.post("/runs/new", {**form, "model": ""})
    assert neither.status_code == 422
    assert "name the chain" in read(neither).by_id("id_model_error").text
    begun = ann.post("/runs/new", {**form, "model": "", "model.chain": "night"})
    assert "name the model that it begins with" in read(begun).by_id("run-form").text
    assert ann.post("/runs/new", {**form, "model.chain": "night"}).status_code == 302
    make_model("newer")
    page = read(ann.get(f"/runs/new?like={Run.objects.get().pk}"))
    assert page.by_id("known-chains").text == "stands at starter"
    form = values(page)
    assert (form["model"], form["model.chain"]) == ("", "night")
    assert "Nothing." in ann.post("/runs/new/beside", form).content.decode()
    assert ann.post("/runs/new", {**form, "name": "next"}).status_code == 302
    second = Run.objects.get(name="next")
    assert second.chain is not None
    assert (second.chain.name, second.model) == ("night", ground[1])
    loaded = values(read(ann.post("/runs/new/load", {
        **form, "model": "newer", "config_text": '{"continue_from_current": "night"}',
    })))  # fmt: skip
    assert (loaded["model"], loaded["model.chain"]) == ("", "night")


def test_a_template_is_saved_from_the_form_used_changed_and_deleted(
    ground: tuple[Dataset, LanguageModel], ann: Client
) -> None:
    form = values(read(ann.get("/runs/new"))) | {"hyperparams.max_steps": "5", "template_name": "short"}
    saved = ann.post("/runs/new/template", form)
    row = RunTemplate.objects.get()
    assert (row.name, row.config, row.created_by) == ("short", {"hyperparams": {"max_steps": 5}}, "ann")
    assert values(read(saved))["hyperparams.max_steps"] == "5"
    assert not Run.objects.exists()
    again = read(ann.post("/runs/new/template", form))
    assert "already a run template" in again.by_id("template-fault").text
    begun = values(read(ann.get(f"/runs/new?template={row.pk}")))
    assert (begun["hyperparams.max_steps"], begun["template"]) == ("5", str(row.pk))
    assert "Nothing." in ann.post("/runs/new/beside", {**begun, "name": "x"}).content.decode()
    page = f"/runs/templates/{row.pk}/"
    change = values(read(ann.get(page)))
    assert ann.post(page, {**change, "name": "shorter", "model": "", "hyperparams.max_steps": "3"}).status_code == 302
    row.refresh_from_db()
    assert (row.name, row.model, row.dataset, row.config["hyperparams"]) == (
        "shorter",
        None,
        ground[0],
        {"max_steps": 3},
    )
    refused = ann.post(page, {**change, "hyperparams.max_steps": "many"})
    assert refused.status_code == 422
    assert "Give a whole number" in read(refused).by_id("id_hyperparams.max_steps_error").text
    assert "shorter" in ann.get("/runs/templates/").content.decode()
    ann.post(f"/runs/templates/{row.pk}/delete")
    assert not RunTemplate.objects.exists()


def test_a_template_of_a_runs_page_and_of_somebody_else(ground: tuple[Dataset, LanguageModel], ann: Client) -> None:
    run = started(ground, hyperparams={"seed": 5})
    ann.post(f"/runs/{run.pk}/template", {"name": "of a run"})
    row = run_templates.named("of a run")
    assert (row.config, row.dataset, row.model) == ({"hyperparams": {"seed": 5}}, *ground)
    ben = client_of("use", "ben")
    page = read(ben.get(f"/runs/templates/{row.pk}/"))
    button = page.button("Save the changes")
    assert button is not None
    assert "disabled" in button.attributes
    assert ben.post(f"/runs/templates/{row.pk}/delete").status_code == 403
    assert ben.get("/runs/new?template=999").status_code == 404
    assert ben.get("/runs/new?like=x").status_code == 404
    reader = client_of("read", "eve")
    assert reader.get(f"/runs/templates/{row.pk}/").status_code == 200
    assert reader.post(f"/runs/{run.pk}/template", {"name": "y"}).status_code == 403
