"""Exports to GGUF and the engines that serve models: over the API, on the page, and what their jobs are told."""

import hashlib
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import Client

from controlplane.errors import ConflictError, ForbiddenError
from controlplane.kinds.registry import kind_of
from controlplane.kinds.serve import ServeKind
from controlplane.models import Attempt, AuditLine, Job, LanguageModel, ModelExport
from controlplane.models.access import Actor, KeyLimits, Role
from controlplane.models.jobs import Status
from controlplane.services import activation, engine_choice, engine_room, exports, jobs
from controlplane.services import models as model_services
from tests import factories
from tests.controlplane.page_reading import read
from tests.controlplane.test_datasets import whole
from tests.factories import client_of, make_client, make_host, make_job, make_model

ADMIN = Actor("admin", Role.ADMIN)
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


@pytest.fixture
def user() -> Client:
    return make_client("use", "mine")


def attempt_of(job: Job) -> Attempt:
    return Attempt(job=job, number=1, host=make_host())


def make_export(model: LanguageModel, kind: str = "Q8_0", data: bytes = b"GGUF and so on") -> ModelExport:
    """One that is there."""
    row = ModelExport.objects.create(
        model=model, kind=kind, job=make_job("fetch", Status.DONE), size_bytes=len(data), created_by="key mine",
        sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    row.path.parent.mkdir(parents=True, exist_ok=True)
    row.path.write_bytes(data)
    return row


# --- Made -------------------------------------------------------------------------------------------------------------


def test_a_key_for_one_model_takes_no_other_with_it() -> None:
    key = Actor("key small", Role.USE, limits=KeyLimits(models=("a",)))
    theirs = make_export(make_model("b", architecture="Qwen3ForCausalLM"))
    for refused in (lambda: exports.create(key, "b", "F16"), lambda: exports.opened(key, theirs.pk)):
        with pytest.raises(ForbiddenError, match="may not use the model b"):
            refused()
    with exports.opened(key, make_export(make_model("a")).pk)[1] as file:
        assert file.read() == b"GGUF and so on"


def test_the_job_of_an_export_that_is_gone_is_not_tried_again(user: Client) -> None:
    body = {"model_id": make_model("a").name, "kind": "F16"}
    told = user.post("/api/exports", body, content_type="application/json").json()
    jobs.cancel(ADMIN, told["job_id"])
    again = user.post("/api/exports", body, content_type="application/json").json()
    with pytest.raises(ConflictError, match="makes no export any more"):
        jobs.retry(ADMIN, told["job_id"])
    jobs.cancel(ADMIN, again["job_id"])
    assert jobs.retry(ADMIN, again["job_id"]).status == Status.PENDING


def test_an_export_is_a_fetch_job_that_says_where_to_write(user: Client) -> None:
    base = make_model("house/base")
    adapter = make_model("house/tuned", kind="adapter", base=base, architecture="")
    told = user.post("/api/exports", {"model_id": adapter.name, "kind": "Q4_K_M"}, content_type="application/json")
    assert (told.status_code, told.json()["state"]) == (201, "making")
    assert told.json()["filename"] == "tuned-Q4_K_M.gguf"
    job = Job.objects.get(pk=told.json()["job_id"])
    spec = kind_of(job).spec(job, attempt_of(job))
    assert (spec.kind, spec.config, spec.output_dir) == ("fetch", {"export": "Q4_K_M"}, str(adapter.folder / "gguf"))
    assert spec.inputs.model is not None
    assert spec.inputs.base is not None
    assert (spec.inputs.model.path, spec.inputs.base.path) == (str(adapter.folder), str(base.folder))
    assert AuditLine.objects.filter(action="model.export", target="house/tuned").exists()
    again = user.post("/api/exports", {"model_id": adapter.name, "kind": "Q4_K_M"}, content_type="application/json")
    assert again.status_code == 409
    with pytest.raises(ConflictError, match=f"exported by job {job.pk}"):
        model_services.delete(ADMIN, adapter.name)


def test_what_the_job_says_is_what_the_export_is(user: Client) -> None:
    model = make_model("m")
    user.post("/api/exports", {"model_id": "m", "kind": "F16"}, content_type="application/json")
    job = Job.objects.get()
    kind_of(job).on_failed(job, {"code": "x", "message": "No room.", "fix": "Make some."})
    Job.objects.update(status=Status.FAILED, error={"message": "No room.", "fix": "Make some."})
    model.refresh_from_db()
    assert (model.state, model.error) == ("ready", ""), "the model is as good as it was"
    told = user.get("/api/exports?model_id=m").json()["exports"]
    assert [(row["state"], row["error"]) for row in told] == [("failed", "No room. Make some.")]
    second = user.post("/api/exports", {"model_id": "m", "kind": "F16"}, content_type="application/json").json()
    job = Job.objects.get(pk=second["job_id"])
    kind_of(job).on_done(job, attempt_of(job), {"file": "F16.gguf", "size_bytes": 7, "sha256": "ab" * 32})
    told = user.get("/api/exports").json()["exports"]
    assert [(row["state"], row["size_bytes"], row["sha256"]) for row in told] == [("ready", 7, "ab" * 32)]


def test_a_model_of_another_family_is_refused(user: Client) -> None:
    make_model("m", architecture="MambaForCausalLM")
    refused = user.post("/api/exports", {"model_id": "m"}, content_type="application/json")
    assert (refused.status_code, "families" in refused.json()["detail"]) == (409, True)
    assert not Job.objects.exists()


# --- Read and deleted -------------------------------------------------------------------------------------------------


def test_it_is_downloaded_by_who_may_use_and_that_is_noted(user: Client) -> None:
    row = make_export(make_model("house/m"))
    address = f"/api/exports/{row.pk}/download"
    response: Any = user.get(address)
    assert response["Content-Disposition"] == 'attachment; filename="m-Q8_0.gguf"'
    assert async_to_sync(whole)(response) == b"GGUF and so on"
    assert AuditLine.objects.filter(action="model.export.download", actor="key mine").count() == 1
    assert make_client("read").get(address).status_code == 403
    row.path.unlink()
    gone = user.get(address)
    assert (gone.status_code, "make it again" in gone.json()["detail"]) == (404, True)


def test_one_that_is_served_stays_and_another_goes_with_its_file(user: Client) -> None:
    model = make_model("m", engine="llama_cpp", created_by="key mine")
    small, large = make_export(model, "Q4_K_M"), make_export(model, "F16")
    kept = user.delete(f"/api/exports/{small.pk}")
    assert (kept.status_code, "served from its export Q4_K_M" in kept.json()["detail"]) == (409, True)
    assert make_client("use", "other").delete(f"/api/exports/{large.pk}").status_code == 403
    assert user.delete(f"/api/exports/{large.pk}").status_code == 204
    assert (small.path.exists(), large.path.exists()) == (True, False)


# --- Served -----------------------------------------------------------------------------------------------------------


def test_the_engine_that_is_set_is_what_its_job_is_told() -> None:
    model, admin = make_model("m"), make_client("admin")
    make_export(model)
    assert ServeKind().spec(*_serving(model)).config["engine"] == "transformers"
    wrong = admin.patch("/api/models/m", {"engine": "llama_cpp", "gguf": "F16"}, content_type="application/json")
    assert (wrong.status_code, wrong.json()["faults"][0]["path"]) == (422, "gguf")
    right = admin.patch("/api/models/m", {"engine": "llama_cpp", "gguf": "Q8_0"}, content_type="application/json")
    assert (right.json()["engine"], right.json()["gguf"]) == ("llama_cpp", "Q8_0")
    model.refresh_from_db()
    config = ServeKind().spec(*_serving(model)).config
    assert (config["engine"], config["gguf"]) == ("llama_cpp", "Q8_0")
    assert engine_room.needed_bytes(model) < 10**9
    make_model("beside", kind="adapter", base=model)
    with pytest.raises(ConflictError, match="no adapters beside it"):
        activation.add_engine(ADMIN, "m", ["beside"])


def _serving(model: LanguageModel) -> tuple[Job, Attempt]:
    job = make_job("serve")
    factories.make_deployment(model, job=job)
    return job, attempt_of(job)


@pytest.mark.parametrize(
    ("there", "engine", "word"),
    [
        ((0, ["Q8_0", "Q4_K_M"], "llama_cpp", "plain"), "llama_cpp", "a GGUF export (Q4_K_M) exists"),
        ((0, [], "llama_cpp", "plain"), "transformers", "export the model to Q4_K_M"),
        ((0, ["Q8_0"], "", "plain"), "transformers", "bin/up --extras llama_cpp"),
        ((1, ["Q8_0"], "llama_cpp", "plain"), "transformers", "A GPU is here"),
        ((1, [], "vllm", "plain"), "vllm", "many clients"),
        ((1, [], "vllm", "emoji_think"), "transformers", "with its profile"),
    ],
)
def test_an_engine_is_suggested_by_hardware_and_it_is_said_why(
    there: tuple[int, list[str], str, str], engine: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus, kinds, installed, profile = there
    monkeypatch.setattr(engine_choice, "is_installed", lambda package: package == installed)
    model = make_model(profile={"name": profile})
    assert engine_choice.suggest(model) is None, "no host, no suggestion"
    make_host(gpus=gpus)
    for kind in kinds:
        make_export(model, kind)
    found = engine_choice.suggest(model)
    assert found is not None
    assert (found.engine, word in found.why) == (engine, True)
    assert found.gguf == ("Q4_K_M" if engine == "llama_cpp" else "")


def test_the_page_exports_offers_the_file_and_sets_the_engine() -> None:
    model, admin = make_model("house/m"), client_of("admin")
    make_host()
    page = read(admin.get("/models/at/house/m"))
    assert [one.get("value") for one in page.all("option") if one.get("value") == "Q4_K_M"] == ["Q4_K_M"]
    assert "export the model to Q4_K_M" in page.source
    admin.post("/models/exports/add", {"name": "house/m", "kind": "Q4_K_M"})
    assert ModelExport.objects.get().state == "making"
    row = make_export(model, "F16")
    page = read(admin.get("/models/at/house/m"))
    assert page.one("a", href=f"/api/exports/{row.pk}/download").get("aria-label") == "Download m-F16.gguf"
    admin.post("/models/serving", {"name": "house/m", "engine": "llama_cpp:F16"})
    model.refresh_from_db()
    assert (model.engine, model.gguf) == ("llama_cpp", "F16")
    admin.post("/models/serving", {"name": "house/m", "engine": "llama_cpp:Q8_0"})
    admin.post("/models/serving", {"name": "house/m", "idle_unload_minutes": ""})
    model.refresh_from_db()
    assert (model.engine, model.gguf) == ("llama_cpp", "F16"), "what isn't there can't be chosen"
    admin.post("/models/serving", {"name": "house/m", "engine": "transformers"})
    admin.post(f"/models/exports/{row.pk}/delete")
    assert not row.path.exists()
