"""/api/alerts: what each role may see and do, and the form of every answer."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from controlplane.models import AlertRoute
from controlplane.services import alerts
from tests import factories
from tests.controlplane.receivers import Receiver, receiving

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def send(client: Client, method: str, path: str, body: Any = None) -> Any:
    return getattr(client, method)(path, body if body is not None else {}, content_type="application/json")


def test_alerts_are_listed_filtered_and_paged() -> None:
    first = alerts.fire("disk", "/", "warning", "Little room.", fix="Delete runs.", url="/hosts/tower/")
    second = alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.")
    alerts.end("disk", "/")
    client = factories.make_client("read")
    answer = client.get("/api/alerts").json()
    assert ([row["id"] for row in answer["alerts"]], answer["unacknowledged"]) == ([second.pk, first.pk], 1)
    whole = answer["alerts"][1]
    assert whole["ended_at"] is not None
    told = ("rule", "title", "subject", "severity", "message", "fix", "url", "count")
    assert {name: whole[name] for name in told} == {
        "rule": "disk", "title": "Disk nearly full", "subject": "/", "severity": "warning", "message": "Little room.",
        "fix": "Delete runs.", "url": "/hosts/tower/", "count": 1,
    }  # fmt: skip

    def found(query: str) -> list[int]:
        return [row["id"] for row in client.get(f"/api/alerts?{query}").json()["alerts"]]

    assert found("open=true") == found("rule=gpu_lost") == found("severity=critical") == [second.pk]
    assert found("open=false") == found(f"before_id={second.pk}") == [first.pk]
    assert found("limit=1") == [second.pk]
    for wrong in ("rule=nothing", "severity=loud", "limit=0", "open=maybe"):
        assert client.get(f"/api/alerts?{wrong}").status_code == 422, wrong


def test_acknowledging_needs_the_role_use() -> None:
    alert = alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.")
    path = f"/api/alerts/{alert.pk}/acknowledge"
    assert factories.make_client("read").post(path).status_code == 403
    client = factories.make_client("use", "phone")
    assert client.post(path).json()["acknowledged_by"] == "key phone"
    assert client.get("/api/alerts").json()["unacknowledged"] == 0
    assert client.post("/api/alerts/999/acknowledge").status_code == 404


def test_rules_are_everybodys_to_see_and_the_admins_to_switch() -> None:
    client = factories.make_client("use")
    rules = {rule["key"]: rule for rule in client.get("/api/alerts/rules").json()["rules"]}
    assert rules["disk"]["limits"] == {"alerts.disk_free_percent": 5.0, "alerts.disk_free_gib": 10.0}
    assert rules["disk"]["is_on"] is True
    assert send(client, "patch", "/api/alerts/rules/disk", {"is_on": False}).status_code == 403
    admin = factories.make_client("admin")
    assert send(admin, "patch", "/api/alerts/rules/disk", {"is_on": False}).json()["is_on"] is False
    assert send(admin, "patch", "/api/alerts/rules/nothing", {"is_on": False}).status_code == 404


def test_a_route_from_its_making_to_its_end(receiver: Receiver) -> None:
    admin = factories.make_client("admin")
    wish = {
        "name": "hook", "url": receiver.url, "minimum_severity": "info", "rules": ["disk"], "quiet_from": "22:00",
        "quiet_until": "07:00",
    }  # fmt: skip
    made = send(admin, "post", "/api/alerts/routes", wish)
    assert made.status_code == 201
    route = made.json()
    assert (route["service"], route["masked_url"]) == ("JSON", f"json://127.0.0.1:{receiver.port}/****")
    assert (route["quiet_from"], route["quiet_until"], route["is_enabled"]) == ("22:00:00", "07:00:00", True)
    address = f"/api/alerts/routes/{route['id']}"
    outcome = admin.post(f"{address}/test").json()
    assert (outcome["sent"], outcome["error"], receiver.titles) == (True, "", ["Pilothouse: test"])
    changed = send(admin, "patch", address, {"name": "web hook", "quiet_from": None, "quiet_until": None}).json()
    assert (changed["name"], changed["quiet_from"], changed["rules"]) == ("web hook", None, ["disk"])
    assert send(admin, "patch", address, {"is_enabled": False}).json()["is_enabled"] is False
    assert AlertRoute.objects.get().url == receiver.url
    listed = admin.get("/api/alerts/routes")
    assert "very-secret-path" not in listed.content.decode()
    assert [row["name"] for row in listed.json()["routes"]] == ["web hook"]
    assert send(admin, "post", "/api/alerts/routes", {**wish, "name": "web hook"}).status_code == 409
    assert admin.delete(address).status_code == 204
    assert admin.delete(address).status_code == 404


def test_an_address_that_is_refused_is_told_beside_its_field() -> None:
    admin = factories.make_client("admin")
    answer = send(admin, "post", "/api/alerts/routes", {"name": "x", "url": "syslog://"})
    assert answer.status_code == 422
    assert answer.json()["faults"][0]["path"] == "url"
    assert "network" in answer.json()["detail"]


def test_routes_are_the_admins_alone() -> None:
    client = factories.make_client("use")
    for method, path in (
        ("get", "routes"), ("get", "deliveries"), ("post", "routes"), ("patch", "routes/1"), ("delete", "routes/1"),
        ("post", "routes/1/test"),
    ):  # fmt: skip
        body = {"name": "x", "url": "json://h/x"}
        answer = (
            client.get(f"/api/alerts/{path}") if method == "get" else send(client, method, f"/api/alerts/{path}", body)
        )
        assert answer.status_code == 403, path


def test_deliveries_say_what_became_of_them() -> None:
    AlertRoute.objects.create(name="hook", url="json://h/secret", masked_url="json://h/****", service="JSON")
    alert = alerts.fire("disk", "/", "warning", "Little room.")
    (row,) = factories.make_client("admin").get("/api/alerts/deliveries").json()["deliveries"]
    assert (row["alert_id"], row["event"], row["status"], row["tries"], row["error"]) == (
        alert.pk, "fired", "waiting", 0, ""
    )  # fmt: skip


def test_the_schema_lists_every_call() -> None:
    paths = factories.make_client("read").get("/api/openapi.json").json()["paths"]
    for path, methods in {
        "/api/alerts": "get", "/api/alerts/{alert_id}/acknowledge": "post", "/api/alerts/rules": "get",
        "/api/alerts/rules/{key}": "patch", "/api/alerts/routes": "get post",
        "/api/alerts/routes/{route_id}": "patch delete", "/api/alerts/routes/{route_id}/test": "post",
        "/api/alerts/deliveries": "get",
    }.items():  # fmt: skip
        assert set(methods.split()) <= set(paths[path]), path
