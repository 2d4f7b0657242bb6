"""Starting and steering runs on pages: the form keeps what was typed and says faults where they are."""

from pathlib import Path

import pytest
from django.test import Client

from controlplane.models import Run
from controlplane.models.jobs import Desired, Status
from tests.controlplane.page_reading import read
from tests.factories import client_of, make_checkpoint, make_dataset, make_model, make_run
from training.config.fields import fields

pytestmark = pytest.mark.django_db


@pytest.fixture
def typed(home: Path) -> dict[str, str]:
    """What the form sends when nobody changes anything but the name."""
    make_dataset("harbour", eval_fraction=0.2)
    make_model("starter")
    page = read(client_of("use").get("/runs/new"))
    form = {item.get("name"): item.get("value") for item in page.all("input") if item.get("type") != "checkbox"}
    checked = {item.get("name"): "on" for item in page.all("input", type="checkbox") if "checked" in item.attributes}
    chosen = {"dataset": "", "model": "starter", "profile": "plain", "priority": "normal"}
    chosen["dataset"] = next(item.get("value") for item in page.all("option") if item.text.startswith("harbour"))
    form.pop("csrfmiddlewaretoken")
    defaults = {field.path: str(field.default) for field in fields() if field.kind == "choice"}
    return {**form, **checked, **defaults, **chosen, "name": "first try"}


def test_the_form_has_every_setting_with_its_range(typed: dict[str, str]) -> None:
    page = read(client_of("use").get("/runs/new"))
    names = {item.get("name") for item in page.elements if item.tag in ("input", "select", "textarea")}
    asked_above = {"data.train_dataset", "model.model", "profile.name", "output.output_dir"}
    assert {field.path for field in fields() if field.section != "locked"} - asked_above <= names
    assert "1 to 4,096" in page.by_id("id_hyperparams.per_device_train_batch_size_helptext").text
    for element in page.elements:
        if element.tag in ("input", "select", "textarea") and element.get("type") != "hidden" and element.get("id"):
            is_named = element.get("aria-label") or page.all("label", for_=element.get("id"))
            assert is_named, f"{element.get('id')} has no label"


def test_untouched_settings_are_left_to_dataset_and_defaults(typed: dict[str, str]) -> None:
    response = client_of("use").post("/runs/new", typed)
    run = Run.objects.get()
    assert response["Location"] == f"/runs/{run.pk}/"
    assert run.name == "first try"
    assert run.config["data"]["eval_fraction"] == 0.2
    differing = {
        field.path: run.config[field.section][field.name]
        for field in fields()
        if run.config[field.section][field.name] != (list(field.default) if field.kind == "list" else field.default)
    }
    assert set(differing) <= {
        "data.train_dataset", "data.eval_fraction", "model.model", "output.output_dir", "locked.base_model",
        "locked.model_architecture",
    }  # fmt: skip


def test_what_is_typed_reaches_the_run(typed: dict[str, str]) -> None:
    typed |= {
        "hyperparams.learning_rate": "5e-5", "hyperparams.max_steps": "1,200",
        "monitoring.sample_prompts": "One?\nTwo?",
        "profile.system_prompt": "Be brief.", "model.method": "full", "data.shuffle": "", "priority": "high",
        "data.eval_fraction": "0.1",
    }  # fmt: skip
    typed.pop("data.shuffle")
    client_of("use").post("/runs/new", typed)
    run = Run.objects.get()
    assert run.config["hyperparams"]["learning_rate"] == 5e-5
    assert run.config["hyperparams"]["max_steps"] == 1200
    assert run.config["monitoring"]["sample_prompts"] == ["One?", "Two?"]
    assert run.config["profile"]["system_prompt"] == "Be brief."
    assert run.config["model"]["method"] == "full"
    assert run.config["data"]["shuffle"] is False
    assert run.config["data"]["eval_fraction"] == 0.1
    assert run.job.priority == 2


def test_options_that_the_profile_does_not_have_are_refused_beside_their_field(typed: dict[str, str]) -> None:
    page = read(client_of("use").post("/runs/new", {**typed, "profile.options": '{"a": 1}'}))
    assert "it has no options, but a was given" in page.by_id("id_profile.options_error").text
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    ("path", "text", "allowed"),
    [
        ("hyperparams.learning_rate", "2", "above 0 and at most 1"),
        ("hyperparams.learning_rate", "fast", "a number"),
        ("hyperparams.num_train_epochs", "0", "above 0"),
        ("hyperparams.num_train_epochs", "nan", "a number"),
        ("hyperparams.per_device_train_batch_size", "2.5", "a whole number"),
        ("data.eval_fraction", "0,9", "at most 0.5"),
        ("profile.options", "[1]", "an object"),
        ("hyperparams.optim", "<b>magic</b>", "one of adamw_torch"),
    ],
)
def test_a_fault_stands_beside_its_field_and_nothing_is_lost(
    typed: dict[str, str], path: str, text: str, allowed: str
) -> None:
    response = client_of("use").post("/runs/new", {**typed, path: text, "hyperparams.seed": "777"})
    assert response.status_code == 422
    page = read(response)
    assert allowed in page.by_id(f"id_{path}_error").text
    assert page.by_id("id_hyperparams.seed").get("value") == "777"
    assert page.by_id("id_name").get("value") == "first try"
    field = page.by_id(f"id_{path}")
    assert field.get("aria-invalid") == "true"
    if field.tag == "input":
        assert field.get("value") == text
    assert not Run.objects.exists()


def test_a_fault_behind_a_fold_opens_it(typed: dict[str, str]) -> None:
    page = read(client_of("use").post("/runs/new", {**typed, "hyperparams.seed": "-1"}))
    assert any("open" in fold.attributes and "Give a whole number" in fold.text for fold in page.all("details"))


def test_what_a_service_refuses_stands_beside_its_field_too(typed: dict[str, str]) -> None:
    page = read(client_of("use").post("/runs/new", {**typed, "output.register_as": "starter"}))
    assert "aken" in page.by_id("id_output.register_as_error").text
    assert not Run.objects.exists()


def test_a_reader_cannot_start_a_run(typed: dict[str, str]) -> None:
    client = client_of("read")
    button = read(client.get("/runs/new")).button("Start the run")
    assert button is not None
    assert "disabled" in button.attributes
    assert client.post("/runs/new", typed).status_code == 403
    assert not Run.objects.exists()


def owner() -> Client:
    """Jonas, who made the runs of the tests below."""
    return client_of("use", "jonas")


@pytest.mark.parametrize(
    ("status", "there", "missing"),
    [
        (Status.PENDING, ["Cancel"], ["Pause", "Resume", "Stop and save"]),
        (Status.RUNNING, ["Pause", "Stop and save", "Stop now"], ["Resume", "Delete"]),
        (Status.PAUSED, ["Resume", "Cancel"], ["Pause", "Stop and save"]),
        (Status.FAILED, ["Try again", "Delete"], ["Pause", "Resume"]),
        (Status.DONE, ["Delete"], ["Try again", "Pause"]),
    ],
)
def test_a_run_offers_what_can_be_done_now(home: Path, status: str, there: list[str], missing: list[str]) -> None:
    run = make_run(status=status, created_by="jonas")
    page = read(owner().get(f"/runs/{run.pk}/"))
    assert page.by_id("run-status").get("data-status") == status
    for text in there:
        assert page.button(text) is not None, text
    for text in missing:
        assert page.button(text) is None, text


def test_somebody_elses_run_is_left_alone(home: Path) -> None:
    run = make_run(status=Status.RUNNING, created_by="mara")
    page = read(owner().get(f"/runs/{run.pk}/"))
    assert page.button("Pause") is None
    assert "belongs to mara" in page.by_id("main").text


@pytest.mark.parametrize(
    ("action", "data", "desired"),
    [
        ("pause", {}, Desired.PAUSE),
        ("stop", {"mode": "save"}, Desired.STOP),
        ("stop", {"mode": "now"}, Desired.CANCEL),
    ],
)
def test_the_buttons_carry_out_their_wish(home: Path, action: str, data: dict[str, str], desired: str) -> None:
    run = make_run(status=Status.RUNNING, created_by="jonas")
    response = owner().post(f"/runs/{run.pk}/{action}", data)
    assert response["Location"] == f"/runs/{run.pk}/"
    run.job.refresh_from_db()
    assert run.job.desired == desired


def test_a_paused_run_goes_on_and_an_ended_one_is_deleted(home: Path) -> None:
    client = owner()
    paused = make_run(status=Status.PAUSED, created_by="jonas")
    client.post(f"/runs/{paused.pk}/resume")
    paused.job.refresh_from_db()
    assert paused.job.status == Status.PENDING
    done = make_run(status=Status.DONE, created_by="jonas")
    assert client.post(f"/runs/{done.pk}/delete")["Location"] == "/runs/"
    assert not Run.objects.filter(pk=done.pk).exists()


def test_a_checkpoint_becomes_a_model(home: Path) -> None:
    run = make_run(status=Status.DONE, created_by="jonas")
    make_checkpoint(run, 40)
    client = owner()
    assert "Make a model" in read(client.get(f"/runs/{run.pk}/")).by_id("checkpoint-rows").text
    client.post(f"/runs/{run.pk}/checkpoints/40/register", {"name": "from-forty"})
    assert [model.name for model in run.models.all()] == ["from-forty"]
    assert "fetching" in read(client.get(f"/runs/{run.pk}/")).by_id("checkpoint-rows").text


def test_steps_without_a_rest_are_not_shown_as_figures_that_are_not_known(home: Path) -> None:
    run = make_run(status=Status.RUNNING, created_by="jonas", last={"loss": "NaN"})
    page = read(owner().get(f"/runs/{run.pk}/"))
    shown = {item.get("data-last"): item.text for item in page.elements if item.get("data-last") and item.tag == "span"}
    assert shown["loss"] == "NaN"
    assert shown["eval_loss"] == "–"


def test_retrying_leads_back_to_where_one_was(home: Path) -> None:
    run = make_run(status=Status.FAILED, created_by="jonas")
    headers = {"Referer": f"http://testserver/runs/{run.pk}/"}
    assert owner().post(f"/queue/{run.job_id}/retry", headers=headers)["Location"] == f"/runs/{run.pk}/"
    run.job.refresh_from_db()
    assert run.job.status == Status.PENDING


def test_the_bridge_keeps_to_the_run_whose_chart_it_shows(home: Path) -> None:
    shown, other = make_run("shown", status=Status.RUNNING), make_run("other", status=Status.RUNNING)
    client = owner()
    assert read(client.get("/")).by_id("chart-loss").get("data-run") == str(other.pk)
    assert "shown" in read(client.get(f"/bridge/running?run={shown.pk}")).one("h3").text
    assert client.get("/bridge/nothing").status_code == 404
