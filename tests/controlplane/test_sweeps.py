"""Power sweeps: what is measured at each profile, what spoils it, what is put back, what is recommended."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError
from controlplane.fleet.protocol import HostUnreachableError
from controlplane.models import (
    Attempt,
    AuditLine,
    Deployment,
    Gpu,
    Host,
    LiveMessage,
    PowerSchedule,
    PowerSweep,
    TelemetrySample,
)  # fmt: skip
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.jobs import Status
from controlplane.models.telemetry import SweepStatus
from controlplane.services import deployments, power, power_agent, power_profiles, schedules, sweep_run, sweeps, thermal
from controlplane.services.engine_load import EngineLoad
from controlplane.services.sweeps import Result
from tests import factories
from tests.controlplane.engines import PacedEngine, running
from tests.controlplane.hosts import AbsentHost
from tests.product import wait_for

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("home")]
SAMPLE_SECONDS = 0.05
PACE: dict[float, float] = {350: 4000.0, 280: 3850.0, 220: 2000.0}
"""Tokens a second that each client gets at a limit: the middle one is within 90 % of the fastest."""

ANNA = Actor("anna", Role.ADMIN)
DRAW = 0.9
"""The share of its limit that the card draws under load."""


class Rig:
    """A card that draws what its limit allows, an engine whose pace depends on it, and the samples of both."""

    def __init__(self, card: Gpu, engine: PacedEngine, agent: AbsentHost) -> None:
        self.card, self.engine, self.agent = card, engine, agent
        self.read_at = time.time()
        self.told = True
        self.events: dict[tuple[str, str], Callable[[], object]] = {}
        """What happens once in a phase of a profile: ("quiet", "measuring")."""

    @property
    def limit(self) -> float:
        return self.agent.cards[self.card.uuid].limit_watts

    def read(self) -> None:
        """Stores what an agent would have read since the last time."""
        now = time.time()
        while self.read_at + SAMPLE_SECONDS <= now:
            self.read_at += SAMPLE_SECONDS
            values = {f"{self.card.uuid}/power_limit_watts": self.limit}
            if self.told:
                values[f"{self.card.uuid}/power_draw_watts"] = DRAW * self.limit
            at = datetime.fromtimestamp(self.read_at, UTC)
            TelemetrySample.objects.create(host=self.card.host, time=at, values=values)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Quick measurements: a second a profile; while the sweep waits, samples come and `events` happen."""
    host = factories.make_host("tower", gpus=1)
    card = Gpu.objects.get(host=host)
    agent = AbsentHost()
    agent.card(card.uuid)
    monkeypatch.setattr(power_agent, "carrier", lambda _host: agent)
    with running(PacedEngine(lambda: 0.0)) as engine:
        found = Rig(card, engine, agent)
        engine.tokens_per_second = lambda: PACE.get(found.limit, 100.0)
        real = sweep_run._pause

        def pause(sweep: PowerSweep, seconds: float = 0.02) -> None:
            found.read()
            progress = sweep.config.get("progress") or {"profile": "", "phase": ""}
            found.events.pop((progress["profile"], progress["phase"]), lambda: None)()
            real(sweep, min(seconds, 0.02))

        monkeypatch.setattr(sweep_run, "_pause", pause)
        monkeypatch.setattr(sweep_run, "READ_BACK_SECONDS", 10.0)
        import_module("controlplane.pages.forms.sweeps")  # takes its limits when it is first imported: not these
        monkeypatch.setattr(sweeps, "SECONDS", (1, 600))
        yield found


def serve(rig: Rig, name: str = "talker", **job: Any) -> Deployment:
    """A ready engine of a model on the rig's card."""
    fields = {"host": rig.card.host, "gpus": [rig.card.uuid], **job}
    return factories.make_deployment(
        factories.make_model(name), job=factories.make_job("serve", Status.RUNNING, **fields), host=rig.card.host,
        port=rig.engine.port, attempt_number=1, ready_at=timezone.now(),
    )  # fmt: skip


def started(rig: Rig, **options: Any) -> PowerSweep:
    serve(rig)
    return sweeps.start(SYSTEM, "talker", **{"seconds_per_profile": 1, "concurrency": 3, "max_tokens": 20, **options})


def carried_out(sweep: PowerSweep) -> PowerSweep:
    sweep_run.work()
    return sweeps.get(sweep.pk)


def test_each_profile_is_measured_and_the_thriftiest_fast_one_recommended(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[tuple[float, float]] = []
    real = EngineLoad.tokens_between

    def tokens_between(load: EngineLoad, begin: float, end: float) -> float:
        windows.append((begin, end))
        return real(load, begin, end)

    monkeypatch.setattr(EngineLoad, "tokens_between", tokens_between)
    sweep = carried_out(started(rig))
    assert sweep.status == SweepStatus.DONE, sweep.error
    assert [row["profile"] for row in sweep.results] == ["quiet", "normal", "max"]
    for row, limit, (begin, end) in zip(sweep.results, (220, 280, 350), windows, strict=True):
        assert row["error"] is None
        assert row["watts"] == limit
        # How many those are is the machine's affair; the engine has counted them too.
        assert row["tokens"] == pytest.approx(rig.engine.tokens_between(begin, end), rel=0.2)
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / (end - begin), rel=0.001)
        assert row["mean_draw_watts"] == pytest.approx(DRAW * limit, rel=0.001)
        assert row["joules_per_token"] == pytest.approx(DRAW * limit / row["tokens_per_second"], rel=0.001)
        assert row["seconds"] == pytest.approx(end - begin, abs=0.01)
        assert row["seconds"] >= 1
    assert (sweep.recommended, sweep.reason) == sweeps.recommend(sweep.results)
    assert sweep.recommended in power_profiles.PROFILES
    assert {body["max_tokens"] for body in rig.engine.asked} == {20}
    questions = [body["messages"][0]["content"] for body in rig.engine.asked]
    assert len(set(questions)) > 3  # none twice in one load
    assert rig.engine.tokens_sent == {deployments.headers(Deployment.objects.get())["Authorization"]}
    rig.card.refresh_from_db()
    assert (rig.limit, rig.card.power_profile) == (350, "")
    assert set(AuditLine.objects.values_list("action", flat=True)) >= {"sweep.start", "sweep.done", "power.restore"}
    kinds = set(LiveMessage.objects.filter(topic="sweeps").values_list("kind", flat=True))
    assert kinds in ({"status"}, {"status", "progress"})
    assert sweep.config["progress"] is None


def test_a_profile_that_is_refused_says_so_and_the_others_are_measured(rig: Rig) -> None:
    power.set_profile(SYSTEM, rig.card, "quiet")
    card, ask = rig.agent.cards[rig.card.uuid], rig.agent.set_power

    def refusing(gpu_uuid: str, watts: float, **how: Any) -> Any:
        card.refuse = "Insufficient permissions." if watts == 280 else None
        return ask(gpu_uuid, watts, **how)

    rig.agent.set_power = refusing  # type: ignore[method-assign]
    sweep = carried_out(started(rig))
    assert sweep.status == SweepStatus.DONE
    assert ["Insufficient permissions." in (row["error"] or "") for row in sweep.results] == [False, True, False]
    assert sweep.recommended == "max"
    rig.card.refresh_from_db()
    assert (rig.limit, rig.card.power_profile) == (220, "quiet")


def test_a_sweep_of_which_every_profile_is_refused_has_failed_and_changed_nothing(rig: Rig) -> None:
    rig.agent.cards[rig.card.uuid].refuse = "Insufficient permissions."
    sweep = carried_out(started(rig))
    assert sweep.status == SweepStatus.FAILED
    assert sweep.error.startswith("Insufficient permissions.")
    assert "put back" not in sweep.error
    assert rig.limit == 350
    assert sweep.recommended == ""


def no_more_readings(rig: Rig) -> None:
    rig.told = False


def another_limit(rig: Rig) -> None:
    rig.agent.cards[rig.card.uuid].limit_watts = 150


def a_short_job(rig: Rig) -> None:
    job = factories.make_job("eval", Status.DONE, host=rig.card.host, gpus=[])
    Attempt.objects.create(job=job, number=1, host=rig.card.host, gpus=[rig.card.uuid], ended_at=timezone.now())


def another_job(rig: Rig) -> None:
    factories.make_job("train", Status.RUNNING, host=rig.card.host, gpus=[rig.card.uuid])


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (no_more_readings, "too little to judge by"),
        (another_limit, "changed by something else"),
        (another_job, "its power would be counted"),
        (a_short_job, "worked on this GPU too"),
    ],
)
def test_what_spoils_a_measurement_is_said(rig: Rig, event: Callable[[Rig], None], sentence: str) -> None:
    started(rig)
    claimed = sweep_run._claim()
    assert claimed is not None
    rig.events["quiet", "measuring"] = lambda: event(rig)
    found = sweep_run._measure(claimed, "quiet")
    assert sentence in (found["error"] or "")
    assert (found["watts"], found["tokens_per_second"]) == (220, None)


def test_an_engine_that_breaks_off_ends_the_sweep_and_the_power_is_put_back(rig: Rig) -> None:
    sweep = started(rig)

    def broken() -> None:
        rig.engine.status = 500

    rig.events["quiet", "warming up"] = broken
    found = carried_out(sweep)
    assert found.status == SweepStatus.FAILED
    assert "it answered 500" in found.error
    assert rig.limit == 350


def test_an_engine_that_was_stopped_before_its_turn_is_named(rig: Rig) -> None:
    sweep = started(rig)
    Deployment.objects.update(status=DeploymentStatus.STOPPED)
    found = carried_out(sweep)
    assert "no longer served" in found.error
    assert rig.limit == 350


def test_cancelling_puts_the_power_back_and_keeps_what_was_measured(rig: Rig) -> None:
    sweep = started(rig)
    rig.events["normal", "measuring"] = lambda: sweeps.cancel(SYSTEM, sweep.pk)
    found = carried_out(sweep)
    assert found.status == SweepStatus.CANCELLED
    assert [row["profile"] for row in found.results] == ["quiet"]
    assert rig.limit == 350
    with pytest.raises(ConflictError, match="cancelled already"):
        sweeps.cancel(SYSTEM, sweep.pk)


def test_one_that_waits_is_cancelled_at_once(rig: Rig) -> None:
    sweep = started(rig)
    assert sweeps.cancel(SYSTEM, sweep.pk).status == SweepStatus.CANCELLED
    sweep_run.work()
    assert rig.engine.asked == []


@pytest.mark.parametrize("profile", ["", "normal"])
def test_a_web_server_that_was_ended_in_the_middle_puts_the_power_back_when_it_starts(rig: Rig, profile: str) -> None:
    if profile:
        power.set_profile(SYSTEM, rig.card, profile)
    before = rig.limit
    sweep = started(rig)
    claimed = sweep_run._claim()
    assert claimed is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_run, "_say", lambda *_: None)
        sweep_run._set(claimed, "quiet")
    assert rig.limit == 220
    Host.objects.update(last_seen_at=timezone.now() - timedelta(minutes=5))
    sweep_run.work()
    assert sweeps.get(sweep.pk).status == SweepStatus.RUNNING  # until the host answers
    Host.objects.update(last_seen_at=timezone.now())
    sweep_run.work()
    found = sweeps.get(sweep.pk)
    assert (found.status, found.error) == (SweepStatus.FAILED, sweep_run.INTERRUPTED)
    rig.card.refresh_from_db()
    assert (rig.limit, rig.card.power_profile) == (before, profile)


@pytest.mark.parametrize("profile", ["quiet", "normal"])
def test_a_profile_that_somebody_sets_meanwhile_ends_the_sweep_and_stays(rig: Rig, profile: str) -> None:
    """Also where it is the one that is measured just then, or the one that the GPU had."""
    power.set_profile(SYSTEM, rig.card, "normal")
    sweep = started(rig)
    rig.events["quiet", "measuring"] = lambda: power.set_profile(ANNA, rig.card, profile)
    found = carried_out(sweep)
    assert (found.status, found.results) == (SweepStatus.FAILED, [])
    assert found.error == f"Anna set {profile} in the middle of it: that stays."
    rig.card.refresh_from_db()
    assert (rig.card.power_profile, rig.limit) == (profile, {"quiet": 220, "normal": 280}[profile])
    assert (rig.card.power_answer or {})["by"] == "anna"


def test_a_press_that_is_refused_ends_no_sweep(rig: Rig) -> None:
    sweep = started(rig)
    card = rig.agent.cards[rig.card.uuid]

    def press() -> None:
        card.refuse = "Insufficient permissions."
        power.set_profile(ANNA, rig.card, "normal")
        card.refuse = None

    rig.events["quiet", "measuring"] = press
    found = carried_out(sweep)
    assert (found.status, found.error) == (SweepStatus.DONE, "")
    rig.card.refresh_from_db()
    assert (rig.limit, rig.card.power_profile) == (350, "")


def heard(rig: Rig, **reading: Any) -> None:
    """The host has just told of its card."""
    rig.card.refresh_from_db()
    Host.objects.update(last_seen_at=timezone.now(), fault="")
    Gpu.objects.update(reading={**rig.card.reading, "power_limit_watts": rig.limit, **reading}, seen_at=timezone.now())


@pytest.mark.parametrize("is_before", [True, False])
def test_a_schedule_that_falls_due_is_not_overridden(rig: Rig, is_before: bool) -> None:
    """Its edge may also lie before something that the sweep sets, and be carried out after that."""
    power.set_profile(SYSTEM, rig.card, "max")
    Gpu.objects.update(power_set_at=timezone.now() - timedelta(hours=1), power_answer=None)
    sweep = started(rig)
    edge = timezone.localtime(timezone.now() - timedelta(minutes=30 if is_before else 1))

    def fall_due() -> None:
        PowerSchedule.objects.create(
            profile="quiet", profile_after="max", begins=edge.time(), until=(edge + timedelta(hours=5)).time(),
            days=list(range(7)), effective_from=edge - timedelta(hours=1), created_by="anna",
        )  # fmt: skip
        heard(rig)
        schedules.apply_due()

    rig.events["normal", "measuring"] = fall_due
    found = carried_out(sweep)
    assert found.status == SweepStatus.FAILED
    assert found.error.startswith("Schedule ")
    assert [row["profile"] for row in found.results] == ["quiet"]
    rig.card.refresh_from_db()
    assert (rig.card.power_profile, rig.limit) == ("quiet", 220)


@pytest.mark.parametrize(("profile", "watts"), [("", 350), ("normal", 280)])
def test_a_card_that_got_hot_is_left_to_the_guard_and_gets_its_former_power_later(
    rig: Rig, profile: str, watts: float
) -> None:
    if profile:
        power.set_profile(SYSTEM, rig.card, profile)
    sweep = started(rig)

    def get_hot() -> None:
        heard(rig, temperature_celsius=84)
        thermal.look()
        thermal.rule_power()

    rig.events["normal", "measuring"] = get_hot
    found = carried_out(sweep)
    assert "thermal guard holds it at 220 W" in (found.results[2]["error"] or ""), found.results
    rig.card.refresh_from_db()
    assert (rig.limit, rig.card.power_profile, power_profiles.held_watts(rig.card)) == (220, profile, 220)
    heard(rig, temperature_celsius=60)
    thermal.look()
    thermal.rule_power()
    rig.card.refresh_from_db()
    assert (rig.limit, rig.card.power_profile, rig.card.heat) == (watts, profile, None)


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_put_back_that_is_refused_is_tried_until_it_works(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    power.set_profile(SYSTEM, rig.card, "max")
    sweep, card = started(rig), rig.agent.cards[rig.card.uuid]

    def vanish() -> None:
        rig.engine.status = 500
        card.refuse = HostUnreachableError("connection refused")

    rig.events["quiet", "measuring"] = vanish
    found = carried_out(sweep)
    assert (found.status, found.ended_at, rig.limit) == (SweepStatus.CANCELLING, None, 220)
    assert "connection refused" in found.error
    asked = len(card.asked)
    assert carried_out(sweep).status == SweepStatus.CANCELLING
    assert len(card.asked) == asked  # not every two seconds
    monkeypatch.setattr(sweep_run, "PUT_BACK_AGAIN_SECONDS", 0.0)
    card.refuse = None
    if is_taken:
        power.set_profile(ANNA, rig.card, "normal")
    found = carried_out(sweep)
    assert found.status == SweepStatus.FAILED
    assert "it answered 500" in found.error
    assert "put back" not in found.error
    rig.card.refresh_from_db()
    assert (rig.limit, rig.card.power_profile) == ((280, "normal") if is_taken else (350, "max"))


def test_an_agent_that_did_not_answer_may_have_set_it_and_is_asked_to_put_it_back(rig: Rig) -> None:
    card, ask = rig.agent.cards[rig.card.uuid], rig.agent.set_power

    def half(gpu_uuid: str, watts: float, **how: Any) -> Any:
        card.refuse = None
        answer = ask(gpu_uuid, watts, **how)
        if watts == 220:
            raise HostUnreachableError("no answer in time")
        return answer

    rig.agent.set_power = half  # type: ignore[method-assign]
    serve(rig)
    sweep = sweeps.start(SYSTEM, "talker", seconds_per_profile=1)
    claimed = sweep_run._claim()
    assert claimed is not None
    assert "no answer in time" in (sweep_run._measure(claimed, "quiet")["error"] or "")
    assert rig.limit == 220
    carried_out(sweep)
    assert rig.limit == 350


def test_a_text_that_is_cut_off_after_the_measurement_spoils_it(rig: Rig) -> None:
    sweep = started(rig)
    real, is_over = sweep_run._run_on, threading.Event()

    def run_on(*told: Any) -> None:
        real(*told)
        if told[3] == "measuring":
            is_over.set()
            rig.engine.status = 500
            asked = len(rig.engine.asked)
            wait_for("another text to be asked for", lambda: len(rig.engine.asked) > asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_run, "_run_on", run_on)
        found = carried_out(sweep)
    assert is_over.is_set()
    assert (found.status, found.results) == (SweepStatus.FAILED, [])
    assert "it answered 500" in found.error


# --- Starting ---------------------------------------------------------------------------------------------------------


def test_who_may_start_and_what_is_out_of_range(rig: Rig) -> None:
    serve(rig)
    with pytest.raises(ForbiddenError):
        sweeps.start(Actor("somebody", Role.USE), "talker")
    wrong: list[dict[str, Any]] = [{"seconds_per_profile": 601}, {"concurrency": 0}, {"max_tokens": 100_000}]
    for options in wrong:
        with pytest.raises(InvalidInputError, match="must lie between"):
            sweeps.start(SYSTEM, "talker", **options)
    assert PowerSweep.objects.count() == 0


def test_a_sweep_needs_an_engine_on_a_gpu_whose_power_is_told(rig: Rig) -> None:
    factories.make_model("idle")
    with pytest.raises(ConflictError, match="not being served"):
        sweeps.start(SYSTEM, "idle")
    plain = serve(rig, "plain", gpus=[])
    with pytest.raises(ConflictError, match="runs on the processor"):
        sweeps.start(SYSTEM, "plain")
    assert [row.pk for row, _ in sweeps.candidates()] == []
    plain.delete()
    serve(rig)
    with pytest.raises(ConflictError, match="is served on GPU 0 on tower"):
        sweeps.start(SYSTEM, "talker", gpu=1)
    reading = rig.card.reading
    for changes, word in (({"reading": {**reading, "power_draw_watts": None}}, "No power can be read"),
                          ({"heat_level": 1, "reading": reading}, "too hot")):  # fmt: skip
        Gpu.objects.update(**changes)
        with pytest.raises(ConflictError, match=word):
            sweeps.start(SYSTEM, "talker")
    Gpu.objects.update(heat_level=0)
    run = factories.make_run(job=factories.make_job("train", Status.RUNNING, host=rig.card.host, gpus=[rig.card.uuid]))
    with pytest.raises(ConflictError, match=f"Run {run.pk} works"):
        sweeps.start(SYSTEM, "talker")


def test_one_sweep_a_gpu(rig: Rig) -> None:
    started(rig)
    with pytest.raises(ConflictError, match="open already"):
        sweeps.start(SYSTEM, "talker")
    assert PowerSweep.objects.count() == 1


# --- What it recommends -----------------------------------------------------------------------------------------------


def row(profile: str, rate: float | None, watts: float = 100.0) -> Result:
    measured = rate is not None
    return Result(
        profile=profile, watts=watts, tokens_per_second=rate, joules_per_token=watts / rate if rate else None,
        mean_draw_watts=watts if measured else None, seconds=30.0 if measured else None,
        tokens=rate * 30 if rate else None, error=None if measured else "refused",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "profile", "words"),
    [
        ([row("quiet", 60, 200), row("normal", 97, 265), row("max", 100, 350)], "normal",
         "Normal gives 97 % of the tokens a second of Max at 78 % of the joules a token."),
        ([row("quiet", 95, 200), row("normal", 97, 265), row("max", 100, 350)], "quiet", "Quiet gives 95 %"),
        ([row("quiet", 60, 200), row("normal", 80, 265), row("max", 100, 350)], "max", "nothing under 90 %"),
        ([row("quiet", 50, 200), row("max", 100, 350)], "max", "no other profile takes fewer joules"),
        ([row("quiet", 50, 200), row("normal", None), row("max", None)], "", "Only Quiet could be measured"),
        ([row("quiet", None)], "", "No profile could be measured"),
    ],
)  # fmt: skip
def test_the_rule_of_the_recommendation(rows: list[Result], profile: str, words: str) -> None:
    found, reason = sweeps.recommend(rows)
    assert found == profile
    assert words in reason


# --- Over the API -----------------------------------------------------------------------------------------------------


@pytest.fixture
def admin() -> Client:
    return factories.make_client("admin")


def test_the_api_starts_lists_cancels_and_uses(rig: Rig, admin: Client) -> None:
    serve(rig)
    body = {"model": "talker", "seconds_per_profile": 2}
    reader = factories.make_client("use")
    assert reader.post("/api/power_sweeps", body, content_type="application/json").status_code == 403
    answer = admin.post("/api/power_sweeps", body, content_type="application/json")
    assert answer.status_code == 201, answer.content
    number = answer.json()["id"]
    assert (answer.json()["status"], answer.json()["host"], answer.json()["gpu"]) == ("waiting", "tower", 0)
    assert admin.post("/api/power_sweeps", body, content_type="application/json").status_code == 409
    assert [item["id"] for item in reader.get("/api/power_sweeps").json()["sweeps"]] == [number]
    assert reader.post(f"/api/power_sweeps/{number}/cancel").status_code == 403
    assert admin.post(f"/api/power_sweeps/{number}/cancel").json()["status"] == "cancelled"
    assert reader.get("/api/power_sweeps/999").status_code == 404
    assert admin.post(f"/api/power_sweeps/{number}/use").status_code == 409
    PowerSweep.objects.update(recommended="quiet")
    assert reader.post(f"/api/power_sweeps/{number}/use").status_code == 403
    used = admin.post(f"/api/power_sweeps/{number}/use")
    assert (used.status_code, used.json()["power_limit_w"], rig.limit) == (200, 220, 220)
    assert (
        admin.post("/api/power_sweeps", {"model": "talker", "gpus": 2}, content_type="application/json").status_code
        == 422
    )
