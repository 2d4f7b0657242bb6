"""Who may call: keys in both headers, browser sessions, the three roles, and how a refusal is told."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.models import ApiKey, AuditLine
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]

LOOKS = (
    "/api/info", "/api/version", "/api/gpu", "/api/config", "/api/models", "/api/jobs", "/api/jobs/stats",
    "/api/settings/power_profile", "/api/datasets", "/api/runs", "/api/hosts", "/api/deployments",
)  # fmt: skip
RULES = ("/api/keys", "/api/settings", "/api/audit")


@pytest.mark.parametrize("path", [*LOOKS, *RULES, "/v1/models", "/api/v1/models", "/api/nothing", "/api/openapi.json"])
def test_without_a_key_every_call_is_refused(path: str) -> None:
    response = Client().get(path)
    assert response.status_code == 401
    assert "key" in str(response.json())


@pytest.mark.parametrize("headers", [{"X-API-Key": "ph_wrong"}, {"Authorization": "Bearer ph_wrong"}])
def test_a_wrong_key_is_refused_even_beside_a_session(headers: dict[str, str]) -> None:
    client = Client(headers=headers)
    client.force_login(factories.make_user("admin"))
    response = client.get("/api/info")
    assert response.status_code == 401
    assert set(response.json()) == {"detail"}


@pytest.mark.parametrize("make", [lambda key: {"X-API-Key": key}, lambda key: {"Authorization": f"Bearer {key}"}])
def test_a_key_opens_by_either_header(make: Callable[[str], dict[str, str]]) -> None:
    assert Client(headers=make(factories.make_key("read"))).get("/api/info").status_code == 200


def test_an_expired_and_a_revoked_key_are_refused() -> None:
    for change in ({"expires_at": timezone.now() - timedelta(seconds=1)}, {"revoked_at": timezone.now()}):
        row, plain = factories.make_key_row("admin")
        ApiKey.objects.filter(pk=row.pk).update(**change)
        assert Client(headers={"X-API-Key": plain}).get("/api/info").status_code == 401


@pytest.mark.parametrize("path", LOOKS)
def test_a_reader_may_look(path: str) -> None:
    assert factories.make_client("read").get(path).status_code == 200


@pytest.mark.parametrize("path", RULES)
def test_only_an_admin_sees_keys_settings_and_the_audit_log(path: str) -> None:
    assert factories.make_client("use").get(path).status_code == 403
    assert factories.make_client("admin").get(path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("post", "/api/uploads", {"filename": "a.jsonl", "bytes": 3}),
        ("post", "/api/runs", {"name": "a", "dataset": 1, "model": "m"}),
        ("post", "/api/models/register", {"id": "a", "source": "hub", "hub_id": "a/b"}),
        ("post", "/v1/chat/completions", {"messages": []}),
    ],
)
def test_a_reader_changes_nothing(method: str, path: str, body: dict[str, object]) -> None:
    response = getattr(factories.make_client("read"), method)(path, body, content_type="application/json")
    assert response.status_code == 403, response.content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/settings/power_profile?profile=quiet", {}),
        ("/api/models/set_active?wait=false", {"id": "m"}),
        ("/api/models/reload", {}),
        ("/api/keys", {"name": "k", "role": "read"}),
    ],
)
def test_ruling_needs_an_admin(path: str, body: dict[str, object]) -> None:
    response = factories.make_client("use").post(path, body, content_type="application/json")
    assert response.status_code == 403, response.content


def test_a_session_looks_without_and_writes_with_the_csrf_token() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(factories.make_user("admin"))
    assert client.get("/api/info").status_code == 200
    body = {"name": "by session", "role": "read"}
    refused = client.post("/api/keys", body, content_type="application/json")
    assert refused.status_code == 403
    assert "CSRF" in refused.json()["detail"]
    token = "a" * 32
    client.cookies["csrftoken"] = token
    allowed = client.post("/api/keys", body, content_type="application/json", headers={"X-CSRFToken": token})
    assert allowed.status_code == 201, allowed.content
    assert AuditLine.objects.get(action="key.create").actor.startswith("admin-")


def test_a_key_needs_no_csrf_token() -> None:
    client = Client(enforce_csrf_checks=True, headers={"X-API-Key": factories.make_key("admin")})
    body = {"name": "by key", "role": "read"}
    assert client.post("/api/keys", body, content_type="application/json").status_code == 201


def test_a_write_by_nobody_is_401_and_not_a_matter_of_csrf() -> None:
    response = Client(enforce_csrf_checks=True).post("/api/keys", {}, content_type="application/json")
    assert response.status_code == 401


def test_the_audit_log_knows_who_and_from_where() -> None:
    factories.make_client("admin", name="cron").post(
        "/api/keys", {"name": "k", "role": "use"}, content_type="application/json"
    )
    line = AuditLine.objects.filter(action="key.create").first()
    assert line is not None
    assert (line.actor, line.address, line.target) == ("key cron", "127.0.0.1", "k")


def test_the_life_of_a_key() -> None:
    admin = factories.make_client("admin")
    made = admin.post("/api/keys", {"name": "notebook", "role": "use"}, content_type="application/json")
    assert made.status_code == 201
    key = made.json()
    assert key["key"].startswith(key["prefix"])
    assert Client(headers={"X-API-Key": key["key"]}).get("/api/info").status_code == 200
    listed = admin.get("/api/keys").json()["keys"]
    assert key["id"] in [item["id"] for item in listed]
    assert all("key" not in item and "hash" not in item for item in listed)
    assert admin.delete(f"/api/keys/{key['id']}").status_code == 204
    assert Client(headers={"X-API-Key": key["key"]}).get("/api/info").status_code == 401
    assert admin.delete("/api/keys/999999").status_code == 404


def test_a_key_with_an_unknown_role_is_refused() -> None:
    response = factories.make_client("admin").post(
        "/api/keys", {"name": "k", "role": "root"}, content_type="application/json"
    )
    assert response.status_code == 422
    assert "admin, use or read" in response.json()["detail"]
