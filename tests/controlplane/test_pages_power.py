"""The page Power and heat: who may press, what was read back, what a form refuses and keeps."""

import re
from typing import Any

import pytest
from django.test import Client

from controlplane.fleet.protocol import AgentRefusedError
from controlplane.models import Gpu, PowerSchedule
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Status
from controlplane.services import power, power_agent, power_profiles, schedules, settings, thermal
from tests.controlplane.hosts import AbsentHost
from tests.controlplane.moments import heard
from tests.controlplane.page_reading import Page, read
from tests.factories import client_of, make_gpu, make_host, make_run

pytestmark = pytest.mark.django_db
SCHEDULE = {"profile": "quiet", "begins": "22:00", "until": "07:00", "profile_after": "normal", "where": "",
            "days": [0, 1, 2, 3, 4, 5, 6]}  # fmt: skip
HX = {"HX-Request": "true"}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> AbsentHost:
    """The agent of every host."""
    absent = AbsentHost()
    monkeypatch.setattr(power_agent, "carrier", lambda _host: absent)
    return absent


@pytest.fixture
def admin() -> Client:
    """A browser of an admin's."""
    return client_of("admin")


def shown(client: Client) -> Page:
    """The page."""
    response = client.get("/power/")
    assert response.status_code == 200
    return read(response)


def text(page: Page) -> str:
    """What it says, each run of spaces as one."""
    return re.sub(r"\s+", " ", page.by_id("main").text)


@pytest.mark.parametrize("role", ["read", "use", "admin"])
def test_everybody_may_look_and_admins_alone_may_press(role: str) -> None:
    make_gpu(make_host("tower"))
    page = shown(client_of(role))
    row = page.one("article", aria_label="GPU 0 on tower")
    assert "350W limit, draws 180" in re.sub(r"\s+", " ", row.text)
    buttons = page.all("button", name="profile")
    assert len(buttons) == 6
    assert all(("disabled" in button.attributes) == (role != "admin") for button in buttons)
    assert bool(page.button("Add the schedule")) == (role == "admin")
    assert len([button for button in page.all("button") if button.text == "Save"]) == (2 if role == "admin" else 0)


def test_without_a_gpu_the_page_says_so_and_still_plans() -> None:
    make_host("bare")
    page = shown(client_of("admin"))
    assert "No GPU that power could be set on" in text(page)
    assert page.button("Add the schedule")


def test_all_a_host_or_one_and_what_was_read_back(admin: Client, agent: AbsentHost) -> None:
    tower = make_host("tower", gpus=2)
    make_host("other", gpus=1)
    answer = admin.post("/power/profile", {"profile": "quiet", "host": "tower", "gpu": "1"}, headers=HX)
    assert "set and read back" in answer.content.decode()
    assert list(Gpu.objects.filter(power_profile="quiet").values_list("host__name", "index")) == [("tower", 1)]
    admin.post("/power/profile", {"profile": "normal", "host": "tower"}, headers=HX)
    assert Gpu.objects.filter(power_profile="normal", host=tower).count() == 2
    page = read(admin.post("/power/profile", {"profile": "max"}, follow=True))
    assert Gpu.objects.filter(power_profile="max").count() == 3
    assert "GPU 0 on other: 350 W, set and read back." in page.by_id("messages").text
    pressed = [button.get("value") for button in page.all("button", name="profile", aria_pressed="true")]
    assert pressed == ["max"] * 6  # all, two hosts, three cards


def test_an_index_that_is_none_never_means_all(admin: Client, agent: AbsentHost) -> None:
    make_host("tower", gpus=2)
    for index in ("x", "-1", "0 or 1"):
        answer = admin.post("/power/profile", {"profile": "max", "host": "tower", "gpu": index}, headers=HX)
        assert answer.status_code == 422
    assert agent.cards == {}


def test_a_refusal_stands_at_its_card_with_the_fix(admin: Client, agent: AbsentHost) -> None:
    gpu = make_gpu(make_host("tower"), persistence_mode=False)
    agent.card(gpu.uuid).refuse = AgentRefusedError("bad_call", "It can't.", "Ask nicely.")
    for address, values in (("profile", {"profile": "max"}), ("persistence", {"enabled": "yes"})):
        admin.post(f"/power/{address}", values, headers=HX)
    row = shown(admin).one("article", aria_label="GPU 0 on tower").text
    assert row.count("It can't.") == row.count("Ask nicely.") == 2
    assert "agent refused max:" in row


def test_persistence_mode_by_its_buttons(admin: Client, agent: AbsentHost) -> None:
    gpu = make_gpu(make_host("tower"), persistence_mode=False)
    body = admin.post("/power/persistence", {"enabled": "yes", "host": "tower", "gpu": "0"}, headers=HX)
    assert agent.card(gpu.uuid).asked == [True]
    page = read(body)
    on, off = page.all("button", name="enabled")
    assert (on.get("aria-pressed"), off.get("aria-pressed")) == ("true", "false")


@pytest.mark.usefixtures("home")
def test_drift_and_heat_are_told_at_the_card_and_on_the_hosts_page(admin: Client, agent: AbsentHost) -> None:
    gpu = make_gpu(make_host("tower"))
    run = make_run("a long one", status=Status.RUNNING)
    run.job.host, run.job.gpus, run.job.title = gpu.host, [gpu.uuid], "a long one"
    run.job.save()
    found = {"found_watts": 350.0, "wanted_watts": 280.0, "since": "2026-11-18T13:02:00+00:00", "set_again": True,
             "tries": 1, "tried_at": None, "reason": None, "over_at": None}  # fmt: skip
    Gpu.objects.update(power_drift=found)
    heard(gpu, temperature_celsius=92)
    thermal.look()
    thermal.rule_power()
    said = shown(admin).one("article", aria_label="GPU 0 on tower").text
    for sentence in ("280 W wished, 350 W found since 13:02, set again.", "runs paused", "a long one",
                     "training runs are paused until it has cooled below 82 °C",
                     "holds it at 280 W until it has cooled below 78 °C"):  # fmt: skip
        assert sentence in said
    card = re.sub(r"\s+", " ", admin.get("/hosts/tower/gpus/0").content.decode())
    assert "280 W wished, 350 W found since 13:02, set again." in card
    assert "holds it at 280 W" in card


@pytest.fixture
def tower(agent: AbsentHost) -> list[Gpu]:
    """A sound card, a lost one, and one without persistence mode and without a sensor."""
    host = make_host("tower")
    nothing: dict[str, Any] = dict.fromkeys(("temperature_celsius", "power_draw_watts", "power_limit_watts"))
    return [
        make_gpu(host, 0),
        make_gpu(host, 1, **nothing, persistence_mode=None, fault="GPU 1 can't be read: GPU is lost."),
        make_gpu(host, 2, temperature_celsius=None, persistence_mode=None, unsupported=["persistence_mode"]),
    ]


def row_of(client: Client, index: int) -> Page:
    """What stands in one card's row."""
    html = client.get("/power/").content.decode()
    begin = html.rindex("<article", 0, html.index(f'aria-label="GPU {index} on tower"'))
    return Page(html[begin : html.index("</article>", begin) + len("</article>")])


@pytest.mark.usefixtures("tower")
def test_a_lost_card_is_neither_cool_nor_offers_buttons(admin: Client) -> None:
    sound, lost = row_of(admin, 0), row_of(admin, 1)
    text = lost.one("article").text
    assert "GPU 1 can't be read: GPU is lost." in text
    assert "cool" not in text
    assert "not known" in text
    assert lost.all("span", class_="dot ok") == []
    assert len(lost.all("button")) == len(sound.all("button")) == 5
    assert all("disabled" in button.attributes for button in lost.all("button"))
    assert not any("disabled" in button.attributes for button in sound.all("button"))
    assert "cool" in sound.one("article").text
    card = read(admin.get("/hosts/tower/gpus/1"))
    assert all("disabled" in button.attributes for button in card.all("button", name="profile"))
    assert [pill.text for pill in card.all("span", class_="pill strong")] == ["not known"], "neither idle nor working"


@pytest.mark.usefixtures("tower")
def test_a_card_without_sensor_or_persistence_mode_says_so(admin: Client) -> None:
    row = row_of(admin, 2)
    text = row.one("article").text
    assert "cool" not in text
    assert "not known" in text
    assert row.all("button", name="enabled") == []
    assert "not supported" in text
    Gpu.objects.filter(index=2).update(heat_level=2)
    assert "new jobs wait" in row_of(admin, 2).one("article").text


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"power_limit_max_watts": 300.0}, "set to 300 W, the card's most (asked 350 W)"),
        ({"power_limit_min_watts": 360.0}, "set to 360 W, the card's least (asked 350 W)"),
        ({}, ""),
    ],
)
def test_a_clamped_limit_is_said(admin: Client, agent: AbsentHost, bounds: dict[str, Any], words: str) -> None:
    make_gpu(make_host("tower"), **bounds)
    page = read(admin.post("/power/profile", {"profile": "max"}, follow=True))
    places = [
        page.by_id("messages").text, shown(admin).one("article", aria_label="GPU 0 on tower").text,
        read(admin.get("/hosts/tower/gpus/0")).one("section").text,
    ]  # fmt: skip
    if words:
        assert all(words in re.sub(r"\s+", " ", place) for place in places)
    else:
        assert not any("asked" in place for place in places)


def test_what_the_agent_clamps_is_said_too(agent: AbsentHost, admin: Client) -> None:
    """It may know another range than the last reading."""
    gpu = make_gpu(make_host("tower"))
    power.request(SYSTEM, "max")
    gpu.refresh_from_db()
    Gpu.objects.update(power_answer={**(gpu.power_answer or {}), "applied_watts": 340.0, "clamped": True})
    assert "set to 340 W, the card's most (asked 350 W)" in shown(admin).one("article").text


# --- Schedules --------------------------------------------------------------------------------------------------------


def test_a_schedule_is_made_switched_and_deleted(admin: Client) -> None:
    make_host("tower", gpus=1)
    page = read(admin.post("/power/schedules/add", {**SCHEDULE, "where": "tower/0", "days": [5, 6]}, follow=True))
    assert "quiet 22:00 to 07:00, Sat and Sun, GPU 0 on tower" in page.by_id("messages").text
    row = PowerSchedule.objects.get()
    assert (row.host and row.host.name, row.gpu and row.gpu.index, row.days) == ("tower", 0, [5, 6])
    page = read(admin.post(f"/power/schedules/{row.pk}/switch", {"enabled": "no"}, follow=True))
    assert "The schedule is off" in page.by_id("messages").text
    assert page.button("Switch on")
    admin.post(f"/power/schedules/{row.pk}/delete", follow=True)
    assert PowerSchedule.objects.count() == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"until": "22:00"}, "Another time than the beginning"),
        ({"begins": "late"}, "Enter a valid time"),
        ({"days": []}, "Choose at least one day"),
        ({"where": "nowhere/0"}, "Select a valid choice"),
        ({"profile": "loud"}, "Select a valid choice"),
    ],
)
def test_a_schedule_that_is_refused_keeps_what_was_typed(admin: Client, values: dict[str, Any], words: str) -> None:
    typed = {**SCHEDULE, **values}
    response = admin.post("/power/schedules/add", typed)
    assert response.status_code == 422
    page = read(response)
    assert words in text(page)
    assert page.by_id("id_begins").get("value") == typed["begins"]
    assert PowerSchedule.objects.count() == 0


def test_the_rest_may_not_touch_schedules(agent: AbsentHost) -> None:
    row = schedules.create(SYSTEM, {"profile": "quiet", "begins": "22:00", "until": "07:00"})
    client = client_of("use")
    client.post("/power/schedules/add", SCHEDULE)
    client.post(f"/power/schedules/{row.pk}/delete")
    client.post(f"/power/schedules/{row.pk}/switch", {"enabled": "no"})
    assert [item.is_enabled for item in PowerSchedule.objects.all()] == [True]


# --- Settings ---------------------------------------------------------------------------------------------------------

RULES = {"power.quiet_max_concurrent_jobs": 0, "power.normal_max_concurrent_jobs": 1,
         "power.max_max_concurrent_jobs": 3, "power.restore_at_stop": "on"}  # fmt: skip
GUARD = {"thermal.enabled": "on", "thermal.power_step_celsius": 75, "thermal.hold_jobs_celsius": 80,
         "thermal.pause_jobs_celsius": 85, "thermal.hysteresis_celsius": 4,
         "thermal.step_every_seconds": 20}  # fmt: skip


def test_what_profiles_take_and_what_is_set_again(admin: Client) -> None:
    page = read(admin.post("/power/rules", RULES, follow=True))
    assert "Saved" in page.by_id("messages").text
    assert power_profiles.concurrent_limits() == {"quiet": 0, "normal": 1, "max": 3}
    assert (settings.get("power.restore_at_stop"), settings.get("power.reconcile_set_again")) == (True, False)
    assert page.by_id("id_power.max_max_concurrent_jobs").get("value") == "3"
    refused = admin.post("/power/rules", {**RULES, "power.max_max_concurrent_jobs": 99})
    assert refused.status_code == 422
    assert settings.get("power.max_max_concurrent_jobs") == 3


def test_the_guard_by_its_form(admin: Client) -> None:
    admin.post("/power/guard", GUARD, follow=True)
    assert (thermal.limits().celsius, thermal.limits().hysteresis) == ({1: 75, 2: 80, 3: 85}, 4)
    refused = admin.post("/power/guard", {**GUARD, "thermal.hold_jobs_celsius": 90, "thermal.hysteresis_celsius": 9})
    assert refused.status_code == 422
    assert "Between the other two" in text(read(refused))
    assert (thermal.limits().celsius[2], thermal.limits().hysteresis) == (80, 4)


@pytest.mark.parametrize(("address", "values"), [("rules", RULES), ("guard", GUARD)])
def test_who_may_not_rule_changes_no_setting(address: str, values: dict[str, Any]) -> None:
    client_of("use").post(f"/power/{address}", values)
    assert settings.effective() == {key: item.default for key, item in settings.DEFAULTS.items()}
