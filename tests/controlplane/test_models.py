"""Models over the API: listing, registering, activating, deleting, and what the fetch job reports."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from controlplane.models import Deployment, Job, LanguageModel
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Status
from controlplane.models.language_models import ModelState
from controlplane.services import models
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls"), pytest.mark.usefixtures("home")]
JSON = "application/json"
FETCHED = {
    "kind": "full", "base_model": None, "architecture": "Qwen3ForCausalLM", "parameters": 123, "dtype": "bfloat16",
    "size_bytes": 456, "tokenizer_sha256": "t", "chat_template_sha256": "c", "has_chat_template": True, "hashes": {},
    "source": {"kind": "hub"}, "answer": None,
}  # fmt: skip


@pytest.fixture
def user() -> Client:
    """A client that may work."""
    return factories.make_client("use", name="mine")


@pytest.fixture
def admin() -> Client:
    """A client that may rule."""
    return factories.make_client("admin")


def register(client: Client, **body: Any) -> Any:
    return client.post("/api/models/register", body, content_type=JSON)


def test_the_list_has_every_field_and_the_active_model_first(user: Client) -> None:
    active = factories.make_model("Qwen/Qwen3-0.6B", tags=["a"])
    factories.make_model("newer")
    factories.make_deployment(active, is_active=True)
    listed = user.get("/api/models").json()["models"]
    assert [(item["id"], item["is_active"]) for item in listed] == [("Qwen/Qwen3-0.6B", True), ("newer", False)]
    assert {
        "id", "source", "path", "base_model", "kind", "size_bytes", "parameters", "dtype", "tags", "created_at",
        "is_active", "state", "run_id",
    } <= set(listed[0])  # fmt: skip
    assert user.get("/api/models/active").json() == listed[0]
    assert user.get("/api/models/Qwen/Qwen3-0.6B").json() == listed[0]


def test_without_an_active_model_there_is_none(user: Client) -> None:
    assert user.get("/api/models/active").status_code == 404
    assert user.get("/api/models/no/such").status_code == 404


def test_registering_from_the_hub_queues_a_fetch_job(user: Client) -> None:
    response = register(user, id="my/qwen", source="hub", hub_id="Qwen/Qwen3-0.6B", revision="main", tags=["x", "x"])
    assert response.status_code == 201, response.content
    answer = response.json()
    assert (answer["id"], answer["source"], answer["state"], answer["tags"]) == ("my/qwen", "hub", "fetching", ["x"])
    model = LanguageModel.objects.get(name="my/qwen")
    job = Job.objects.get(pk=answer["job_id"])
    assert job.kind == "fetch"
    assert job.config == {
        "source": "hub", "hub_id": "Qwen/Qwen3-0.6B", "revision": "main", "path": "", "model": str(model.uuid)
    }  # fmt: skip


def test_an_id_that_is_taken_is_a_conflict(user: Client) -> None:
    factories.make_model("taken")
    response = register(user, id="taken", source="smollm2")
    assert response.status_code == 409
    assert not Job.objects.filter(kind="fetch").exists()


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a b", "a\n", "ä", "active", "register", "x" * 201, "-a", ".a"],
)
def test_an_id_that_cannot_be_is_refused(user: Client, name: str) -> None:
    response = register(user, id=name, source="smollm2")
    assert response.status_code == 422
    assert response.json()["faults"][0]["path"] == "id"
    assert not LanguageModel.objects.exists()


@pytest.mark.parametrize("name", ["a", "Qwen/Qwen3-0.6B", "org/team/model_v1.0", "x" * 200])
def test_an_id_may_hold_slashes_and_dots(user: Client, name: str) -> None:
    assert register(user, id=name, source="smollm2").status_code == 201


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"source": "ftp"}, "source"),
        ({"source": "hub"}, "hub_id"),
        ({"source": "hub", "hub_id": "a/b/c"}, "hub_id"),
        ({"source": "hub", "hub_id": "../b"}, "hub_id"),
        ({"source": "hub", "hub_id": "a/b", "revision": "../x"}, "revision"),
        ({"source": "directory"}, "path"),
        ({"source": "directory", "path": "relative"}, "path"),
        ({"source": "directory", "path": "/no/such/folder"}, "path"),
        ({"source": "smollm2", "tags": ["a\tb"]}, "tags"),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_its_path(admin: Client, body: dict[str, Any], path: str) -> None:
    response = register(admin, id="m", **body)
    assert response.status_code == 422, response.content
    assert response.json()["faults"][0]["path"] == path
    assert not Job.objects.exists()


def test_a_local_folder_is_an_admins_matter(user: Client, admin: Client, tmp_path: Path) -> None:
    assert register(user, id="m", source="local", path=str(tmp_path)).status_code == 403
    response = register(admin, id="m", source="local", path=str(tmp_path))
    assert response.status_code == 201
    assert Job.objects.get(pk=response.json()["job_id"]).config["path"] == str(tmp_path)


def test_what_was_fetched_is_ready_with_its_facts(user: Client) -> None:
    register(user, id="m", source="hub", hub_id="a/b")
    models.fetched(str(LanguageModel.objects.get(name="m").uuid), FETCHED)
    told = user.get("/api/models/m").json()
    assert (told["state"], told["parameters"], told["dtype"], told["size_bytes"]) == ("ready", 123, "bfloat16", 456)


def test_what_could_not_be_fetched_says_why(user: Client) -> None:
    register(user, id="m", source="hub", hub_id="a/b")
    uuid = str(LanguageModel.objects.get(name="m").uuid)
    models.fetch_failed(uuid, {"code": "hub_unreachable", "message": "The hub can't be reached.", "fix": "Go online."})
    told = user.get("/api/models/m").json()
    assert (told["state"], told["error"]) == ("failed", "The hub can't be reached. Go online.")


def test_an_adapter_finds_its_base_or_says_that_it_lacks_one(user: Client) -> None:
    base = factories.make_model("base", hub_id="Qwen/Qwen3-0.6B")
    for name, wanted in (("good", "Qwen/Qwen3-0.6B"), ("bad", "other/base")):
        register(user, id=name, source="hub", hub_id="a/b")
        uuid = str(LanguageModel.objects.get(name=name).uuid)
        models.fetched(uuid, {**FETCHED, "kind": "adapter", "base_model": wanted})
    good, bad = user.get("/api/models/good").json(), user.get("/api/models/bad").json()
    assert (good["state"], good["kind"], good["base_model"]) == ("ready", "adapter", base.name)
    assert bad["state"] == "failed"
    assert "other/base" in bad["error"]


def test_the_starter_is_fetched_where_there_is_no_model_and_only_then() -> None:
    model = models.ensure_starter(SYSTEM)
    assert model is not None
    assert (model.name, model.job and model.job.config["source"]) == ("smollm2-135m-instruct", "smollm2")
    assert models.ensure_starter(SYSTEM) is None
    assert Job.objects.count() == 1


def test_activating_without_waiting_answers_202(admin: Client) -> None:
    factories.make_model("Qwen/Qwen3-0.6B")
    response = admin.post("/api/models/set_active?wait=false", {"id": "Qwen/Qwen3-0.6B"}, content_type=JSON)
    assert response.status_code == 202, response.content
    deployment = Deployment.objects.get()
    assert response.json() == {"active_model": None, "deployment": deployment.pk, "status": "starting"}


def test_activating_what_is_active_answers_200(admin: Client) -> None:
    deployment = factories.make_deployment(factories.make_model("m"), is_active=True)
    response = admin.post("/api/models/set_active", {"id": "m"}, content_type=JSON)
    assert response.status_code == 200
    assert response.json() == {"active_model": "m", "deployment": deployment.pk, "status": "ready"}


def test_activating_what_is_not_ready_or_not_there_is_refused(admin: Client) -> None:
    factories.make_model("half", state="fetching")
    assert admin.post("/api/models/set_active", {"id": "half"}, content_type=JSON).status_code == 409
    assert admin.post("/api/models/set_active", {"id": "none"}, content_type=JSON).status_code == 404
    assert admin.post("/api/models/reload").status_code == 404


def test_an_activation_that_fails_says_why(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    model = factories.make_model("m")

    def fails(*_args: object, **_fields: object) -> Deployment:
        return factories.make_deployment(model, status="failed", error="The engine ran out of memory.")

    monkeypatch.setattr("controlplane.services.activation.activate", fails)
    response = admin.post("/api/models/set_active", {"id": "m"}, content_type=JSON)
    assert response.status_code == 409
    assert "ran out of memory" in response.json()["detail"]


def test_reloading_starts_a_second_engine(admin: Client) -> None:
    old = factories.make_deployment(factories.make_model("m"), is_active=True)
    response = admin.post("/api/models/reload")
    assert response.status_code == 202
    answer = response.json()
    assert answer["active_model"] == "m"
    assert answer["deployment"] != old.pk


def test_deleting_takes_row_and_files(user: Client, home: Path) -> None:
    model = factories.make_model("a/b", created_by="key mine")
    factories.make_deployment(model, status="stopped")
    (home / "models" / f".{model.uuid}.partial").mkdir()
    assert user.delete("/api/models/a/b").status_code == 204
    assert not LanguageModel.objects.exists()
    assert list((home / "models").iterdir()) == []
    assert user.delete("/api/models/a/b").status_code == 404


def test_deleting_follows_no_link(user: Client, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    factories.make_model("m", created_by="key mine", folder=outside)
    assert user.delete("/api/models/m").status_code == 204
    assert (outside / "config.json").exists()


def test_deleting_what_others_made_needs_an_admin(user: Client, admin: Client) -> None:
    factories.make_model("m")
    assert user.delete("/api/models/m").status_code == 403
    assert admin.delete("/api/models/m").status_code == 204


def test_deleting_is_refused_while_something_stands_on_it(admin: Client) -> None:
    served = factories.make_model("served")
    factories.make_deployment(served, is_active=True)
    factories.make_model("adapter", base=factories.make_model("base"), kind="adapter")
    factories.make_run(model=factories.make_model("trained-from"))
    factories.make_model("coming", state="fetching", job=factories.make_job("fetch", Status.RUNNING))
    for name, word in (("served", "active"), ("base", "adapter"), ("trained-from", "Run"), ("coming", "being made")):
        response = admin.delete(f"/api/models/{name}")
        assert response.status_code == 409, name
        assert word in response.json()["detail"]
        assert LanguageModel.objects.filter(name=name).exists()


def test_a_model_that_a_run_is_still_making_is_not_listed() -> None:
    making = factories.make_model(source="run", state=ModelState.FETCHING)
    made = factories.make_model(source="run")
    assert [model.name for model in models.list_models()] == [made.name]
    assert models.count() == 1
    assert models.get(making.name).state == ModelState.FETCHING
