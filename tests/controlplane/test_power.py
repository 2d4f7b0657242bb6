"""Power profiles and persistence mode: what they mean for a card, who refuses, what is read back, what they bind."""

import threading
from typing import Any

import pytest
from django.db import connections
from django.test import Client

from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError
from controlplane.models import Alert, AuditLine, Gpu, Job, LiveMessage
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import Status
from controlplane.placement import Place, place
from controlplane.services import alerts, drift, hosts, persistence, power, power_agent, power_profiles, settings
from tests import factories
from tests.controlplane.hosts import AbsentHost
from tests.controlplane.moments import Clock, heard

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]
ADDRESS = "/api/settings/power_profile"


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> AbsentHost:
    """The agent of every host."""
    absent = AbsentHost()
    monkeypatch.setattr(power_agent, "carrier", lambda _host: absent)
    return absent


@pytest.fixture
def admin() -> Client:
    """A client that may rule."""
    return factories.make_client("admin")


@pytest.mark.parametrize(
    ("name", "reading", "watts"),
    [
        ("NVIDIA GeForce RTX 3090", {}, (220, 280, 350)),
        ("NVIDIA GeForce RTX 3090 Ti", {"power_limit_default_watts": 450.0, "power_limit_max_watts": 480.0},
         (283.5, 360.0, 450.0)),
        ("NVIDIA A100-SXM4-40GB", {"power_limit_default_watts": 400.0, "power_limit_max_watts": 400.0},
         (252.0, 320.0, 400.0)),
        ("small", {"power_limit_default_watts": 150.0, "power_limit_min_watts": 125.0, "power_limit_max_watts": 140.0},
         (125.0, 125.0, 140.0)),
        ("NVIDIA GeForce RTX 3090", {"power_limit_max_watts": 300.0}, (220, 280, 300)),
        ("unknown", {"power_limit_default_watts": None}, (None, None, None)),
        ("no range", {"power_limit_default_watts": 100.0, "power_limit_min_watts": None,
                      "power_limit_max_watts": None}, (63.0, 80.0, 100.0)),
    ],
)  # fmt: skip
def test_what_the_profiles_mean_for_a_card(name: str, reading: dict[str, Any], watts: tuple[float | None, ...]) -> None:
    gpu = factories.make_gpu(None, 0, name, **reading)
    assert tuple(power_profiles.watts_by_profile(gpu).values()) == watts
    assert list(power_profiles.watts_by_profile(gpu)) == ["quiet", "normal", "max"]


def test_the_overview_with_a_gpu() -> None:
    factories.make_host("one", gpus=1)
    answer = factories.make_client("read").get(ADDRESS).json()
    assert answer["current"] is None
    assert {name: item["power_limit_w"] for name, item in answer["profiles"].items()} == {
        "quiet": 220, "normal": 280, "max": 350
    }  # fmt: skip
    assert all(item["description"] and item["max_concurrent_jobs"] == 1 for item in answer["profiles"].values())
    gpu = answer["gpus"][0]
    assert (gpu["host"], gpu["index"], gpu["asked_w"], gpu["power_limit_w"]) == ("one", 0, None, 350.0)
    assert (gpu["power_limit_min_w"], gpu["power_limit_max_w"]) == (100.0, 366.0)


def test_without_a_gpu_the_overview_has_no_watts_and_setting_is_a_conflict(admin: Client) -> None:
    factories.make_host("one")
    answer = admin.get(ADDRESS).json()
    assert (answer["current"], answer["gpus"]) == (None, [])
    assert [item["power_limit_w"] for item in answer["profiles"].values()] == [None, None, None]
    response = admin.generic("POST", f"{ADDRESS}?profile=quiet")
    assert response.status_code == 409
    assert "GPU" in response.json()["detail"]


@pytest.mark.parametrize("by_body", [False, True])
def test_a_profile_is_set_and_read_back(admin: Client, agent: AbsentHost, by_body: bool) -> None:
    factories.make_host(gpus=2)
    if by_body:
        response = admin.post(ADDRESS, {"profile": "quiet"}, content_type="application/json")
    else:
        response = admin.generic("POST", f"{ADDRESS}?profile=quiet")
    assert response.status_code == 200, response.content
    assert [(gpu["set"], gpu["asked_w"], gpu["power_limit_w"]) for gpu in response.json()["gpus"]] == [
        (True, 220, 220), (True, 220, 220)
    ]  # fmt: skip
    overview = admin.get(ADDRESS).json()
    assert overview["current"] == "quiet"
    assert [(gpu["profile"], gpu["power_limit_w"]) for gpu in overview["gpus"]] == [("quiet", 220), ("quiet", 220)]
    assert AuditLine.objects.filter(action="power.set").count() == 2
    message = LiveMessage.objects.filter(topic="hosts").latest("seq")
    assert (message.kind, message.data["power"]["power_limit_w"]) == ("status", 220)


def test_a_gpu_that_refuses_is_named_and_the_others_are_set(admin: Client, agent: AbsentHost) -> None:
    host = factories.make_host("box", gpus=2)
    other = factories.make_host("other", gpus=1)
    refusing = Gpu.objects.get(host=host, index=0)
    agent.card(refusing.uuid).refuse = "Insufficient permissions."
    agent.card(Gpu.objects.get(host=other).uuid).refuse = HostUnreachableError("connection refused")
    response = admin.generic("POST", f"{ADDRESS}?profile=normal")
    assert response.status_code == 207
    first, second, third = response.json()["gpus"]
    assert (first["set"], first["reason"], first["fix"]) == (False, "Insufficient permissions.", "Run as root.")
    assert first["power_limit_w"] == 350.0
    assert (second["set"], second["power_limit_w"]) == (True, 280)
    assert third["set"] is False
    assert "other" in third["fix"]
    told = admin.get(ADDRESS).json()
    assert told["current"] is None
    assert told["gpus"][0]["reason"] == "Insufficient permissions."
    assert (told["gpus"][0]["asked_w"], told["gpus"][0]["power_limit_w"]) == (280, 350.0)


def test_one_host_or_one_gpu_alone(admin: Client, agent: AbsentHost) -> None:
    factories.make_host("a", gpus=2)
    factories.make_host("b", gpus=1)
    assert len(admin.generic("POST", f"{ADDRESS}?profile=max&host=a").json()["gpus"]) == 2
    body = {"profile": "quiet", "host": "a", "gpu": 1}
    (only,) = admin.post(ADDRESS, body, content_type="application/json").json()["gpus"]
    assert (only["host"], only["index"]) == ("a", 1)
    assert admin.generic("POST", f"{ADDRESS}?profile=max&host=none").status_code == 404
    assert admin.generic("POST", f"{ADDRESS}?profile=max&host=a&gpu=5").status_code == 404


def test_out_of_range_is_clamped_and_said_or_refused_when_strict(admin: Client, agent: AbsentHost) -> None:
    host = factories.make_host("box")
    factories.make_gpu(host, 0)
    factories.make_gpu(host, 1, power_limit_max_watts=300.0)
    strict = admin.generic("POST", f"{ADDRESS}?profile=max&strict=true")
    assert strict.status_code == 422
    assert "GPU 1 on box" in strict.json()["detail"]
    assert "100 to 300 W, not 350 W" in strict.json()["detail"]
    assert agent.cards == {}
    loose = admin.generic("POST", f"{ADDRESS}?profile=max").json()["gpus"]
    assert [(gpu["clamped"], gpu["power_limit_w"]) for gpu in loose] == [(False, 350), (True, 300.0)]


def test_a_refusal_of_the_agent_is_an_outcome(admin: Client, agent: AbsentHost) -> None:
    host = factories.make_host(gpus=1)
    agent.card(Gpu.objects.get(host=host).uuid).refuse = AgentRefusedError("bad_call", "Not a number.", "Send one.")
    response = admin.generic("POST", f"{ADDRESS}?profile=max")
    assert response.status_code == 207
    outcome = response.json()["gpus"][0]
    assert (outcome["reason"], outcome["fix"], outcome["refused_by"]) == ("Not a number.", "Send one.", "agent")


def test_a_card_that_tells_no_default_limit_is_named(admin: Client, agent: AbsentHost) -> None:
    factories.make_gpu(None, 0, "odd", power_limit_default_watts=None)
    response = admin.generic("POST", f"{ADDRESS}?profile=max")
    assert response.status_code == 207
    assert "default power limit" in response.json()["gpus"][0]["reason"]
    assert agent.cards == {}


@pytest.mark.parametrize("query", ["", "?profile=loud"])
def test_an_unknown_profile_is_refused(admin: Client, query: str) -> None:
    factories.make_host(gpus=1)
    response = admin.generic("POST", ADDRESS + query)
    assert response.status_code == 422
    assert response.json()["faults"] == [{"path": "profile", "message": "quiet, normal or max"}]


# --- Cards that change under one's hands ------------------------------------------------------------------------------


def test_a_card_that_vanishes_while_its_limit_is_set_is_said(admin: Client, agent: AbsentHost) -> None:
    gpu = factories.make_gpu(factories.make_host("box"))
    agent.card(gpu.uuid).refuse = AgentRefusedError("unknown_gpu", "This host has no GPU.", "Reload.")
    outcome = admin.generic("POST", f"{ADDRESS}?profile=quiet").json()["gpus"][0]
    assert outcome["set"] is False
    assert outcome["reason"] == "GPU 0 on box (NVIDIA GeForce RTX 3090) has vanished: its host no longer finds it."
    assert "dmesg" in outcome["fix"]


def test_a_card_whose_row_is_gone_is_said_too(agent: AbsentHost) -> None:
    gpu = factories.make_gpu(factories.make_host("box"))
    Gpu.objects.all().delete()
    assert "has vanished" in str(power.set_profile(SYSTEM, gpu, "quiet")["reason"])
    assert agent.cards == {}


@pytest.mark.django_db(transaction=True)
def test_of_two_who_press_at_once_the_last_one_wins_and_is_what_is_stored(agent: AbsentHost) -> None:
    gpu = factories.make_gpu()
    card = agent.card(gpu.uuid)
    first_is_asking, second_is_there = threading.Event(), threading.Event()

    def hold_the_first() -> None:
        card.before_answer = None
        first_is_asking.set()
        assert second_is_there.wait(10)

    card.before_answer = hold_the_first
    people = [Actor(name=name, role=Role.ADMIN) for name in ("ada", "bob")]

    def press(actor: Actor, profile: str) -> None:
        try:
            power.request(actor, profile)
        finally:
            connections.close_all()

    first = threading.Thread(target=press, args=(people[0], "quiet"))
    second = threading.Thread(target=press, args=(people[1], "max"))
    first.start()
    assert first_is_asking.wait(10)
    second.start()
    second_is_there.set()
    first.join(20)
    second.join(20)
    gpu.refresh_from_db()
    assert card.asked == [220, 350]
    assert (gpu.power_profile, (gpu.power_answer or {})["by"], gpu.reading["power_limit_watts"]) == ("max", "bob", 350)
    told = [row.data["power"]["profile"] for row in LiveMessage.objects.filter(topic="hosts", kind="status")]
    assert told == ["quiet", "max"]


def test_whether_the_agent_puts_back_what_it_found_is_a_setting(agent: AbsentHost) -> None:
    factories.make_gpu()
    power.request(SYSTEM, "quiet")
    assert agent.restore_at_stop is False
    settings.put(SYSTEM, "power.restore_at_stop", True)
    power.request(SYSTEM, "quiet")
    assert agent.restore_at_stop is True


# --- Persistence mode -------------------------------------------------------------------------------------------------

PERSISTENCE = "/api/settings/persistence_mode"


def test_persistence_mode_is_set_read_back_and_shown(admin: Client, agent: AbsentHost) -> None:
    factories.make_gpu(None, 0, persistence_mode=False)
    response = admin.post(PERSISTENCE, {"enabled": True}, content_type="application/json")
    assert response.status_code == 200, response.content
    assert [(row["asked"], row["enabled"], row["set"]) for row in response.json()["gpus"]] == [(True, True, True)]
    shown = admin.get(ADDRESS).json()["gpus"][0]["persistence"]
    assert (shown["enabled"], shown["wanted"], shown["set"]) == (True, True, True)
    assert AuditLine.objects.filter(action="power.persistence").count() == 1


def test_a_refused_persistence_mode_is_named_and_not_wished_for(admin: Client, agent: AbsentHost) -> None:
    host = factories.make_host("box")
    refusing, _other = (factories.make_gpu(host, index, persistence_mode=False) for index in (0, 1))
    agent.card(refusing.uuid).refuse = "Insufficient permissions."
    response = admin.post(PERSISTENCE, {"enabled": True, "host": "box"}, content_type="application/json")
    assert response.status_code == 207
    assert [(row["set"], row["enabled"], row["reason"]) for row in response.json()["gpus"]] == [
        (False, False, "Insufficient permissions."), (True, True, None)
    ]  # fmt: skip
    refusing.refresh_from_db()
    assert refusing.persistence_wanted is None
    body = {"enabled": True, "host": "box", "gpu": 7}
    assert admin.post(PERSISTENCE, body, content_type="application/json").status_code == 404
    use = factories.make_client("use")
    assert use.post(PERSISTENCE, {"enabled": True}, content_type="application/json").status_code == 403


# --- How many jobs a profile takes ------------------------------------------------------------------------------------


def running_on(gpu: Gpu) -> Job:
    """A run that works on a card."""
    run = factories.make_run(status=Status.RUNNING)
    Job.objects.filter(pk=run.job_id).update(host=gpu.host, gpus=[gpu.uuid])
    return run.job


def placed(gpus: int = 1) -> Place | str:
    """Where a waiting run would go."""
    run = factories.make_run()
    run.config["environment"]["gpus"] = gpus
    run.save()
    return place(run.job, hosts.list_hosts())


@pytest.mark.usefixtures("home")
def test_a_gpu_takes_as_many_runs_as_its_profile_says() -> None:
    gpu = factories.make_gpu(factories.make_host("box"))
    assert isinstance(placed(), Place)
    running_on(gpu)
    assert placed() == "waits for a free GPU on box: GPU 0 (max) takes 1 at a time"
    settings.put(SYSTEM, "power.max_max_concurrent_jobs", 2)
    assert placed() == Place(gpu.host, (gpu.uuid,))
    Gpu.objects.update(power_profile="quiet")
    assert placed() == "waits for a free GPU on box: GPU 0 (quiet) takes 1 at a time"
    settings.put(SYSTEM, "power.quiet_max_concurrent_jobs", 0)
    assert placed() == (
        "waits while GPU 0 on box is set to quiet: no run starts then (power.quiet_max_concurrent_jobs is 0)"
    )


@pytest.mark.usefixtures("home")
def test_each_gpu_of_a_host_has_its_own_count_and_the_emptiest_is_taken() -> None:
    host = factories.make_host("box")
    first, second = factories.make_gpu(host, 0), factories.make_gpu(host, 1)
    Gpu.objects.filter(pk=first.pk).update(power_profile="max")
    Gpu.objects.filter(pk=second.pk).update(power_profile="quiet")
    settings.put(SYSTEM, "power.max_max_concurrent_jobs", 2)
    running_on(first)
    assert placed() == Place(host, (second.uuid,))
    running_on(second)
    assert placed() == Place(host, (first.uuid,))
    assert placed(gpus=2) == "waits for a free GPU on box: GPU 1 (quiet) takes 1 at a time"
    assert placed(gpus=3) == "asks for 3 GPUs, box has 2"


@pytest.mark.usefixtures("home")
def test_a_card_that_is_lost_gets_no_job_and_says_so() -> None:
    host = factories.make_host("box")
    good = factories.make_gpu(host, 0)
    lost = factories.make_gpu(host, 1, memory_used_bytes=None, fault="GPU 1 can't be read: GPU is lost.")
    engine = factories.make_job("serve")
    assert place(engine, hosts.list_hosts()) == Place(host, (good.uuid,)), "its memory isn't empty, it's unknown"
    assert placed() == Place(host, (good.uuid,))
    assert placed(gpus=2) == "waits for GPU 1 on box: GPU 1 can't be read: GPU is lost."
    assert placed(gpus=3) == "asks for 3 GPUs, box has 2"
    running_on(good)
    assert placed() == "waits for a free GPU on box: GPU 0 (max) takes 1 at a time"
    Gpu.objects.filter(pk=good.pk).update(reading={**lost.reading, "fault": "GPU 0 can't be read."})
    for job in (factories.make_run().job, engine):
        assert place(job, hosts.list_hosts()) == "waits for GPU 0 on box: GPU 0 can't be read."
    assert place(factories.make_job("fetch"), hosts.list_hosts()) == Place(host, ())


@pytest.mark.usefixtures("home")
def test_a_card_that_does_not_tell_its_memory_is_the_last_that_an_engine_gets() -> None:
    host = factories.make_host("box")
    silent = factories.make_gpu(host, 0, memory_used_bytes=None)
    full = factories.make_gpu(host, 1, memory_used_bytes=23 << 30)
    assert place(factories.make_job("serve"), hosts.list_hosts()) == Place(host, (full.uuid,))
    Gpu.objects.filter(pk=full.pk).update(heat_level=2)
    assert place(factories.make_job("serve"), hosts.list_hosts()) == Place(host, (silent.uuid,))


@pytest.mark.usefixtures("home")
def test_while_the_driver_is_silent_nothing_starts_on_the_processor_instead(clock: Clock) -> None:
    host = factories.make_host("box", gpus=1)
    host.reading = {**host.reading, "gpus": [], "gpu_fault": "The NVIDIA driver doesn't answer."}
    host.save()
    engine, words = factories.make_job("serve"), "waits for the GPUs of box: The NVIDIA driver doesn't answer."
    assert (placed(), placed(gpus=2), place(engine, hosts.list_hosts())) == (words, words, words)
    assert place(factories.make_job("fetch"), hosts.list_hosts()) == Place(host, ())
    clock.forward(8 * 86400)  # by then the card has been taken out
    assert placed() == Place(host, ())


def test_the_overview_tells_how_many_jobs_each_profile_takes(admin: Client) -> None:
    settings.put(SYSTEM, "power.max_max_concurrent_jobs", 3)
    shown = admin.get(ADDRESS).json()["profiles"]
    assert {name: item["max_concurrent_jobs"] for name, item in shown.items()} == {"quiet": 1, "normal": 1, "max": 3}


# --- Changed by others ------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that stands still until it is told."""
    return Clock.install(monkeypatch)


def look(clock: Clock, gpu: Gpu, seconds: float = 30, **reading: Any) -> Gpu:
    """A look at the cards some time later, after a reading of one."""
    clock.forward(seconds)
    heard(gpu, **reading)
    drift.reconcile()
    gpu.refresh_from_db()
    return gpu


def wished(agent: AbsentHost, profile: str = "normal") -> Gpu:
    """A card that somebody has set."""
    gpu = factories.make_gpu(factories.make_host("tower"))
    power.request(SYSTEM, profile)
    gpu.refresh_from_db()
    return gpu


def test_what_is_in_force_as_wished_is_left_alone(agent: AbsentHost, clock: Clock) -> None:
    gpu = look(clock, wished(agent), power_limit_watts=281.0)
    assert (gpu.power_drift, agent.card(gpu.uuid).asked, Alert.objects.count()) == (None, [280], 0)


def test_a_card_that_nobody_has_set_is_left_alone(agent: AbsentHost, clock: Clock) -> None:
    gpu = look(clock, factories.make_gpu(), power_limit_watts=123.0)
    assert (gpu.power_drift, agent.cards) == (None, {})


def test_a_limit_that_something_else_changed_is_shown_told_and_set_again(agent: AbsentHost, clock: Clock) -> None:
    gpu = wished(agent)
    clock.at(14, 2)
    gpu = look(clock, gpu, 0, power_limit_watts=350.0)
    assert drift.sentence(gpu) == "280 W wished, 350 W found since 14:02, set again"
    assert agent.card(gpu.uuid).asked == [280, 280]
    assert (gpu.power_profile, gpu.reading["power_limit_watts"]) == ("normal", 280)
    alert = Alert.objects.get(rule="power_drift")
    assert (alert.subject, alert.severity, alert.ended_at) == ("GPU 0 on tower", "info", None)
    assert "350 W found" in alert.message
    assert AuditLine.objects.filter(action="power.set_again").count() == 1
    gpu = look(clock, gpu, power_limit_watts=280.0)
    assert drift.sentence(gpu).endswith("set again")
    alert.refresh_from_db()
    assert alert.ended_at is not None
    gpu = look(clock, gpu, 25 * 3600, power_limit_watts=280.0)
    assert drift.sentence(gpu) == ""


def test_where_it_is_not_wished_it_is_only_shown(agent: AbsentHost, clock: Clock) -> None:
    settings.put(SYSTEM, "power.reconcile_set_again", False)
    gpu = wished(agent)
    clock.at(14, 2)
    for seconds in (0, 30):
        gpu = look(clock, gpu, seconds, power_limit_watts=350.0)
    assert drift.sentence(gpu) == "280 W wished, 350 W found since 14:02, not set again"
    assert agent.card(gpu.uuid).asked == [280]
    assert Alert.objects.get(rule="power_drift").severity == "warning"
    gpu = look(clock, gpu, power_limit_watts=280.0)
    assert (gpu.power_drift, Alert.objects.filter(ended_at=None).count()) == (None, 0)


def test_who_refuses_is_asked_less_and_less_often(agent: AbsentHost, clock: Clock) -> None:
    gpu = wished(agent)
    card = agent.card(gpu.uuid)
    card.refuse = "Insufficient permissions."
    for _ in range(20):  # ten minutes
        gpu = look(clock, gpu, power_limit_watts=350.0)
    assert len(card.asked) - 1 == 5  # after 0, 30, 90, 210 and 450 s
    assert drift.sentence(gpu).endswith("not set again: Insufficient permissions.")


def test_who_changes_it_back_again_and_again_is_not_fought_every_time(agent: AbsentHost, clock: Clock) -> None:
    gpu = wished(agent)
    for _ in range(20):
        gpu = look(clock, gpu, power_limit_watts=350.0)
    assert len(agent.card(gpu.uuid).asked) - 1 == 5


def test_a_reading_older_than_the_press_says_nothing_about_it(agent: AbsentHost, clock: Clock) -> None:
    gpu = look(clock, wished(agent), 1, power_limit_watts=350.0)
    assert gpu.power_drift is None


def test_a_press_in_between_is_not_undone(agent: AbsentHost, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = wished(agent)
    fire = drift._fire

    def press_meanwhile(row: Gpu, fix: str | None = None) -> None:
        monkeypatch.setattr(drift, "_fire", fire)
        clock.forward(1)
        power.request(SYSTEM, "quiet")

    monkeypatch.setattr(drift, "_fire", press_meanwhile)
    gpu = look(clock, gpu, power_limit_watts=350.0)
    assert agent.card(gpu.uuid).asked == [280, 220]
    assert (gpu.power_profile, gpu.reading["power_limit_watts"]) == ("quiet", 220)


def test_a_press_ends_the_drift(agent: AbsentHost, clock: Clock) -> None:
    settings.put(SYSTEM, "power.reconcile_set_again", False)
    gpu = look(clock, wished(agent), power_limit_watts=350.0)
    assert Alert.objects.filter(ended_at=None).count() == 1
    power.request(SYSTEM, "max")
    gpu.refresh_from_db()
    assert (gpu.power_drift, Alert.objects.filter(ended_at=None).count()) == (None, 0)


def test_a_look_in_the_middle_of_a_press_finds_no_drift(agent: AbsentHost, clock: Clock) -> None:
    settings.put(SYSTEM, "power.reconcile_set_again", False)
    gpu = wished(agent, "max")
    clock.forward(60)

    def look_meanwhile() -> None:
        agent.card(gpu.uuid).before_answer = None
        look(clock, gpu, 6, power_limit_watts=220.0)  # the agent has set it, and answers only later

    agent.card(gpu.uuid).before_answer = look_meanwhile
    power.request(SYSTEM, "quiet")
    gpu.refresh_from_db()
    assert (gpu.power_drift, Alert.objects.count()) == (None, 0)


def test_an_alert_that_a_press_overtook_ends_with_the_next_press(agent: AbsentHost, clock: Clock) -> None:
    """Another process may have found a drift that this one's row doesn't know of."""
    gpu = wished(agent)
    alerts.fire("power_drift", power_profiles.label(gpu), "warning", "280 W wished, 220 W found.")
    power.request(SYSTEM, "quiet")
    assert Alert.objects.filter(ended_at=None).count() == 0


def test_a_drift_ends_when_nothing_is_wished_any_more(agent: AbsentHost, clock: Clock) -> None:
    settings.put(SYSTEM, "power.reconcile_set_again", False)
    gpu = look(clock, wished(agent), power_limit_watts=350.0)
    Gpu.objects.update(power_profile="")
    gpu = look(clock, gpu, power_limit_watts=350.0)
    assert (gpu.power_drift, Alert.objects.filter(ended_at=None).count()) == (None, 0)
    assert LiveMessage.objects.filter(topic="hosts").latest("seq").data["power"]["drift"] is None


def test_whether_to_put_back_is_told_again_when_the_setting_changes(agent: AbsentHost, clock: Clock) -> None:
    gpu = wished(agent, "quiet")
    persistence.request(SYSTEM, True)
    asked = agent.card(gpu.uuid).asked
    settings.put(SYSTEM, "power.restore_at_stop", True)
    settled = {"power_limit_watts": 220.0, "persistence_mode": True}
    gpu = look(clock, gpu, **settled)
    assert (agent.restore_at_stop, asked) == (True, [220, True, 220, True])
    gpu = look(clock, gpu, **settled)
    assert len(asked) == 4, "once"
    settings.put(SYSTEM, "power.restore_at_stop", False)
    gpu = look(clock, gpu, **settled)
    assert (agent.restore_at_stop, asked) == (False, [220, True, 220, True, 220, True])
    assert (gpu.power_profile, (gpu.power_answer or {})["by"], power.overview()["current"]) == (
        "quiet", SYSTEM.name, "quiet"
    )  # fmt: skip


def test_who_could_not_be_told_is_told_later(agent: AbsentHost, clock: Clock) -> None:
    gpu = wished(agent, "quiet")
    settings.put(SYSTEM, "power.restore_at_stop", True)
    agent.card(gpu.uuid).refuse = HostUnreachableError("busy")
    for _ in range(2):
        gpu = look(clock, gpu, power_limit_watts=220.0)
    assert (gpu.power_answer or {})["set"] is True, "what the press came to stays to be seen"
    agent.card(gpu.uuid).refuse = None
    for _ in range(2):
        gpu = look(clock, gpu, power_limit_watts=220.0)
    assert agent.card(gpu.uuid).asked == [220, 220, 220, 220]


def test_a_host_that_does_not_answer_changes_nothing(agent: AbsentHost, clock: Clock) -> None:
    gpu = wished(agent)
    clock.forward(60)
    Gpu.objects.update(reading={**gpu.reading, "power_limit_watts": 350.0})
    drift.reconcile()
    gpu.refresh_from_db()
    assert gpu.power_drift is None


def test_a_forgotten_persistence_mode_is_set_again(agent: AbsentHost, clock: Clock) -> None:
    gpu = factories.make_gpu(factories.make_host("tower"), persistence_mode=False)
    persistence.request(SYSTEM, True)
    gpu.refresh_from_db()
    gpu = look(clock, gpu, persistence_mode=False)
    assert agent.card(gpu.uuid).asked == [True, True]
    alert = Alert.objects.get(rule="power_drift")
    assert alert.message == "GPU 0 on tower: persistence mode on wished, off found, set again."
    gpu = look(clock, gpu, persistence_mode=True)
    alert.refresh_from_db()
    assert alert.ended_at is not None
    settings.put(SYSTEM, "power.reconcile_set_again", False)
    gpu = look(clock, gpu, persistence_mode=False)
    assert agent.card(gpu.uuid).asked == [True, True]
    assert Alert.objects.get(rule="power_drift", ended_at=None).message.endswith("not set again.")
