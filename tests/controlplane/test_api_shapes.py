"""How both APIs tell errors, and that the OpenAPI schema lists every call."""

import json

import pytest
from django.test import Client
from pytest_django import Settings

from controlplane.services import jobs
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]

CALLS = {
    "/api/health": "get", "/api/info": "get", "/api/version": "get", "/api/gpu": "get", "/api/system": "get",
    "/api/logs/{component}": "get", "/api/config": "get",
    "/api/models": "get", "/api/models/register": "post", "/api/models/set_active": "post",
    "/api/models/active": "get", "/api/models/engine": "get", "/api/exports": "get post",
    "/api/exports/{export_id}": "get delete", "/api/exports/{export_id}/download": "get",
    "/api/models/reload": "post", "/api/models/{model_id}": "get delete",
    "/v1/chat/completions": "post", "/v1/completions": "post", "/v1/models": "get", "/v1/models/{model_id}": "get",
    "/api/v1/chat/completions": "post", "/api/v1/models": "get",
    "/api/jobs": "get", "/api/jobs/stats": "get", "/api/jobs/{job_id}": "get", "/api/jobs/{job_id}/cancel": "post",
    "/api/jobs/{job_id}/log": "get", "/api/jobs/{job_id}/log/download": "get",
    "/api/jobs/{job_id}/retry": "post", "/api/jobs/{job_id}/priority": "post",
    "/api/settings/power_profile": "get post", "/api/settings/persistence_mode": "post",
    "/api/settings/power_schedules": "get post", "/api/settings/power_schedules/{schedule_id}": "get patch delete",
    "/api/uploads": "post", "/api/uploads/{upload_id}": "get delete",
    "/api/uploads/{upload_id}/parts/{number}": "put", "/api/uploads/{upload_id}/complete": "post",
    "/api/datasets": "get post", "/api/datasets/{dataset_id}": "get delete",
    "/api/datasets/{dataset_id}/preview": "get", "/api/datasets/{dataset_id}/download": "get",
    "/api/runs/many": "post", "/api/runs/compare": "get", "/api/runs/compare/metrics": "get",
    "/api/run-views": "get post", "/api/run-views/{view_id}": "patch delete",
    "/api/runs": "get post", "/api/runs/{run_id}": "get patch delete", "/api/runs/{run_id}/metrics": "get post",
    "/api/runs/external": "post", "/api/runs/import": "post", "/api/runs/{run_id}/finish": "post",
    "/api/runs/{run_id}/stop": "post", "/api/runs/{run_id}/pause": "post", "/api/runs/{run_id}/resume": "post",
    "/api/runs/{run_id}/checkpoints": "get", "/api/runs/{run_id}/checkpoints/{step}/register": "post",
    "/api/keys": "get post", "/api/keys/{key_id}": "delete", "/api/hosts": "get", "/api/settings": "get",
    "/api/hosts/{name}": "get", "/api/hosts/{name}/history": "get", "/api/gpu/history": "get",
    "/api/gpu/processes": "get", "/api/gpu/processes/end": "post",
    "/api/settings/{key}": "put", "/api/deployments": "get", "/api/deployments/{deployment_id}/stop": "post",
    "/api/runs/{run_id}/go-on": "post", "/api/run-sweeps": "get post", "/api/run-sweeps/{sweep_id}": "get delete",
    "/api/run-sweeps/{sweep_id}/pause": "post", "/api/run-sweeps/{sweep_id}/resume": "post",
    "/api/run-sweeps/{sweep_id}/stop": "post",
    "/api/conversations": "get post", "/api/conversations/{conversation_id}": "get patch delete",
    "/api/conversations/{conversation_id}/turns": "post", "/api/conversations/{conversation_id}/answers": "post",
    "/api/conversations/{conversation_id}/votes": "post", "/api/votes": "get", "/api/votes.csv": "get",
    "/api/collected": "get post", "/api/collected/rows": "get", "/api/collected/rows/{row_id}": "delete",
    "/api/collected/dataset": "post",
    "/api/search": "get",
    "/api/audit": "get", "/api/energy": "get", "/api/power_sweeps": "get post", "/api/power_sweeps/{sweep_id}": "get",
    "/api/power_sweeps/{sweep_id}/cancel": "post", "/api/power_sweeps/{sweep_id}/use": "post",
}  # fmt: skip


def test_the_schema_lists_every_call_and_resolves_every_reference() -> None:
    schema = factories.make_client("read").get("/api/openapi.json").json()
    for path, methods in CALLS.items():
        assert set(methods.split()) <= set(schema["paths"].get(path, {})), path
    text = json.dumps(schema)
    for name in {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert name in schema["components"]["schemas"], name
    assert "$defs" not in text


def test_the_schema_describes_every_setting_of_a_run() -> None:
    schemas = factories.make_client("read").get("/api/openapi.json").json()["components"]["schemas"]
    assert schemas["CreateRun"]["properties"]["config"] == {"$ref": "#/components/schemas/TrainerConfig"}
    rate = schemas["TrainerConfigHyperparams"]["properties"]["learning_rate"]
    assert (rate["exclusiveMinimum"], rate["maximum"]) == (0, 1)


def test_an_unknown_address_is_told_in_the_shape_of_its_api() -> None:
    client = factories.make_client("read")
    for path in ("/api/no/such/call", "/api/"):
        assert set(client.get(path).json()) == {"detail"}
    for path in ("/v1/no/such/call", "/api/v1/no/such/call"):
        response = client.get(path)
        assert response.status_code == 404
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/api/models", "/api/models/set_active", "/v1/models", "/v1/chat/completions"])
def test_a_method_that_is_not_taken_is_told_in_the_shape_of_its_api(path: str) -> None:
    response = factories.make_client("use").patch(path)
    assert response.status_code == 405
    assert set(response.json()) == ({"error"} if path.startswith("/v1") else {"detail"})
    assert response["Allow"] in ("GET", "POST")
    assert response["Allow"] in str(response.json())


def test_a_fault_names_its_path_and_what_is_allowed() -> None:
    response = factories.make_client("read").get("/api/jobs?limit=0")
    assert response.status_code == 422
    assert response.json()["faults"] == [{"path": "limit", "message": "Input should be greater than or equal to 1"}]


def test_a_missing_field_of_a_body_is_named() -> None:
    response = factories.make_client("use").post("/api/uploads", {"bytes": 3}, content_type="application/json")
    assert response.status_code == 422
    assert [fault["path"] for fault in response.json()["faults"]] == ["filename"]


def test_a_body_that_is_no_json_is_bad_input() -> None:
    response = factories.make_client("use").post("/api/uploads", b"{", content_type="application/json")
    assert response.status_code == 422
    assert set(response.json()) == {"detail"}


def test_a_failure_that_nobody_foresaw_tells_no_insides(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, int]:
        raise RuntimeError("the secret is 1234")

    monkeypatch.setattr(jobs, "statistics", broken)
    response = factories.make_client("read").get("/api/jobs/stats")
    assert response.status_code == 500
    assert "1234" not in response.content.decode()
    assert "log" in response.json()["detail"]


@pytest.mark.urls("controlplane.urls")
def test_the_docs_are_a_page_without_inline_script_or_foreign_address(settings: Settings) -> None:
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = {**settings.STORAGES, "staticfiles": plain}
    assert Client().get("/api/docs").status_code == 302
    client = Client()
    client.force_login(factories.make_user("read"))
    response = client.get("/api/docs")
    assert response.status_code == 200
    html = response.content.decode()
    assert "swagger-ui-bundle" in html
    assert "://" not in html
    assert html.count("<script") == html.count("<script src=") == 2
    assert "style=" not in html
