"""Two tabs change the same thing: what only one has touched is kept of both, what both have is refused and shown."""

from collections.abc import Callable
from datetime import time
from typing import Any

import pytest

from controlplane.models import AlertRoute, ApiKey, LanguageModel, RunTemplate
from controlplane.models.access import SYSTEM
from controlplane.services import run_templates, settings
from tests.controlplane.page_reading import filled, read
from tests.factories import client_of, make_key_row, make_model

pytestmark = pytest.mark.django_db


def make_template() -> tuple[str, str]:
    row = run_templates.save(SYSTEM, name="tides", config={"hyperparams": {"max_steps": 10}})
    return f"/runs/templates/{row.pk}/", ""


def make_limits() -> tuple[str, str]:
    row, _ = make_key_row("use", "notebook")
    return f"/settings/keys/{row.pk}", ""


def make_route() -> tuple[str, str]:
    row = AlertRoute.objects.create(name="phone", url="json://127.0.0.1/", minimum_severity="warning", created_by="x")
    return f"/alerts/routes/{row.pk}/", ""


def make_served() -> tuple[str, str]:
    return f"/models/at/{make_model('tide').name}", "/models/serving"


def power(form: str) -> Callable[[], tuple[str, str]]:
    return lambda: ("/power/", f"/power/{form}")


FORMS = [
    (make_template, ("hyperparams.max_steps", "20", "30"), ("description", "of the sea"),
     lambda: (RunTemplate.objects.get().config["hyperparams"]["max_steps"], RunTemplate.objects.get().description)),
    (make_limits, ("requests_per_minute", "20", "30"), ("tokens_per_minute", "900"),
     lambda: (ApiKey.objects.get().requests_per_minute, str(ApiKey.objects.get().tokens_per_minute))),
    (make_served, ("idle_unload_minutes", "20", "30"), ("load_on_demand", "on"),
     lambda: (LanguageModel.objects.get().idle_unload_seconds // 60,
              "on" if LanguageModel.objects.get().load_on_demand else "")),
    (power("rules"), ("power.quiet_max_concurrent_jobs", "2", "3"), ("power.max_max_concurrent_jobs", "4"),
     lambda: (settings.get("power.quiet_max_concurrent_jobs"), str(settings.get("power.max_max_concurrent_jobs")))),
    (power("guard"), ("thermal.power_step_celsius", "70", "71"), ("thermal.pause_jobs_celsius", "95"),
     lambda: (settings.get("thermal.power_step_celsius"), str(settings.get("thermal.pause_jobs_celsius")))),
]  # fmt: skip


@pytest.mark.parametrize(("make", "both", "one", "stored"), FORMS, ids=[str(case[1][0]) for case in FORMS])
def test_nobodys_change_is_lost(
    make: Callable[[], tuple[str, str]], both: tuple[str, str, str], one: tuple[str, str], stored: Callable[[], Any]
) -> None:
    client, (address, action) = client_of("admin"), make()
    first = filled(read(client.get(address)), action)
    second = dict(first)
    name, ours, theirs = both
    assert client.post(action or address, {**first, name: [ours], one[0]: [one[1]]}).status_code == 302
    assert stored() == (int(ours), one[1])

    refused = client.post(action or address, {**second, name: [theirs]})
    assert refused.status_code == 422
    page = read(refused)
    assert f"changed this to \u2068{ours}\u2069 meanwhile" in page.by_id("main").text
    assert stored() == (int(ours), one[1])
    again = filled(page, action)
    assert (again[name], again[one[0]]) == ([theirs], [one[1]]), "what both typed stands there, and theirs alone"

    assert client.post(action or address, again).status_code == 302
    assert stored() == (int(theirs), one[1])


def test_what_the_other_one_left_alone_is_kept_without_a_word() -> None:
    client, (address, _) = client_of("admin"), make_route()
    first = filled(read(client.get(address)), "")
    assert (
        client.post(
            address, {**first, "rules": ["host_offline"], "quiet_from": "22:00", "quiet_until": "07:00"}
        ).status_code
        == 302
    )
    assert client.post(address, {**first, "name": "my phone"}).status_code == 302
    row = AlertRoute.objects.get()
    assert (row.name, row.rules, row.quiet_from, row.quiet_until) == ("my phone", ["host_offline"], time(22), time(7))


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("/settings/values", {"key": "alerts.disk_free_gib"}),
        ("/alerts/rules/disk", {"limit": "alerts.disk_free_gib"}),
    ],
)
def test_one_setting_in_two_tabs(address: str, sent: dict[str, str]) -> None:
    client, now = client_of("admin"), settings.get("alerts.disk_free_gib")
    sent = {**sent, "seen": str(now)}
    assert client.post(address, {**sent, "value": "7"}).status_code == 302
    refused = client.post(address, {**sent, "value": "8"})
    assert refused.status_code == 422
    page = read(refused)
    field = page.by_id("setting-alerts-disk_free_gib")
    assert (field.get("value"), field.get("aria-invalid")) == ("8", "true")
    assert "set alerts.disk_free_gib to 7" in page.by_id("main").text
    before = page.elements[: page.elements.index(field)]
    seen = [item.get("value") for item in before if item.get("name") == "seen"][-1]
    assert client.post(address, {**sent, "seen": seen, "value": "8"}).status_code == 302
    assert settings.get("alerts.disk_free_gib") == 8


def test_a_limit_that_cannot_be_is_refused_beside_its_field() -> None:
    address = "/alerts/rules/disk"
    refused = client_of("admin").post(address, {"limit": "alerts.disk_free_gib", "value": "<b>lots</b>"})
    assert refused.status_code == 422
    page = read(refused)
    assert page.by_id("setting-alerts-disk_free_gib").get("value") == "<b>lots</b>"
    assert "alerts.disk_free_gib must be" in page.by_id("setting-alerts-disk_free_gib-fault").text


@pytest.mark.parametrize("marks", ["", "nonsense", "[1]", '{"requests_per_minute": 5}', '{"nobody": "x"}'])
def test_marks_that_are_none_refuse_nothing_and_break_nothing(marks: str) -> None:
    client, (address, _) = client_of("admin"), make_limits()
    answer = client.post(address, {"seen": marks, "requests_per_minute": "5"})
    assert answer.status_code in (302, 422)
