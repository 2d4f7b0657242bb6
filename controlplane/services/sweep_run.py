"""Carries power sweeps out, one after the other: sets a profile, loads the engine, counts tokens and joules.

A duty's thread of the web process. Whatever happens, the power that the GPU had before is put back: what that was
stands in the sweep's `config` before anything is changed, so that a web server that was ended in the middle of a sweep
does it when it starts again.
"""

import logging
import time
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from controlplane.live.announce import publish
from controlplane.models import Attempt, Deployment, Host, PowerSweep, TelemetrySample
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.telemetry import SweepStatus
from controlplane.services import deployments, energy, power_profiles, sweep_power, sweeps, telemetry
from controlplane.services.access import audit
from controlplane.services.energy import Reading
from controlplane.services.engine_load import EngineLoad, Target
from controlplane.services.sweep_power import ProfileFaultError, SweepEndedError
from controlplane.services.sweeps import Result

log = logging.getLogger(__name__)
LOOK_EVERY_SECONDS = 0.25
TELL_EVERY_SECONDS = 1.0
READ_BACK_SECONDS = 15.0
"""How long the readings may take to show a limit that was set, and to come after the end of a measurement."""

WARM_UP_SHARE = 0.25
MAX_WARM_UP_SECONDS = 10.0
MIN_COVERED_SHARE = 0.9
CLOCK_SECONDS = 0.5
"""By how much the wall clock may differ from the steady one over a measurement."""

PUT_BACK_AGAIN_SECONDS = 30.0
"""After a put-back that was refused."""

INTERRUPTED = "The web server was started anew in the middle of it. Start it again."


class SweepCancelledError(Exception):
    """Somebody has cancelled it."""


def work() -> None:
    """The duty: ends what an earlier process, or a refusal, left open, then carries out what waits."""
    for sweep in PowerSweep.objects.select_related("host").filter(
        status__in=(SweepStatus.RUNNING, SweepStatus.CANCELLING)
    ):
        ending = sweep.config.get("ending") or {"status": SweepStatus.FAILED, "error": INTERRUPTED, "tried_at": 0.0}
        has_waited = not 0 <= time.time() - ending["tried_at"] < PUT_BACK_AGAIN_SECONDS
        if sweep.host.is_online and has_waited:  # its power can't be put back before
            _end(sweep, ending["status"], ending["error"])
    while (claimed := _claim()) is not None:
        _carry_out(claimed)


def _claim() -> PowerSweep | None:
    """The oldest that waits, now running, with what is to be put back at its end."""
    row = PowerSweep.objects.filter(status=SweepStatus.WAITING).order_by("pk").first()
    if row is None:
        return None
    card = sweep_power.card_of(row)
    config = {**row.config, "restore": None if card is None else sweep_power.before(card), "asked": False}
    same = PowerSweep.objects.filter(pk=row.pk, status=SweepStatus.WAITING)
    return sweeps.get(row.pk) if same.update(status=SweepStatus.RUNNING, config=config) else None


def _carry_out(sweep: PowerSweep) -> None:
    try:
        for profile in power_profiles.PROFILES:
            _store_result(sweep, _measure(sweep, profile))
    except SweepCancelledError:
        _end(sweep, SweepStatus.CANCELLED)
    except SweepEndedError as error:
        _end(sweep, SweepStatus.FAILED, str(error))
    except Exception as error:  # the power must be put back, and the row must not stay open
        log.exception("sweep %s stumbled", sweep.pk)
        _end(sweep, SweepStatus.FAILED, f"It stumbled: {type(error).__name__}: {error}. The web server's log has more.")
    else:
        _end(sweep, SweepStatus.DONE)


# --- One profile ------------------------------------------------------------------------------------------------------


def _measure(sweep: PowerSweep, profile: str) -> Result:
    """Sets one profile and measures under it. A refusal, or what spoils the figures, becomes the row's error."""
    row = Result(
        profile=profile, watts=None, tokens_per_second=None, joules_per_token=None, mean_draw_watts=None, seconds=None,
        tokens=None, error=None,
    )  # fmt: skip
    try:
        watts = row["watts"] = _set(sweep, profile)
        row.update(_figures(sweep, profile, watts))  # type: ignore[typeddict-item] # its own keys
    except ProfileFaultError as error:
        row["error"] = str(error)
    return row


def _set(sweep: PowerSweep, profile: str) -> float:
    """Sets the profile and waits until the readings show its limit; returns that.

    Raises ProfileFaultError and SweepEndedError.
    """
    _say(sweep, profile, "setting the power", 0)
    watts = sweep_power.set_profile(sweep, profile)
    began, deadline = _host_now(sweep.host), time.monotonic() + READ_BACK_SECONDS
    while time.monotonic() < deadline:
        seen = _column(sweep, "power_limit_watts", began, began + 2 * READ_BACK_SECONDS)
        if seen and seen[-1].watts is not None and abs(seen[-1].watts - watts) <= power_profiles.TOLERANCE_WATTS:
            return watts
        _pause(sweep)
    raise ProfileFaultError(f"It was set to {watts:g} W, but no reading has shown that within {READ_BACK_SECONDS:g} s.")


def _figures(sweep: PowerSweep, profile: str, watts: float) -> dict[str, Any]:
    """Loads the engine for a while and counts. Raises ProfileFaultError and SweepEndedError."""
    seconds = float(sweep.config["seconds_per_profile"])
    warm_up = min(MAX_WARM_UP_SECONDS, WARM_UP_SHARE * seconds)
    deployment = _engine(sweep)
    with EngineLoad(_target(sweep, deployment), sweep.config["concurrency"]) as load:
        _say(sweep, profile, "warming up", warm_up)
        _run_on(sweep, load, profile, "warming up", warm_up)
        _say(sweep, profile, "measuring", seconds)
        begin, host_begin, began_at = time.monotonic(), _host_now(sweep.host), timezone.now()
        _run_on(sweep, load, profile, "measuring", seconds)
        end, host_end = time.monotonic(), _host_now(sweep.host)
    if load.fault is not None:  # a text of the measured time was cut off afterwards: its tokens are missing
        raise SweepEndedError(load.fault)
    _say(sweep, profile, "reading the power", 0)
    _refuse_spoilt(sweep, deployment, (host_end - host_begin) - (end - begin))
    _refuse_company(sweep, deployment, began_at)
    tokens = load.tokens_between(begin, end)
    mean_watts = _mean_watts(sweep, host_begin, host_end, watts)
    rate = tokens / (end - begin)
    if rate <= 0:
        raise ProfileFaultError("The engine gave no token in this time: take more seconds a profile.")
    return {
        "tokens_per_second": round(rate, 3), "joules_per_token": round(mean_watts / rate, 5),
        "mean_draw_watts": round(mean_watts, 2), "seconds": round(end - begin, 3), "tokens": round(tokens, 1),
    }  # fmt: skip


def _engine(sweep: PowerSweep) -> Deployment:
    """The engine, ready and on this GPU still. Raises SweepEndedError."""
    deployment = deployments.serving(sweep.model_name)
    if deployment is None or deployment.port is None or sweep.gpu_uuid not in deployment.job.gpus:
        raise SweepEndedError(f"{sweep.model_name} is no longer served on this GPU: activate it, then start again.")
    return deployment


def _target(sweep: PowerSweep, deployment: Deployment) -> Target:
    config = sweep.config
    return Target(
        base_url=deployments.base_url(deployment), headers=deployments.headers(deployment),
        model_name=sweep.model_name, prompt=config["prompt"], max_tokens=config["max_tokens"],
    )  # fmt: skip


def _run_on(sweep: PowerSweep, load: EngineLoad, profile: str, phase: str, seconds: float) -> None:
    """Lets the load run for so long and tells how far it is. Raises SweepEndedError when the engine breaks off."""
    begin, told = time.monotonic(), 0.0
    while (elapsed := time.monotonic() - begin) < seconds:
        if load.fault is not None:
            raise SweepEndedError(load.fault)
        if elapsed - told >= TELL_EVERY_SECONDS:
            told = elapsed
            _tell_progress(sweep, profile, phase, elapsed, seconds)
        _pause(sweep, min(LOOK_EVERY_SECONDS, seconds - elapsed))


def _refuse_spoilt(sweep: PowerSweep, deployment: Deployment, clock_moved: float) -> None:
    """What makes figures worthless: a clock that was set, somebody else's limit, another process of the engine."""
    if abs(clock_moved) > CLOCK_SECONDS:
        raise ProfileFaultError("The clock was set in the middle of the measurement.")
    card = sweep_power.card_of(sweep)
    if card is not None:
        sweep_power.refuse_taken(sweep, card)
    same = Deployment.objects.filter(
        pk=deployment.pk, status=DeploymentStatus.READY, attempt_number=deployment.attempt_number
    )
    if not same.exists():
        raise SweepEndedError(f"The engine of {sweep.model_name} has ended in the middle of the measurement.")


def _refuse_company(sweep: PowerSweep, deployment: Deployment, began_at: datetime) -> None:
    """Other jobs on the GPU, now or for a while since the measurement began. Raises ProfileFaultError."""
    card = sweep_power.card_of(sweep)
    busy = sweeps.others(card, deployment.job_id) if card else ""
    if busy:
        raise ProfileFaultError(f"{busy} on this GPU too: its power would be counted.")
    attempts = Attempt.objects.filter(Q(ended_at=None) | Q(ended_at__gte=began_at), host=sweep.host)
    for attempt in attempts.exclude(job_id=deployment.job_id):
        if sweep.gpu_uuid in attempt.gpus:
            raise ProfileFaultError(f"Job {attempt.job_id} worked on this GPU too: its power would be counted.")


def _mean_watts(sweep: PowerSweep, begin: float, end: float, limit: float) -> float:
    """The mean draw between two times of the host, from its stored samples. Raises ProfileFaultError."""
    deadline = time.monotonic() + READ_BACK_SECONDS
    margin = energy.MAX_STEP_SECONDS
    while True:
        readings = _column(sweep, "power_draw_watts", begin - margin, end + margin)
        if (readings and readings[-1].time >= end) or time.monotonic() >= deadline:
            break
        _pause(sweep)
    limits = [row.watts for row in _column(sweep, "power_limit_watts", begin, end) if row.watts is not None]
    if any(abs(value - limit) > power_profiles.TOLERANCE_WATTS for value in limits):
        raise ProfileFaultError("The power limit was changed by something else in the middle of the measurement.")
    found = energy.integrate(readings, begin, end)
    if found.covered_seconds < MIN_COVERED_SHARE * (end - begin):
        raise ProfileFaultError(
            f"The power was read for {found.covered_seconds:.0f} of {end - begin:.0f} s alone: too little to judge by."
        )
    return found.joules / found.covered_seconds


def _column(sweep: PowerSweep, name: str, begin: float, end: float) -> list[Reading]:
    """One figure of the sweep's GPU between two times of the host, from its one-second samples."""
    rows = TelemetrySample.objects.filter(
        host=sweep.host, resolution_seconds=1, time__gte=telemetry.moment(begin), time__lte=telemetry.moment(end)
    ).order_by("time")
    key = f"{sweep.gpu_uuid}/{name}"
    return [Reading(at.timestamp(), values.get(key)) for at, values in rows.values_list("time", "values")]


# --- The row ----------------------------------------------------------------------------------------------------------


def _pause(sweep: PowerSweep, seconds: float = LOOK_EVERY_SECONDS) -> None:
    """Waits a little. Raises SweepCancelledError when somebody has cancelled meanwhile."""
    time.sleep(max(0.0, seconds))
    if PowerSweep.objects.filter(pk=sweep.pk, status=SweepStatus.CANCELLING).exists():
        raise SweepCancelledError


def _say(sweep: PowerSweep, profile: str, phase: str, seconds: float) -> None:
    """Stores and tells what it does now."""
    with transaction.atomic():
        sweeps.keep(sweep, progress={"profile": profile, "phase": phase, "seconds": seconds})
        publish("sweeps", "status", sweeps.facts(sweep))


def _tell_progress(sweep: PowerSweep, profile: str, phase: str, done: float, total: float) -> None:
    told = {"id": sweep.pk, "profile": profile, "phase": phase, "done": round(done, 1), "total": total}
    with transaction.atomic():
        publish("sweeps", "progress", told)


def _store_result(sweep: PowerSweep, row: Result) -> None:
    with transaction.atomic():
        sweep.results = [*sweep.results, dict(row)]
        PowerSweep.objects.filter(pk=sweep.pk).update(results=sweep.results)
        publish("sweeps", "status", sweeps.facts(sweep))


def _end(sweep: PowerSweep, status: str, error: str = "") -> None:
    """Puts the power back, then closes the row; where that is refused, the row stays open and `work` tries again."""
    left = sweep_power.put_back(sweep)
    if not left.is_done:
        _leave_open(sweep, status, error, left.sentence)
        return
    recommended, reason = sweeps.recommend(sweep.results) if status == SweepStatus.DONE else ("", "")
    if status == SweepStatus.DONE and not any(row["error"] is None for row in sweep.results):
        status, error = SweepStatus.FAILED, sweep.results[0]["error"]
    fields = {
        "status": status, "recommended": recommended, "reason": reason, "ended_at": timezone.now(),
        "error": " ".join(filter(None, (error, left.sentence))),
        "config": {**sweep.config, "progress": None, "ending": None},
    }  # fmt: skip
    with transaction.atomic():
        PowerSweep.objects.filter(pk=sweep.pk).update(**fields)
        who, told = sweep_power.actor(sweep), {"recommended": recommended, "error": fields["error"]}
        audit(who, f"sweep.{status}", f"sweep {sweep.pk}", **told)
        publish("sweeps", "status", sweeps.facts(sweeps.get(sweep.pk)))


def _leave_open(sweep: PowerSweep, status: str, error: str, refusal: str) -> None:
    """Keeps how it ends until the power is put back."""
    ending = {"status": status, "error": error, "tried_at": time.time()}
    progress = {"profile": "", "phase": "putting the power back", "seconds": 0}
    said = f"{refusal} It is tried again, until that works or somebody sets a profile there."
    is_new, sweep.error = sweep.error != said, said
    with transaction.atomic():
        PowerSweep.objects.filter(pk=sweep.pk).update(status=SweepStatus.CANCELLING, error=said)
        sweeps.keep(sweep, ending=ending, progress=progress)
        if is_new:
            publish("sweeps", "status", sweeps.facts(sweeps.get(sweep.pk)))


def _host_now(host: Host) -> float:
    """The host's clock."""
    skew = Host.objects.filter(pk=host.pk).values_list("clock_skew_seconds", flat=True).first()
    return time.time() + (skew or 0.0)
