"""What jobs draw: power samples become joules, and joules become figures. Runs in the web process.

The integral is trapezoidal, between two samples that are at most three seconds apart; time that no such pair speaks for
is a gap, which is counted and never guessed. Several jobs on one GPU share its draw in equal parts, for as long as they
run together: NVML tells the power of a card, not of a process. All times of samples are the host's clock.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, TypedDict

from django.db.models import Q
from django.utils import timezone

from controlplane.fleet.protocol import HostSample
from controlplane.live.announce import publish
from controlplane.models import Attempt, Deployment, EnergyAccount, Host, Job, Run, TelemetrySample
from controlplane.services import rollups, settings
from controlplane.services.telemetry import moment

MAX_STEP_SECONDS = rollups.GAP_SECONDS
"""Samples further apart than this say nothing of the time between them."""

TELL_EVERY_SECONDS = 5
JOULES_PER_KWH = 3_600_000.0
NO_GPU = "No power can be read on this host: no GPU."
NO_SENSOR = "No power can be read on this host: its GPU doesn't tell its draw."


@dataclass(frozen=True)
class Reading:
    """A GPU's draw at a time (Unix seconds of the host); None where it wasn't told."""

    time: float
    watts: float | None


@dataclass(frozen=True)
class Span:
    """A time in which a job held its GPUs, in the host's Unix seconds."""

    begin: float
    end: float

    def holds(self, moment: float) -> bool:
        """Whether it holds them then."""
        return self.begin <= moment < self.end


@dataclass
class Integral:
    """Joules, the seconds that they were measured in, and the seconds that nobody measured."""

    joules: float = 0.0
    covered_seconds: float = 0.0
    gap_seconds: float = 0.0

    def add(self, other: "Integral", share: float = 1.0) -> None:
        """Adds another one, of whose joules only a share counts."""
        self.joules += other.joules * share
        self.covered_seconds += other.covered_seconds
        self.gap_seconds += other.gap_seconds


class Figures(TypedDict):
    """Energy as pages and API tell it. Seconds are GPU-seconds: two GPUs for a minute are 120.

    `joules_per_token` counts the tokens of the measured time alone; `cost` is None where no price is set.
    """

    joules: float
    watt_hours: float
    kwh: float
    mean_watts: float | None
    covered_seconds: float
    gap_seconds: float
    tokens: int | None
    joules_per_token: float | None
    cost: float | None
    currency: str | None


class ServedFigures(Figures):
    """The same of a deployment since it became ready, its idle time included."""

    requests: int
    prompt_tokens: int
    joules_per_request: float | None


# --- The integral -----------------------------------------------------------------------------------------------------


def integrate(readings: Sequence[Reading], begin: float, end: float) -> Integral:
    """The energy between two times from readings in order of time."""
    total = Integral()
    edges = [Reading(-math.inf, None), *readings, Reading(math.inf, None)]
    for first, second in pairwise(edges):
        total.add(_between(first, second, begin, end))
    return total


def _between(first: Reading, second: Reading, begin: float, end: float) -> Integral:
    """The part of [begin, end] that lies between two neighbouring readings."""
    begin, end = max(begin, first.time), min(end, second.time)
    seconds = end - begin
    if not 0 < seconds < math.inf:
        return Integral()
    length = second.time - first.time
    if first.watts is None or second.watts is None or length > MAX_STEP_SECONDS:
        return Integral(gap_seconds=seconds)
    slope = (second.watts - first.watts) / length
    mean = first.watts + slope * ((begin + end) / 2 - first.time)
    return Integral(joules=seconds * mean, covered_seconds=seconds)


def _shared(first: Reading, second: Reading, mine: Sequence[Span], everyone: Iterable[Sequence[Span]]) -> Integral:
    """What one job has drawn between two readings of a GPU that all of `everyone` held in their spans."""
    everyone = list(everyone)
    edges = {edge for spans in everyone for span in spans for edge in (span.begin, span.end)}
    inner = sorted(edge for edge in edges if first.time < edge < second.time)
    total = Integral()
    for begin, end in pairwise([first.time, *inner, second.time]):
        middle = (begin + end) / 2
        if any(span.holds(middle) for span in mine):
            holders = sum(any(span.holds(middle) for span in spans) for spans in everyone)
            total.add(_between(first, second, begin, end), 1 / holders)
    return total


# --- Accounting, inside the transaction that stores samples -----------------------------------------------------------


@dataclass(frozen=True)
class Tenure:
    """An attempt's hold of GPUs. `topic`: where those look who watch it ("run:7"), empty for a job of another kind."""

    job_id: int
    gpus: tuple[str, ...]
    span: Span
    topic: str


def account(host: Host, samples: Sequence[HostSample]) -> None:
    """Adds what samples (oldest first) say to the accounts of the jobs that held this host's GPUs meanwhile.

    An account's `last_time` is its cursor: a batch that comes twice counts once. A cursor that lies ahead of the host's
    clock is of before somebody set that clock back: the account goes on from the new time.
    """
    if not samples:
        return
    tenures = _tenures(host, samples)
    if not tenures:
        return
    holders: dict[str, dict[int, list[Span]]] = {}
    for tenure in tenures:
        for uuid in tenure.gpus:
            holders.setdefault(uuid, {}).setdefault(tenure.job_id, []).append(tenure.span)
    jobs = {tenure.job_id for tenure in tenures}
    known = {(row.job_id, row.gpu_uuid): row for row in EnergyAccount.objects.filter(job__in=jobs)}
    changed, due = [], {tenure.job_id for tenure in tenures if tenure.span.end < math.inf}
    for uuid, held in holders.items():
        readings = [Reading(sample["time"], sample["values"].get(f"{uuid}/power_draw_watts")) for sample in samples]
        for job_id in held:
            row = known.get((job_id, uuid)) or EnergyAccount(job_id=job_id, gpu_uuid=uuid)
            before = row.last_time or 0.0
            if _advance(host, row, readings, held):
                changed.append(row)
                if before // TELL_EVERY_SECONDS != (row.last_time or 0.0) // TELL_EVERY_SECONDS:
                    due.add(job_id)
    _save(changed)
    _tell(tenures, [row for row in changed if row.job_id in due])


def _tenures(host: Host, samples: Sequence[HostSample]) -> list[Tenure]:
    """Who held GPUs of the host while the samples were taken, or a little before. Asked every second: columns alone."""
    skew, now = host.clock_skew_seconds or 0.0, timezone.now()
    earliest = moment(samples[0]["time"] - skew - 2 * MAX_STEP_SECONDS)
    rows = Attempt.objects.filter(Q(ended_at=None) | Q(ended_at__gte=earliest), host=host)
    columns = rows.values("job_id", "gpus", "created_at", "ended_at", "exit", "job__run", "job__deployment")
    return [
        Tenure(
            job_id=row["job_id"], gpus=tuple(row["gpus"]),
            span=_span(skew, now, row["created_at"], row["ended_at"], row["exit"]),
            topic=_topic(row["job__run"], row["job__deployment"]),
        )
        for row in columns
        if row["gpus"]
    ]  # fmt: skip


def _topic(run: int | None, deployment: int | None) -> str:
    return f"run:{run}" if run else f"deployment:{deployment}" if deployment else ""


def _span(
    skew: float, now: datetime, created: datetime, ended: datetime | None, told: Mapping[str, Any] | None
) -> Span:
    """When an attempt held its GPUs, by the host's clock: its supervisor wrote down the end (`exit.json`) with that."""
    begin = created.timestamp() + skew
    if ended is None:
        # One that runs has begun, whatever its date says after the clock was set back.
        return Span(-math.inf if created > now else begin, math.inf)
    end = (told or {}).get("ended_at")
    return Span(begin, float(end) if end is not None else ended.timestamp() + skew)


def _advance(host: Host, row: EnergyAccount, readings: Sequence[Reading], held: Mapping[int, Sequence[Span]]) -> bool:
    """Moves an account on to the last reading. Returns whether the job held the GPU in any of that time."""
    last = None if row.last_time is None else Reading(row.last_time, row.last_watts)
    if last is not None and _was_set_back(host, last.time, readings[-1].time):
        last = None
    fresh = [reading for reading in readings if last is None or reading.time > last.time]
    if not fresh:
        return False
    begun = last or Reading(-math.inf, None)
    if fresh[0].time - begun.time > MAX_STEP_SECONDS:
        fresh = [*_reading_before(host, row.gpu_uuid, begun.time, fresh[0].time), *fresh]
    total = Integral()
    for first, second in pairwise([begun, *fresh]):
        total.add(_shared(first, second, held[row.job_id], held.values()))
    row.joules += total.joules
    row.covered_seconds += total.covered_seconds
    row.gap_seconds += total.gap_seconds
    row.last_time, row.last_watts = fresh[-1].time, fresh[-1].watts
    return total.covered_seconds + total.gap_seconds > 0


def _was_set_back(host: Host, cursor: float, newest: float) -> bool:
    """Whether the host's clock was set back: samples are older than the cursor, and that lies in the future."""
    return (
        newest < cursor - MAX_STEP_SECONDS
        and cursor > time.time() + (host.clock_skew_seconds or 0.0) + MAX_STEP_SECONDS
    )


def _reading_before(host: Host, uuid: str, after: float, before: float) -> list[Reading]:
    """The stored reading shortly before a time, where one lies behind another time."""
    earliest = moment(max(after, before - MAX_STEP_SECONDS))
    rows = TelemetrySample.objects.filter(host=host, resolution_seconds=1, time__gt=earliest)
    row = rows.filter(time__lt=moment(before)).order_by("-time").first()
    if row is None:
        return []
    return [Reading(row.time.timestamp(), row.values.get(f"{uuid}/power_draw_watts"))]


def _save(rows: Sequence[EnergyAccount]) -> None:
    """Stores accounts, new and old, in one statement."""
    if rows:
        figures = ["joules", "covered_seconds", "gap_seconds", "last_time", "last_watts"]
        EnergyAccount.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["job", "gpu_uuid"], update_fields=figures
        )


def _tell(tenures: Iterable[Tenure], grown: Iterable[EnergyAccount]) -> None:
    """Says on the topics of runs and deployments that their energy has grown: every few seconds, and at their end."""
    topics = {tenure.job_id: tenure.topic for tenure in tenures}
    joules: dict[str, float] = {}
    for row in grown:
        topic = topics[row.job_id]
        joules[topic] = joules.get(topic, 0.0) + row.joules
    for topic, amount in joules.items():
        if topic:
            publish(topic, "energy", {"joules": amount})


# --- What is said of a run and of a deployment ------------------------------------------------------------------------


def of_run(run: Run) -> Figures | None:
    """What a run's GPUs drew for it, over all its attempts. None where no power could be read: `absence` says why."""
    total = _total(run.job)
    return None if total is None else _figures(total, _tokens(run))


def _total(job: Job) -> Integral | None:
    total = Integral()
    for row in job.energy.all():
        total.add(Integral(row.joules, row.covered_seconds, row.gap_seconds))
    return total if total.covered_seconds > 0 else None


def _tokens(run: Run) -> int | None:
    """The tokens that a run has trained on, as it reports them."""
    told = (run.job.result or {}).get("tokens", run.last.get("tokens"))
    return int(told) if isinstance(told, (int, float)) else None


def _figures(total: Integral, tokens: int | None) -> Figures:
    kwh = total.joules / JOULES_PER_KWH
    price = float(settings.get("energy.price_per_kwh"))
    measured = _measured_share(total)
    return Figures(
        joules=total.joules, watt_hours=kwh * 1000, kwh=kwh,
        mean_watts=total.joules / total.covered_seconds if total.covered_seconds else None,
        covered_seconds=total.covered_seconds, gap_seconds=total.gap_seconds, tokens=tokens,
        joules_per_token=total.joules / (tokens * measured) if tokens and measured else None,
        cost=kwh * price if price else None, currency=settings.get("energy.currency") if price else None,
    )  # fmt: skip


def _measured_share(total: Integral) -> float:
    """The part of the time that was measured: what was done in a gap has no joules, so it doesn't count either."""
    whole = total.covered_seconds + total.gap_seconds
    return total.covered_seconds / whole if whole else 0.0


def of_deployment(deployment: Deployment) -> ServedFigures | None:
    """What a deployment's GPUs drew since it became ready. None before that, and where no power could be read."""
    total, before = _total(deployment.job), deployment.served.get("before")
    if total is None or before is None:
        return None
    since = Integral(*(value - was for value, was in zip(_parts(total), before, strict=True)))
    counts = {name: int(deployment.served.get(name, 0)) for name in COUNTED}
    measured = _measured_share(since)
    return ServedFigures(
        **_figures(since, counts["tokens"]), requests=counts["requests"], prompt_tokens=counts["prompt_tokens"],
        joules_per_request=since.joules / (counts["requests"] * measured) if counts["requests"] and measured else None,
    )  # fmt: skip


def _parts(total: Integral) -> tuple[float, float, float]:
    return total.joules, total.covered_seconds, total.gap_seconds


def absence(job: Job) -> str:
    """Why a job has no energy figures, as a sentence for its page."""
    if job.started_at is None:
        return "Energy is measured once it runs."
    if not job.gpus:
        return NO_GPU
    if any(row.gap_seconds > MAX_STEP_SECONDS for row in job.energy.all()):
        return NO_SENSOR
    return "No reading of its GPU's power has come yet."


# --- What engines served: their own figures begin anew with each process ----------------------------------------------

COUNTED = ("requests", "tokens", "prompt_tokens")


def became_ready(deployment: Deployment, check_usage: Mapping[str, Any]) -> None:
    """Notes where counting begins. Inside the transaction that makes the deployment ready.

    `check_usage` is what the test question took: it has been counted by the engine, and served nobody.
    """
    served = dict(deployment.served)
    if "before" not in served:
        served["before"] = list(_parts(_total(deployment.job) or Integral()))
    served["seen"] = {
        "requests": 1, "tokens": check_usage.get("completion_tokens") or 0,
        "prompt_tokens": check_usage.get("prompt_tokens") or 0,
    }  # fmt: skip
    Deployment.objects.filter(pk=deployment.pk).update(served=served)


def counted(served: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, Any]:
    """`Deployment.served` after an engine has told its figures: what is new since the last time is added."""
    seen = served.get("seen") or {}
    now = {name: int(statistics.get(name) or 0) for name in COUNTED}
    grown = {name: int(served.get(name, 0)) + max(0, now[name] - int(seen.get(name, 0))) for name in COUNTED}
    return {**served, **grown, "seen": now}
