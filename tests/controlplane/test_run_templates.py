"""Run templates: what is kept, what is left out, who may change them; over the services and the API."""

from typing import Any

import pytest
from django.test import Client

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from controlplane.models import AuditLine
from controlplane.models.access import Actor, Role
from controlplane.services import run_templates, runs
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls"), pytest.mark.usefixtures("home")]

ANN = Actor("ann", Role.USE)
BEN = Actor("ben", Role.USE)
ROOT = Actor("root", Role.ADMIN)


@pytest.fixture
def client() -> Client:
    """A client that may work."""
    return factories.make_client("use")


def post(client: Client, address: str, body: dict[str, Any], status: int) -> Any:
    """What a call answers, after its status was checked."""
    answer = client.post(address, body, content_type="application/json")
    assert answer.status_code == status, answer.content
    return answer.json()


def test_a_template_keeps_what_was_chosen_and_makes_a_run() -> None:
    dataset, model = factories.make_dataset(), factories.make_model()
    given = {
        "hyperparams": {"learning_rate": 1e-3, "seed": 42}, "output": {"output_dir": "/x", "register_as": "mine"},
        "locked": {"base_model": "other"}, "data": {"train_dataset": "9", "eval_fraction": 0.05},
    }  # fmt: skip
    row = run_templates.save(ANN, name=" short ", config=given, model=model.name, dataset=dataset.pk)
    assert row.config == {"hyperparams": {"learning_rate": 1e-3}, "data": {"eval_fraction": 0.05}}
    config = run_templates.apply(run_templates.named("short"), hyperparams={"seed": 7}, model=None)
    assert config["hyperparams"] == {"learning_rate": 1e-3, "seed": 7}
    assert row.config["hyperparams"] == {"learning_rate": 1e-3}
    run = runs.create(ANN, name="one", dataset=dataset.pk, model=model.name, config=config)
    assert run.config["hyperparams"]["seed"] == 7
    assert run.config["hyperparams"]["learning_rate"] == 1e-3


def test_names_are_unique_and_only_the_maker_or_an_admin_changes() -> None:
    row = run_templates.save(ANN, name="a", config={})
    run_templates.save(BEN, name="b", config={})
    with pytest.raises(ConflictError, match="already a run template 'a'"):
        run_templates.save(BEN, name="a", config={})
    with pytest.raises(ConflictError, match="already a run template 'b'"):
        run_templates.change(ANN, row.pk, {"name": "b"})
    with pytest.raises(ForbiddenError, match="belongs to ann"):
        run_templates.change(BEN, row.pk, {"name": "c"})
    with pytest.raises(ForbiddenError, match="needs the role use"):
        run_templates.save(Actor("eve", Role.READ), name="e", config={})
    assert run_templates.change(ROOT, row.pk, {"name": "c"}).name == "c"
    run_templates.remove(ANN, row.pk)
    with pytest.raises(NotFoundError, match="Saved are: b"):
        run_templates.named("c")
    actions = list(AuditLine.objects.filter(action__startswith="run_template").values_list("action", flat=True))
    assert sorted(actions) == [
        "run_template.create", "run_template.create", "run_template.delete", "run_template.update",
    ]  # fmt: skip


def test_a_setting_that_cannot_be_taken_is_named_with_its_path() -> None:
    with pytest.raises(InvalidInputError) as caught:
        run_templates.save(ANN, name="a", config={"hyperparams": {"learning_rate": 7.0}, "modell": {}})
    assert {fault.path for fault in caught.value.faults} == {"config.hyperparams.learning_rate", "config.modell"}
    with pytest.raises(InvalidInputError, match="There is no profile 'gone'"):
        run_templates.save(ANN, name="a", config={"profile": {"name": "gone"}})


def test_a_template_of_a_run_leaves_out_what_is_the_runs_own() -> None:
    run = runs.create(
        ANN, name="one", dataset=factories.make_dataset(eval_fraction=0.2).pk, model=factories.make_model().name,
        config={"hyperparams": {"seed": 3}, "output": {"register_as": "mine"}},
    )  # fmt: skip
    row = run_templates.save_run(ANN, run, name="again")
    assert row.config == {"hyperparams": {"seed": 3}}
    assert row.dataset_id == run.dataset_id
    assert row.model_id == run.model_id


# --- Over the API -----------------------------------------------------------------------------------------------------


def test_templates_over_the_api_from_saving_to_a_run(client: Client) -> None:
    dataset, model = factories.make_dataset(), factories.make_model()
    body = {
        "name": "short", "description": "for tries", "model": model.name,
        "config": {"hyperparams": {"max_steps": 5}, "profile": {"name": "emoji_think"}},
    }  # fmt: skip
    saved = post(client, "/api/run-templates", body, 201)
    assert saved["config"] == body["config"]
    assert saved["dataset"] is None
    assert post(client, "/api/run-templates", body, 409)["detail"].startswith("There is already a run template 'short'")
    assert [row["name"] for row in client.get("/api/run-templates").json()["templates"]] == ["short"]
    refused = post(client, "/api/runs", {"name": "one", "template": "short"}, 422)
    assert refused["detail"] == "The template short leaves the dataset open: name one."
    made = post(client, "/api/runs", {
        "name": "one", "template": saved["id"], "dataset": dataset.pk, "config": {"hyperparams": {"seed": 9}},
    }, 201)  # fmt: skip
    run = client.get(f"/api/runs/{made['id']}").json()
    assert (run["config"]["hyperparams"]["max_steps"], run["config"]["hyperparams"]["seed"]) == (5, 9)
    assert (run["profile"], run["model"], run["based_on"]) == ("emoji_think", model.name, None)
    changed = client.patch(
        f"/api/run-templates/{saved['id']}", {"name": "shorter", "model": None}, content_type="application/json"
    ).json()
    assert (changed["name"], changed["model"], changed["config"]) == ("shorter", None, body["config"])
    again = post(client, "/api/run-templates", {"name": "of a run", "run": made["id"]}, 201)
    assert again["config"]["hyperparams"] == {"max_steps": 5, "seed": 9}
    both = post(client, "/api/run-templates", {"name": "both", "run": made["id"], "model": model.name}, 422)
    assert "leave out model" in both["detail"]
    assert client.delete(f"/api/run-templates/{saved['id']}").status_code == 204
    assert client.get(f"/api/run-templates/{saved['id']}").status_code == 404
    assert AuditLine.objects.filter(action="run_template.use", detail__run=made["id"]).count() == 1
    assert post(client, "/api/runs", {"name": "none"}, 422)["faults"][0]["path"] == "dataset"


def test_a_section_that_nobody_knows_is_refused_whatever_its_name(client: Client) -> None:
    row = run_templates.save(ANN, name="nightly", config={}, model=factories.make_model().name)
    dataset = factories.make_dataset()
    body = {"name": "x", "template": row.pk, "dataset": dataset.pk, "config": {"template": {}}}
    assert "template" in str(post(client, "/api/runs", body, 422))


def test_only_the_maker_changes_a_template_over_the_api(client: Client) -> None:
    row = run_templates.save(ANN, name="hers", config={})
    other = client.patch(f"/api/run-templates/{row.pk}", {"name": "x"}, content_type="application/json")
    assert other.status_code == 403
    assert client.delete(f"/api/run-templates/{row.pk}").status_code == 403
    reader = factories.make_client("read")
    assert reader.post("/api/run-templates", {"name": "x"}, content_type="application/json").status_code == 403
    assert factories.make_client("admin").delete(f"/api/run-templates/{row.pk}").status_code == 204


def test_a_run_begun_with_anothers_settings_says_what_differs(client: Client) -> None:
    dataset, model = factories.make_dataset(), factories.make_model()
    common = {"dataset": dataset.pk, "model": model.name}
    first = post(client, "/api/runs", {"name": "a", **common}, 201)["id"]
    second = post(client, "/api/runs", {
        "name": "b", **common, "based_on": first, "config": {"hyperparams": {"learning_rate": 0.01}},
    }, 201)["id"]  # fmt: skip
    assert client.get(f"/api/runs/{second}").json()["based_on"] == first
    found = client.get(f"/api/runs/{second}/diff?with={first}").json()
    assert found == {"run": second, "with": first, "differences": [{
        "path": "hyperparams.learning_rate", "title": "Learning rate", "unit": "", "old": 2e-4, "new": 0.01,
        "old_source": "default", "new_source": "set",
    }]}  # fmt: skip
    assert client.get(f"/api/runs/{second}/diff?with=99999").status_code == 404
    assert post(client, "/api/runs", {"name": "c", **common, "based_on": 99999}, 404)["detail"]


def test_a_preview_starts_nothing_and_tells_steps_rate_and_difference(client: Client) -> None:
    dataset, model = factories.make_dataset(examples=100, eval_fraction=0.1), factories.make_model()
    body = {"dataset": dataset.pk, "model": model.name, "config": {"hyperparams": {"warmup_ratio": 0.5}}}
    found = post(client, "/api/runs/preview", body, 200)
    plan = found["plan"]
    assert (plan["train_examples"], plan["eval_examples"], plan["steps_per_epoch"]) == (90, 10, 12)
    assert (plan["total_steps"], plan["warmup_steps"], plan["is_exact"]) == (12, 6, True)
    rates = dict(zip(plan["learning_rate"]["step"], plan["learning_rate"]["value"], strict=True))
    assert (rates[0], rates[6], rates[12]) == (0.0, 2e-4, 0.0)
    assert "hyperparams.warmup_ratio" in {row["path"] for row in found["differences"]}
    assert found["config"]["hyperparams"]["warmup_ratio"] == 0.5
    wrong = post(client, "/api/runs/preview", {**body, "config": {"hyperparams": {"seed": -1}}}, 422)
    assert wrong["faults"][0]["path"] == "config.hyperparams.seed"
    assert client.get("/api/runs").json()["runs"] == []


def test_a_flat_file_is_read_over_the_api(client: Client) -> None:
    found = post(client, "/api/runs/config", {
        "epochs": 2, "wandb": True, "val_split": 0.05, "register_as": "x",
    }, 200)  # fmt: skip
    assert found["config"] == {
        "hyperparams": {"num_train_epochs": 2.0}, "data": {"eval_fraction": 0.05}, "output": {"register_as": "x"},
    }  # fmt: skip
    assert [left["key"] for left in found["left_out"]] == ["wandb"]
    row = next(row for row in found["explained"] if row["path"] == "hyperparams.num_train_epochs")
    assert row == {"path": "hyperparams.num_train_epochs", "value": 2.0, "source": "json", "key": "epochs"}
    wrong = post(client, "/api/runs/config", {"lr": 9}, 422)
    assert wrong["faults"][0]["path"] == "config.hyperparams.learning_rate"
    assert "The file calls it 'lr'" in wrong["detail"]
