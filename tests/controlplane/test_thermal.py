"""The thermal guard: power, new jobs, running jobs, each with hysteresis; and what it leaves alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from controlplane.errors import InvalidInputError
from controlplane.models import Alert, AuditLine, Gpu, Job
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import Desired, Status
from controlplane.placement import Place, place
from controlplane.services import drift, hosts, jobs, power, power_agent, power_profiles, settings, thermal
from tests import factories
from tests.controlplane.hosts import AbsentHost
from tests.controlplane.moments import Clock, heard

pytestmark = pytest.mark.django_db
SOMEBODY = Actor(name="ada", role=Role.ADMIN)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that stands still until it is told."""
    return Clock.install(monkeypatch)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> AbsentHost:
    """The agent of every host."""
    absent = AbsentHost()
    monkeypatch.setattr(power_agent, "carrier", lambda _host: absent)
    return absent


@pytest.fixture
def gpu(agent: AbsentHost, clock: Clock, home: object) -> Gpu:
    """A card at 60 °C that somebody has set to max."""
    row = factories.make_gpu(factories.make_host("tower"), temperature_celsius=60)
    power.request(SOMEBODY, "max")
    agent.card(row.uuid).asked.clear()
    row.refresh_from_db()
    return row


@pytest.fixture
def look(clock: Clock, gpu: Gpu) -> Any:
    """A look at the cards, five seconds later, with the card at a temperature."""

    def look_at(temperature: int | None, seconds: float = 5, **reading: Any) -> Gpu:
        clock.forward(seconds)
        heard(gpu, temperature_celsius=temperature, **reading)
        thermal.look()
        thermal.rule_power()
        gpu.refresh_from_db()
        return gpu

    return look_at


def open_rules() -> list[str]:
    """The rules of the alerts that go on."""
    return sorted(Alert.objects.filter(ended_at=None).values_list("rule", flat=True))


def running_on(gpu: Gpu) -> Job:
    """A run that works on the card."""
    run = factories.make_run(status=Status.RUNNING)
    Job.objects.filter(pk=run.job_id).update(host=gpu.host, gpus=[gpu.uuid], attempt_count=1)
    return jobs.get(run.job_id)


def paused(job: Job) -> None:
    """Its process has written its checkpoint and is gone."""
    jobs.transition(job.pk, Status.PAUSED, reason="paused with a checkpoint")


# --- Levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "before", "after"),
    [
        (82, 0, 0), (83, 0, 1), (87, 0, 2), (91, 0, 3), (120, 0, 3),
        (79, 1, 1), (78, 1, 0), (82, 1, 1),
        (83, 2, 2), (82, 2, 1), (78, 2, 0),
        (87, 3, 3), (86, 3, 2), (82, 3, 1), (40, 3, 0),
    ],
)  # fmt: skip
def test_a_level_is_entered_at_its_limit_and_left_below_it(temperature: int, before: int, after: int) -> None:
    assert thermal.limits().level(temperature, before) == after


def test_a_cool_card_is_left_alone(look: Any, agent: AbsentHost) -> None:
    gpu = look(82)
    assert (gpu.heat_level, gpu.heat, agent.card(gpu.uuid).asked, Alert.objects.count()) == (0, None, [], 0)


# --- Power ------------------------------------------------------------------------------------------------------------


def test_power_steps_down_while_it_is_hot_and_comes_back_when_cool(look: Any, agent: AbsentHost) -> None:
    gpu = look(84)
    asked = agent.card(gpu.uuid).asked
    assert (gpu.heat_level, asked, open_rules()) == (1, [280], ["temperature_power"])
    look(84)
    assert asked == [280], "a step is given its time"
    look(84, 25)
    assert asked == [280, 220]
    look(84, 30)
    assert asked == [280, 220, 185]
    for _ in range(5):
        look(84, 30)
    assert asked == [280, 220, 185, 150, 115, 100], "down to the card's minimum, and no further"
    look(80)
    assert (asked[-1], gpu.power_profile) == (100, "max")
    gpu = look(78)
    assert (asked[-1], gpu.heat_level, gpu.heat, open_rules()) == (350, 0, None, [])
    assert gpu.reading["power_limit_watts"] == 350
    actions = AuditLine.objects.filter(actor="thermal guard").values_list("action", flat=True)
    assert set(actions) == {"heat.level", "heat.step", "heat.restore"}


def test_a_card_that_nobody_has_set_gets_back_what_it_had(look: Any, agent: AbsentHost, gpu: Gpu) -> None:
    Gpu.objects.update(power_profile="", power_answer=None)
    look(84, power_limit_watts=300.0)
    look(84, 30)
    assert agent.card(gpu.uuid).asked == [280, 220]
    gpu = look(70)
    assert (agent.card(gpu.uuid).asked, gpu.heat) == ([280, 220, 300], None)


def test_a_refused_step_is_told_and_not_hammered(look: Any, agent: AbsentHost, gpu: Gpu) -> None:
    agent.card(gpu.uuid).refuse = "Insufficient permissions."
    for _ in range(60):  # five minutes
        look(84)
    assert len(agent.card(gpu.uuid).asked) == 3, "at once, after 60 s, after 120 s more; next would be after 240 s"
    alert = Alert.objects.get(rule="temperature_power")
    assert "can't be stepped down: Insufficient permissions." in alert.message
    assert alert.fix == "Run as root."
    assert look(70).heat is None


def test_reconciling_does_not_fight_the_guard(look: Any, agent: AbsentHost, clock: Clock) -> None:
    gpu = look(84)
    clock.forward(20)
    heard(gpu, power_limit_watts=280.0)
    drift.reconcile()
    gpu.refresh_from_db()
    assert (gpu.power_drift, agent.card(gpu.uuid).asked) == (None, [280])
    heard(gpu, power_limit_watts=350.0)
    drift.reconcile()
    assert agent.card(gpu.uuid).asked == [280, 280], "but it sees to what the guard has set, too"


def test_a_press_while_hot_is_a_wish_for_later(look: Any, agent: AbsentHost) -> None:
    look(84)
    look(84, 30)
    (outcome,) = power.request(SOMEBODY, "normal")
    assert (outcome["set"], outcome["asked_w"], outcome["power_limit_w"]) == (True, 280, 220)
    assert "thermal guard holds it at 220 W" in str(outcome["reason"])
    (outcome,) = power.request(SOMEBODY, "quiet")
    assert (outcome["power_limit_w"], outcome["reason"]) == (220, None)
    power.request(SOMEBODY, "normal")
    gpu = look(70)
    assert (agent.card(gpu.uuid).asked[-1], gpu.power_profile) == (280, "normal")


@pytest.fixture
def press_before(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets somebody press just before the guard, which has looked already, gets hold of the card."""
    alone_with = power_agent.alone_with

    def arrange(profile: str) -> None:
        @contextmanager
        def after_a_press(gpu: Gpu) -> Iterator[Gpu | None]:
            monkeypatch.setattr(power_agent, "alone_with", alone_with)
            power.request(SOMEBODY, profile)
            with alone_with(gpu) as row:
                yield row

        monkeypatch.setattr(power_agent, "alone_with", after_a_press)

    return arrange


def test_a_press_in_the_middle_of_a_step_is_not_undone(
    look: Any, agent: AbsentHost, press_before: Callable[[str], None]
) -> None:
    press_before("quiet")
    gpu = look(84)
    assert agent.card(gpu.uuid).asked == [220, 185], "the step goes on from what was pressed"
    assert (gpu.power_profile, gpu.reading["power_limit_watts"], power_profiles.held_watts(gpu)) == ("quiet", 185, 185)


def test_a_press_in_the_middle_of_putting_back_is_what_it_gets(
    look: Any, agent: AbsentHost, press_before: Callable[[str], None]
) -> None:
    look(84)
    press_before("quiet")
    gpu = look(60)
    assert agent.card(gpu.uuid).asked[-1] == 220
    assert (gpu.power_profile, gpu.reading["power_limit_watts"], gpu.heat) == ("quiet", 220, None)


def test_a_step_never_raises_a_limit_though_the_reading_is_older(look: Any, agent: AbsentHost) -> None:
    power.request(SOMEBODY, "quiet")
    gpu = look(84, power_limit_watts=350.0)  # polled before the press, stored after it
    assert agent.card(gpu.uuid).asked == [220, 185]


def test_a_step_that_nobody_has_stored_is_undone_all_the_same(
    look: Any, agent: AbsentHost, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The web process is killed between the agent's answer and the data base."""
    Gpu.objects.update(power_profile="", power_answer=None)
    with monkeypatch.context() as patch:
        patch.setattr(power, "store_limit", killed)
        with pytest.raises(SystemExit):
            look(84)
    look(84, power_limit_watts=280.0)
    gpu = look(60, power_limit_watts=280.0)
    assert (agent.card(gpu.uuid).limit_watts, gpu.heat) == (350, None)


def killed(*_anything: Any, **_more: Any) -> None:
    raise SystemExit


def test_levels_and_jobs_do_not_wait_for_an_agent_that_is_slow(look: Any, agent: AbsentHost, clock: Clock) -> None:
    """Agents are asked by a duty of its own; a card whose agent refused is asked after the others."""
    gpu = look(84)
    other = factories.make_gpu(gpu.host, 1)
    agent.card(gpu.uuid).refuse = "It takes its time."
    clock.forward(30)
    heard(gpu)
    thermal.rule_power()
    job, asked = running_on(other), list(agent.cards)
    clock.forward(60)
    heard(gpu)
    heard(other, temperature_celsius=95)
    thermal.look()
    assert (list(agent.cards), jobs.get(job.pk).desired) == (asked, Desired.PAUSE), "nobody was asked for watts"
    order: list[str] = []
    for row in (gpu, other):
        agent.card(row.uuid).before_answer = lambda uuid=row.uuid: order.append(uuid)
    thermal.rule_power()
    assert order == [other.uuid, gpu.uuid]
    assert jobs.get(job.pk).pk in (Gpu.objects.get(pk=other.pk).heat or {})["paused_jobs"]


# --- New jobs ---------------------------------------------------------------------------------------------------------


def test_a_hot_card_gets_no_new_job_until_it_has_cooled(look: Any, gpu: Gpu) -> None:
    run = factories.make_run()
    engine = factories.make_deployment(job=factories.make_job("serve")).job
    look(87)
    assert open_rules() == ["temperature_hold", "temperature_power"]
    for job in (run.job, engine):
        assert place(job, hosts.list_hosts()) == "waits until GPU 0 on tower has cooled below 82 °C"
    assert isinstance(place(factories.make_job("fetch"), hosts.list_hosts()), Place)
    look(83)
    assert place(run.job, hosts.list_hosts()) == "waits until GPU 0 on tower has cooled below 82 °C"
    look(82)
    assert open_rules() == ["temperature_power"]
    for job in (run.job, engine):
        assert place(job, hosts.list_hosts()) == Place(gpu.host, (gpu.uuid,))


def test_a_cool_card_beside_a_hot_one_is_taken(look: Any, gpu: Gpu) -> None:
    other = factories.make_gpu(gpu.host, 1)
    look(88)
    assert place(factories.make_run().job, hosts.list_hosts()) == Place(gpu.host, (other.uuid,))


# --- Running jobs -----------------------------------------------------------------------------------------------------


def test_running_jobs_are_paused_and_go_on_when_cooled(look: Any, gpu: Gpu) -> None:
    mine, elsewhere = running_on(gpu), running_on(factories.make_gpu(gpu.host, 1))
    look(91)
    assert Alert.objects.get(rule="temperature_pause").severity == "critical"
    assert (jobs.get(mine.pk).desired, jobs.get(elsewhere.pk).desired) == (Desired.PAUSE, Desired.RUN)
    gpu = look(91)
    assert (gpu.heat or {})["paused_jobs"] == [mine.pk]
    look(86)
    assert jobs.get(mine.pk).status == Status.RUNNING, "it still writes its checkpoint"
    paused(mine)
    gpu = look(86)
    job = jobs.get(mine.pk)
    assert (job.status, job.desired, "paused_jobs" in (gpu.heat or {})) == (Status.PENDING, Desired.RUN, False)
    assert "temperature_pause" not in open_rules()


def test_a_pause_that_nobody_remembers_is_no_pause(look: Any, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The web process is killed in between: else nobody would ever let the run go on."""
    job = running_on(gpu)
    with monkeypatch.context() as patch:
        patch.setattr(thermal, "_remember", killed)
        with pytest.raises(SystemExit):
            look(91)
    assert jobs.get(job.pk).desired == Desired.RUN
    look(91)
    paused(job)
    look(60)
    assert jobs.get(job.pk).status == Status.PENDING


def test_what_is_said_of_a_paused_run_is_when_it_really_goes_on(look: Any, gpu: Gpu) -> None:
    job = running_on(gpu)
    look(91)
    assert "they go on when it has cooled below 82 °C" in Alert.objects.get(rule="temperature_pause").message
    paused(job)
    for temperature in (86, 83):  # resumed, it waits for the card like any other job
        look(temperature)
        assert place(jobs.get(job.pk), hosts.list_hosts()) == "waits until GPU 0 on tower has cooled below 82 °C"
    look(82)
    assert isinstance(place(jobs.get(job.pk), hosts.list_hosts()), Place)


def test_a_job_that_somebody_paused_before_stays_paused(look: Any, gpu: Gpu) -> None:
    job = running_on(gpu)
    jobs.wish(SOMEBODY, job.pk, Desired.PAUSE)
    look(91)
    paused(job)
    gpu = look(60)
    assert (jobs.get(job.pk).status, (gpu.heat or {}).get("paused_jobs")) == (Status.PAUSED, None)


def test_a_job_that_somebody_paused_after_the_guard_stays_paused(look: Any, gpu: Gpu) -> None:
    job = running_on(gpu)
    look(91)
    paused(job)
    jobs.wish(SOMEBODY, job.pk, Desired.PAUSE)
    gpu = look(60)
    assert (jobs.get(job.pk).status, (gpu.heat or {}).get("paused_jobs")) == (Status.PAUSED, None)


@pytest.mark.parametrize("end", [Desired.CANCEL, "resumed"])
def test_a_job_that_somebody_ended_or_resumed_is_theirs(look: Any, gpu: Gpu, end: str) -> None:
    job = running_on(gpu)
    look(91)
    paused(job)
    if end == "resumed":
        jobs.resume(SOMEBODY, job.pk)
    else:
        jobs.cancel(SOMEBODY, job.pk)
    before = jobs.get(job.pk).status
    gpu = look(60)
    assert (jobs.get(job.pk).status, (gpu.heat or {}).get("paused_jobs")) == (before, None)


# --- What changes nothing ---------------------------------------------------------------------------------------------


def test_an_unknown_temperature_changes_nothing(look: Any) -> None:
    assert look(None).heat_level == 0
    look(88)
    gpu = look(None)
    assert (gpu.heat_level, open_rules()) == (2, ["temperature_hold", "temperature_power"])


def test_an_old_reading_changes_nothing(look: Any, clock: Clock, agent: AbsentHost) -> None:
    gpu = look(84)
    Gpu.objects.update(reading={**gpu.reading, "temperature_celsius": 95})
    clock.forward(60)
    thermal.look()
    thermal.rule_power()
    gpu.refresh_from_db()
    assert (gpu.heat_level, agent.card(gpu.uuid).asked) == (1, [280])


def test_a_card_with_a_fault_changes_nothing(look: Any) -> None:
    assert look(95, fault="GPU is lost.").heat_level == 0


def test_a_clock_that_is_put_back_holds_up_no_step(look: Any, clock: Clock, agent: AbsentHost) -> None:
    look(84)
    clock.forward(-7200)
    gpu = look(84)
    assert agent.card(gpu.uuid).asked == [280, 220]


def test_switched_off_the_guard_undoes_what_it_did(look: Any, gpu: Gpu, agent: AbsentHost) -> None:
    job = running_on(gpu)
    look(92)
    paused(job)
    settings.put(SYSTEM, "thermal.enabled", False)
    gpu = look(95)
    assert (gpu.heat_level, gpu.heat, agent.card(gpu.uuid).asked, open_rules()) == (0, None, [280, 350], [])
    assert jobs.get(job.pk).status == Status.PENDING
    assert look(95).heat_level == 0


# --- Its settings -----------------------------------------------------------------------------------------------------


def test_limits_that_do_not_rise_are_refused_and_nothing_is_changed() -> None:
    with pytest.raises(InvalidInputError, match="must rise") as caught:
        thermal.configure(SOMEBODY, {"thermal.power_step_celsius": 75, "thermal.hold_jobs_celsius": 95})
    assert caught.value.faults[0].path == "thermal.hold_jobs_celsius"
    assert settings.get("thermal.power_step_celsius") == 83
    thermal.configure(SOMEBODY, {"thermal.power_step_celsius": 75, "thermal.hold_jobs_celsius": 80})
    assert thermal.limits().celsius == {1: 75, 2: 80, 3: 91}


@pytest.mark.parametrize(
    ("key", "value"), [("hold_jobs", 120), ("hold_jobs", 83), ("power_step", 87), ("pause_jobs", 50)]
)
def test_one_limit_alone_can_not_leave_the_order_either(key: str, value: int) -> None:
    name, before = f"thermal.{key}_celsius", thermal.limits()
    with pytest.raises(InvalidInputError, match="must rise") as caught:
        settings.put(SOMEBODY, name, value)
    assert (caught.value.faults[0].path, thermal.limits()) == (name, before)


def test_a_limit_out_of_range_names_its_field() -> None:
    with pytest.raises(InvalidInputError) as caught:
        thermal.configure(SOMEBODY, {"thermal.hysteresis_celsius": 99})
    assert caught.value.faults[0].path == "thermal.hysteresis_celsius"
