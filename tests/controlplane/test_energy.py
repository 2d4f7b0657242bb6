"""Joules from power samples: against known curves, with gaps, sharing, restarts and clocks that jump."""

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from controlplane import dispatch
from controlplane.fleet.protocol import HostSample
from controlplane.models import Attempt, Deployment, EnergyAccount, Host, Job, LiveMessage, Run, TelemetrySample
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Status
from controlplane.services import energy, energy_history, run_facts, settings, telemetry
from controlplane.services.energy import Reading
from tests import factories
from tests.controlplane.hosts import AbsentHost

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
START = 1_700_000_000.0
GPU = "GPU-0"
Curve = Callable[[float], float]


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(START + seconds, UTC)


def sample(seconds: float, watts: float | None, gpu: str = GPU) -> HostSample:
    values = {"cpu_percent": 3.0} | ({} if watts is None else {f"{gpu}/power_draw_watts": watts})
    return HostSample(time=START + seconds, values=values)


def samples(curve: Curve, begin: float, end: float, step: float = 1.0) -> list[HostSample]:
    """What an agent would have read of a GPU whose draw follows a curve."""
    return [sample(begin + n * step, curve(begin + n * step)) for n in range(int((end - begin) / step) + 1)]


def joules_of(curve: Curve, begin: float, end: float, parts: int = 20_000) -> float:
    """The curve's true integral, by a fine midpoint sum."""
    width = (end - begin) / parts
    return sum(curve(begin + (n + 0.5) * width) for n in range(parts)) * width


def store(host: Host, batch: Sequence[HostSample], size: int = 1) -> None:
    """Stores and accounts samples as the dispatcher does: so many a poll, each poll a transaction."""
    for start in range(0, len(batch), size):
        with transaction.atomic():
            energy.account(host, telemetry.store(host, batch[start : start + size]))


def running(
    host: Host, begin: float, end: float | None = None, *, job: Job | None = None, gpus: Sequence[str] = (GPU,),
    exit_at: float | None = None,
) -> Job:  # fmt: skip
    """A job that holds GPUs from one second to another."""
    job = job or factories.make_job("train", Status.RUNNING, host=host, gpus=list(gpus), started_at=moment(begin))
    job.attempt_count += 1
    Attempt.objects.create(
        job=job, number=job.attempt_count, host=host, launched=True, gpus=list(gpus), created_at=moment(begin),
        ended_at=None if end is None else moment(end), exit=None if exit_at is None else {"ended_at": START + exit_at},
    )  # fmt: skip
    return job


def wave(seconds: float) -> float:
    return 220 + 110 * math.sin(seconds / 7)


def steps(seconds: float) -> float:
    return 120.0 if int(seconds / 20) % 2 else 340.0


@pytest.mark.parametrize("curve", [wave, steps], ids=["sine", "steps"])
@pytest.mark.parametrize("size", [1, 7, 600])
def test_joules_agree_with_a_known_curve_within_two_percent(curve: Curve, size: int) -> None:
    host = factories.make_host()
    job = running(host, 10.4, 130.7, exit_at=130.2)
    store(host, samples(curve, 0, 140), size)
    row = EnergyAccount.objects.get(job=job)
    assert row.joules == pytest.approx(joules_of(curve, 10.4, 130.2), rel=0.02)
    assert row.covered_seconds == pytest.approx(119.8)
    assert row.gap_seconds == pytest.approx(0)


def test_a_batch_that_comes_twice_counts_once() -> None:
    host = factories.make_host()
    job = running(host, 0)
    batch = samples(wave, 0, 40)
    store(host, batch, 10)
    once = EnergyAccount.objects.get(job=job).joules
    for again in (batch[30:], batch, batch[5:20]):
        energy.account(host, again)
    assert EnergyAccount.objects.get(job=job).joules == once > 0


def test_time_without_readings_is_a_gap_and_no_joules() -> None:
    host = factories.make_host()
    job = running(host, 0)
    store(host, samples(lambda _: 100.0, 0, 20))
    store(host, [sample(21, None), sample(22, None)])  # the driver hangs
    store(host, samples(lambda _: 100.0, 60, 80))  # nobody read for a while
    row = EnergyAccount.objects.get(job=job)
    assert row.joules == pytest.approx(4000)
    assert row.covered_seconds == pytest.approx(40)
    assert row.gap_seconds == pytest.approx(40)


def test_jobs_on_one_gpu_share_it_while_they_run_together() -> None:
    host = factories.make_host()
    first, second = running(host, 0), running(host, 10, 20)
    other = running(host, 0, gpus=["GPU-1"])
    store(host, samples(lambda _: 200.0, 0, 30), 5)
    joules = dict(EnergyAccount.objects.values_list("job", "joules"))
    assert joules[first.pk] == pytest.approx(200 * 10 + 100 * 10 + 200 * 10)
    assert joules[second.pk] == pytest.approx(100 * 10)
    assert joules.get(other.pk, 0) == 0


def test_a_run_that_was_resumed_sums_up_and_its_pause_is_no_gap() -> None:
    host = factories.make_host()
    job = running(host, 0, 20)
    running(host, 100, 120, job=job)
    store(host, samples(lambda at: 300.0 if at < 60 else 150.0, 0, 130), 3)
    row = EnergyAccount.objects.get(job=job)
    assert row.joules == pytest.approx(300 * 20 + 150 * 20)
    assert row.covered_seconds == pytest.approx(40)
    assert row.gap_seconds == pytest.approx(0)


def test_a_run_that_goes_on_on_another_gpu_at_once_has_no_gap_there() -> None:
    host = factories.make_host()
    job = running(host, 0, 1000)
    store(host, samples(lambda _: 100.0, 0, 1000), 600)
    running(host, 1002, job=job, gpus=["GPU-1"])
    store(host, [sample(1000 + at, 300.0, "GPU-1") for at in range(1, 13)])
    moved = EnergyAccount.objects.get(job=job, gpu_uuid="GPU-1")
    assert moved.joules == pytest.approx(300 * 10)
    assert moved.gap_seconds == 0


def test_several_gpus_are_summed_up() -> None:
    host = factories.make_host()
    run = factories.make_run(status=Status.RUNNING)
    running(host, 0, job=run.job, gpus=[GPU, "GPU-1"])
    pairs = zip(samples(lambda _: 100.0, 0, 10), samples(lambda _: 300.0, 0, 10), strict=True)
    for one, two in pairs:
        both = one["values"] | {"GPU-1/power_draw_watts": two["values"][f"{GPU}/power_draw_watts"]}
        store(host, [HostSample(time=one["time"], values=both)])
    found = energy.of_run(Run.objects.get(pk=run.pk))
    assert found is not None
    assert found["joules"] == pytest.approx(4000)
    assert found["covered_seconds"] == pytest.approx(20)
    assert found["mean_watts"] == pytest.approx(200)


@pytest.mark.parametrize("jump", [-7200.0, 7200.0], ids=["back", "forward"])
def test_a_clock_that_jumps_makes_no_joules(jump: float) -> None:
    now = timezone.now().timestamp()
    before = now - 60 - min(jump, 0)  # a clock that is set back was ahead of the true time before
    skew = -min(jump, 0)
    host = factories.make_host(clock_skew_seconds=skew)
    job = factories.make_job("train", Status.RUNNING, host=host, gpus=[GPU])
    Attempt.objects.create(
        job=job, number=1, host=host, launched=True, gpus=[GPU], created_at=timezone.now() - timedelta(seconds=90)
    )

    def line(begin: float) -> list[HostSample]:
        return [HostSample(time=begin + n, values={f"{GPU}/power_draw_watts": 100.0}) for n in range(21)]

    store(host, line(before))
    host.clock_skew_seconds = skew + jump
    store(host, line(before + 21 + jump))
    row = EnergyAccount.objects.get(job=job)
    assert row.joules == pytest.approx(4000)
    assert row.covered_seconds == pytest.approx(40)


def test_the_hosts_clock_may_run_ahead_of_ours() -> None:
    host = factories.make_host(clock_skew_seconds=50.0)
    job = running(host, -40, -20)  # 10 to 30 by the host's clock
    store(host, samples(wave, 0, 40), 40)
    row = EnergyAccount.objects.get(job=job)
    assert row.joules == pytest.approx(joules_of(wave, 10, 30), rel=0.01)


def test_it_costs_one_query_without_a_job_and_four_at_most_with_one() -> None:
    host = factories.make_host()
    with CaptureQueriesContext(
        connection,
    ) as idle:
        energy.account(host, samples(wave, 0, 1))
    assert len(idle) == 1
    running(host, 0)
    energy.account(host, samples(wave, 0, 1))
    with CaptureQueriesContext(connection) as busy:
        energy.account(host, [sample(2, 100.0)])
    assert len([query for query in busy if "SAVEPOINT" not in query["sql"]]) <= 4
    assert EnergyAccount.objects.count() == 1


def test_the_live_topic_hears_of_it_every_few_seconds() -> None:
    host = factories.make_host()
    run = factories.make_run(status=Status.RUNNING)
    Job.objects.filter(pk=run.job_id).update(gpus=[GPU], host=host)
    running(host, 0, job=Job.objects.get(pk=run.job_id))
    store(host, samples(wave, 0, 20))
    told = LiveMessage.objects.filter(topic=f"run:{run.pk}", kind="energy")
    assert 4 <= told.count() <= 5
    assert told.latest("seq").data["joules"] > 0


# --- What is said -----------------------------------------------------------------------------------------------------


def measured_run(seconds: int = 100, watts: float = 180.0, **fields: Any) -> Run:
    host = factories.make_host()
    run = factories.make_run(status=Status.RUNNING, **fields)
    Job.objects.filter(pk=run.job_id).update(gpus=[GPU], host=host, started_at=moment(0))
    running(host, 0, job=Job.objects.get(pk=run.job_id))
    store(host, samples(lambda _: watts, 0, seconds), 600)
    return Run.objects.select_related("job", "dataset", "model").get(pk=run.pk)


def test_figures_of_a_run(client: Client) -> None:
    run = measured_run(last={"tokens": 9000.0})
    found = run_facts.facts(run)["energy"]
    assert found["joules"] == pytest.approx(18_000)
    assert found["watt_hours"] == pytest.approx(5)
    assert found["kwh"] == pytest.approx(0.005)
    assert found["mean_watts"] == pytest.approx(180)
    assert found["joules_per_token"] == pytest.approx(2)
    assert (found["cost"], found["currency"]) == (None, None)
    settings.put(SYSTEM, "energy.price_per_kwh", 0.3)
    settings.put(SYSTEM, "energy.currency", "CHF")
    told = factories.make_client("read").get(f"/api/runs/{run.pk}").json()["energy"]
    assert (told["cost"], told["currency"]) == (pytest.approx(0.0015), "CHF")
    listed = factories.make_client("read").get("/api/runs").json()["runs"]
    assert [item["energy"] for item in listed] == [told]


def test_a_gap_takes_its_tokens_with_it() -> None:
    run = measured_run(last={"tokens": 9000.0})
    EnergyAccount.objects.filter(job=run.job).update(gap_seconds=100)
    found = energy.of_run(Run.objects.get(pk=run.pk))
    assert found is not None
    assert found["joules_per_token"] == pytest.approx(4)


def test_without_a_reading_there_is_no_figure_but_a_reason() -> None:
    host = factories.make_host()
    waiting, plain = factories.make_run(), factories.make_run(status=Status.RUNNING)
    Job.objects.filter(pk=plain.job_id).update(started_at=moment(0))
    plain.job.refresh_from_db()
    running(host, 0, job=plain.job, gpus=[])
    store(host, samples(wave, 0, 5))
    for run, word in ((waiting, "once it runs"), (plain, "no GPU")):
        assert energy.of_run(run) is None
        assert word in energy.absence(run.job)
        assert factories.make_client("read").get(f"/api/runs/{run.pk}").json()["energy"] is None
    mute = running(host, 0, gpus=["GPU-7"])
    store(host, samples(wave, 6, 20))
    assert EnergyAccount.objects.get(job=mute).covered_seconds == 0
    assert energy.absence(mute) == energy.NO_SENSOR


def ready_deployment(host: Host) -> Deployment:
    deployment = factories.make_deployment(attempt_number=1, ready_at=moment(10))
    Job.objects.filter(pk=deployment.job_id).update(gpus=[GPU], host=host, started_at=moment(0), kind="serve")
    running(host, 0, job=Job.objects.get(pk=deployment.job_id))
    return Deployment.objects.select_related("job", "model", "host").get(pk=deployment.pk)


def serve(deployment: Deployment, **statistics: int) -> None:
    """The engine tells its figures."""
    deployment.refresh_from_db()
    Deployment.objects.filter(pk=deployment.pk).update(
        statistics=statistics, served=energy.counted(deployment.served, statistics)
    )
    deployment.refresh_from_db()


def test_figures_of_a_deployment_begin_when_it_is_ready_and_outlive_its_process() -> None:
    host = factories.make_host()
    deployment = ready_deployment(host)
    store(host, samples(lambda _: 100.0, 0, 10), 600)
    assert energy.of_deployment(deployment) is None
    energy.became_ready(deployment, {"completion_tokens": 8, "prompt_tokens": 3})
    store(host, samples(lambda _: 200.0, 11, 30), 600)
    serve(deployment, requests=5, tokens=108, prompt_tokens=43)
    serve(deployment, requests=5, tokens=108, prompt_tokens=43)
    found = energy.of_deployment(deployment)
    assert found is not None
    assert (found["requests"], found["tokens"], found["prompt_tokens"]) == (4, 100, 40)
    assert found["joules"] == pytest.approx(150 + 19 * 200)
    assert found["joules_per_token"] == pytest.approx(39.5)
    # Another process takes its place, and counts from nothing.
    energy.became_ready(deployment, {"completion_tokens": 8, "prompt_tokens": 3})
    serve(deployment, requests=2, tokens=28, prompt_tokens=13)
    again = energy.of_deployment(deployment)
    assert again is not None
    assert (again["requests"], again["tokens"], again["joules"]) == (5, 120, found["joules"])
    told = factories.make_client("read").get(f"/api/deployments/{deployment.pk}").json()["energy"]
    assert told["joules_per_request"] == pytest.approx(found["joules"] / 5)


def test_a_window_of_readings_is_integrated_with_its_gaps() -> None:
    readings = [Reading(at, 100.0) for at in (0, 1, 2, 10, 11, 12)]
    found = energy.integrate(readings, 0.5, 13)
    assert found.joules == pytest.approx(350)
    assert found.covered_seconds == pytest.approx(3.5)
    assert found.gap_seconds == pytest.approx(9)


def test_the_dispatcher_accounts_what_a_poll_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    host = factories.make_host()
    job = running(host, 0)
    agent = AbsentHost()
    agent.reading = {**host.reading, "time": START + 30}
    monkeypatch.setattr(dispatch, "carrier", lambda _host: agent)
    for end in (15, 30):
        agent.samples = samples(wave, 0, end)
        dispatch.poll(host)
    row = EnergyAccount.objects.get(job=job)
    assert row.joules == pytest.approx(joules_of(wave, 0, 30), rel=0.01)


# --- Days -------------------------------------------------------------------------------------------------------------


def minutes(host: Host, gpu: str, begin: datetime, watts: Sequence[float | None]) -> None:
    """The means of minutes, as telemetry keeps them."""
    for number, mean in enumerate(watts):
        values: dict[str, Any] = {"cpu_percent": [1, 2, 3]}
        if mean is not None:
            values[f"{gpu}/power_draw_watts"] = [mean - 5, mean, mean + 5]
        at = begin + timedelta(minutes=number)
        TelemetrySample.objects.create(host=host, time=at, resolution_seconds=60, values=values)


def test_days_of_each_gpu_with_their_cost() -> None:
    host = factories.make_host("tower")
    card = factories.make_gpu(host, 0, uuid=GPU)
    midnight = datetime(2026, 3, 2, tzinfo=timezone.get_default_timezone())
    minutes(host, card.uuid, midnight - timedelta(minutes=2), [60.0, 60.0, 120.0, None, 120.0])
    settings.put(SYSTEM, "energy.price_per_kwh", 1000)
    query = {"from": "2026-03-01T00:00:00", "to": "2026-03-03T00:00:00"}
    told = factories.make_client("read").get("/api/energy", query).json()
    days = [(day["day"], day["host"], day["gpu"], day["joules"], day["covered_seconds"]) for day in told["days"]]
    assert days == [("2026-03-01", "tower", 0, 7200.0, 120.0), ("2026-03-02", "tower", 0, 14_400.0, 120.0)]
    assert told["kwh"] == pytest.approx(0.006)
    assert (told["cost"], told["currency"]) == (pytest.approx(6), "EUR")
    empty = factories.make_client("read").get("/api/energy").json()
    assert (empty["days"], empty["kwh"], empty["cost"]) == ([], None, None)


@pytest.mark.parametrize(
    "query",
    [
        {"from": "2026-03-03", "to": "2026-03-01"},
        {"from": "2026-01-01", "to": "2026-03-01"},
        {"from": "soon"},
        {"from": "0001-01-01T00:00:00"},
    ],
)
def test_a_time_that_makes_no_sense_is_refused(query: dict[str, str]) -> None:
    answer = factories.make_client("read").get("/api/energy", query)
    assert answer.status_code == 422
    assert answer.json()["faults"][0]["path"] == "from"


@pytest.mark.parametrize("year", ["0001", "1969", "9999"])
def test_an_end_that_nobody_can_mean_is_refused(year: str) -> None:
    answer = factories.make_client("read").get("/api/energy", {"to": f"{year}-12-31T23:59:59Z"})
    assert answer.status_code == 422
    assert answer.json()["faults"][0]["path"] == "to"


@pytest.mark.parametrize("days", [2, 3])
def test_days_count_the_time_that_was_measured_alone(days: int) -> None:
    """By minutes and by quarter hours: a minute of readings in a quarter of an hour is a minute."""
    host = factories.make_host("tower")
    factories.make_gpu(host, 0, uuid="GPU-0")
    start = time.time() // 900 * 900 - 7200
    told: list[HostSample] = [{"time": start + at, "values": {"GPU-0/power_draw_watts": 300.0}} for at in range(61)]
    telemetry.store(host, [*told, {"time": start + 3700, "values": {"cpu_percent": 1.0}}])
    telemetry.thin()
    end = datetime.fromtimestamp(start + 5400, UTC)
    found = energy_history.totals(end - timedelta(days=days), end)["days"]
    assert sum(row["joules"] for row in found) == pytest.approx(300 * 60, rel=0.001)
    assert sum(row["covered_seconds"] for row in found) == pytest.approx(60, abs=0.1)
