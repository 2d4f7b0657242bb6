"""Carries power sweeps out, one after the other: sets a profile, loads the engine, counts tokens and joules.

A duty's thread of the web process. Whatever happens, the power that the GPU had before is put back: what that was
stands in the sweep's `config` before anything is changed, so that a web server that was ended in the middle of a sweep
does it when it starts again.
"""

import logging
import time
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.live.announce import publish
from controlplane.models import Deployment, Gpu, Host, PowerSweep, TelemetrySample
from controlplane.models.access import Actor, Role
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.telemetry import SweepStatus
from controlplane.services import deployments, energy, power, sweeps
from controlplane.services.access import audit
from controlplane.services.energy import Reading
from controlplane.services.engine_load import EngineLoad, Target
from controlplane.services.sweeps import Result

log = logging.getLogger(__name__)
LOOK_EVERY_SECONDS = 0.25
TELL_EVERY_SECONDS = 1.0
READ_BACK_SECONDS = 15.0
"""How long the readings may take to show a limit that was set, and to come after the end of a measurement."""

WARM_UP_SHARE = 0.25
MAX_WARM_UP_SECONDS = 10.0
SAME_WATTS = 1.0
MIN_COVERED_SHARE = 0.9
CLOCK_SECONDS = 0.5
"""By how much the wall clock may differ from the steady one over a measurement."""

INTERRUPTED = "The web server was started anew in the middle of it. Start it again."


class SweepEndedError(Exception):
    """The sweep can't go on, as a sentence."""


class SweepCancelledError(Exception):
    """Somebody has cancelled it."""


class ProfileFaultError(Exception):
    """One profile can't be measured, as a sentence; the sweep goes on."""


def work() -> None:
    """The duty: ends what an earlier process left open, then carries out what waits."""
    for sweep in PowerSweep.objects.select_related("host").filter(
        status__in=(SweepStatus.RUNNING, SweepStatus.CANCELLING)
    ):
        if sweep.host.is_online:  # its power can't be put back before
            _end(sweep, SweepStatus.FAILED, INTERRUPTED)
    while (claimed := _claim()) is not None:
        _carry_out(claimed)


def _claim() -> PowerSweep | None:
    """The oldest that waits, now running, with what is to be put back at its end."""
    row = PowerSweep.objects.filter(status=SweepStatus.WAITING).order_by("pk").first()
    if row is None:
        return None
    card = _gpu(row)
    restore = None if card is None else {
        "profile": card.power_profile, "watts": card.reading.get("power_limit_watts")
    }  # fmt: skip
    config = {**row.config, "restore": restore, "asked": []}
    same = PowerSweep.objects.filter(pk=row.pk, status=SweepStatus.WAITING)
    return sweeps.get(row.pk) if same.update(status=SweepStatus.RUNNING, config=config) else None


def _carry_out(sweep: PowerSweep) -> None:
    try:
        for profile in power.PROFILES:
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
    """Sets the profile and waits until the readings show its limit; returns that. Raises ProfileFaultError."""
    _say(sweep, profile, "setting the power", 0)
    card = _gpu(sweep)
    if card is None:
        raise SweepEndedError(f"The GPU has vanished: {sweep.host.name} no longer finds it.")
    _keep(sweep, asked=[*sweep.config["asked"], profile])
    outcome = power.set_profile(_actor(sweep), card, profile)
    watts = outcome["power_limit_w"]
    if not outcome["set"] or watts is None:
        _keep(sweep, asked=sweep.config["asked"][:-1])
        raise ProfileFaultError(" ".join(filter(None, (outcome["reason"], outcome["fix"]))) or "It was refused.")
    if outcome["reason"]:  # the thermal guard holds it lower
        raise ProfileFaultError(outcome["reason"])
    began, deadline = _host_now(sweep.host), time.monotonic() + READ_BACK_SECONDS
    while time.monotonic() < deadline:
        seen = _column(sweep, "power_limit_watts", began, began + 2 * READ_BACK_SECONDS)
        if seen and seen[-1].watts is not None and abs(seen[-1].watts - watts) <= SAME_WATTS:
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
        begin, host_begin = time.monotonic(), _host_now(sweep.host)
        _run_on(sweep, load, profile, "measuring", seconds)
        end, host_end = time.monotonic(), _host_now(sweep.host)
    _say(sweep, profile, "reading the power", 0)
    _refuse_spoilt(sweep, deployment, (host_end - host_begin) - (end - begin))
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
    """What makes figures worthless: a clock that was set, another job on the GPU, another process of the engine."""
    if abs(clock_moved) > CLOCK_SECONDS:
        raise ProfileFaultError("The clock was set in the middle of the measurement.")
    card = _gpu(sweep)
    busy = sweeps.others(card, deployment.job_id) if card else ""
    if busy:
        raise ProfileFaultError(f"{busy} on this GPU too: its power would be counted.")
    same = Deployment.objects.filter(
        pk=deployment.pk, status=DeploymentStatus.READY, attempt_number=deployment.attempt_number
    )
    if not same.exists():
        raise SweepEndedError(f"The engine of {sweep.model_name} has ended in the middle of the measurement.")


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
    if any(abs(value - limit) > SAME_WATTS for value in limits):
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
        host=sweep.host, resolution_seconds=1, time__gte=energy.moment(begin), time__lte=energy.moment(end)
    ).order_by("time")
    key = f"{sweep.gpu_uuid}/{name}"
    return [Reading(at.timestamp(), values.get(key)) for at, values in rows.values_list("time", "values")]


# --- The row ----------------------------------------------------------------------------------------------------------


def _pause(sweep: PowerSweep, seconds: float = LOOK_EVERY_SECONDS) -> None:
    """Waits a little. Raises SweepCancelledError when somebody has cancelled meanwhile."""
    time.sleep(max(0.0, seconds))
    if PowerSweep.objects.filter(pk=sweep.pk, status=SweepStatus.CANCELLING).exists():
        raise SweepCancelledError


def _keep(sweep: PowerSweep, **config: Any) -> None:
    """Changes `config`, which only the sweep's own thread does."""
    sweep.config = {**sweep.config, **config}
    PowerSweep.objects.filter(pk=sweep.pk).update(config=sweep.config)


def _say(sweep: PowerSweep, profile: str, phase: str, seconds: float) -> None:
    """Stores and tells what it does now."""
    with transaction.atomic():
        _keep(sweep, progress={"profile": profile, "phase": phase, "seconds": seconds})
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
    """Puts the power back, then closes the row."""
    left = _put_back(sweep)
    recommended, reason = sweeps.recommend(sweep.results) if status == SweepStatus.DONE else ("", "")
    if status == SweepStatus.DONE and not any(row["error"] is None for row in sweep.results):
        status, error = SweepStatus.FAILED, sweep.results[0]["error"]
    fields = {
        "status": status, "recommended": recommended, "reason": reason, "ended_at": timezone.now(),
        "error": " ".join(filter(None, (error, left))), "config": {**sweep.config, "progress": None},
    }  # fmt: skip
    with transaction.atomic():
        PowerSweep.objects.filter(pk=sweep.pk).update(**fields)
        audit(_actor(sweep), f"sweep.{status}", f"sweep {sweep.pk}", recommended=recommended, error=fields["error"])
        publish("sweeps", "status", sweeps.facts(sweeps.get(sweep.pk)))


def _put_back(sweep: PowerSweep) -> str:
    """Gives the GPU its former profile or limit; returns why not, where that fails.

    A profile that somebody else has set meanwhile (a person, a schedule) is theirs, and stays.
    """
    restore, asked, card = sweep.config.get("restore"), sweep.config.get("asked"), _gpu(sweep)
    if not restore or not asked or card is None:
        return ""
    if card.power_profile not in (*asked[-2:], restore["profile"]):  # the last one may not have been set yet
        return ""
    if restore["profile"]:
        outcome = power.set_profile(_actor(sweep), card, restore["profile"])
        refusal = None if outcome["set"] else outcome["reason"]
    else:
        refusal = _put_back_watts(sweep, card, restore["watts"])
    return f"Its former power could not be put back: {refusal}" if refusal else ""


def _put_back_watts(sweep: PowerSweep, card: Gpu, watts: float | None) -> str | None:
    """A GPU for which no profile was wished gets its watts again, and no wish."""
    if watts is None:
        return "what it was is not known."
    with power.alone_with(card) as row:
        if row is None:
            return "the GPU has vanished."
        answer = power.ask_watts(row, watts)
        with transaction.atomic():
            wish = {"power_profile": "", "power_answer": None} if answer["set"] else {"power_answer": answer}
            power.store_limit(row, answer, power_set_at=timezone.now(), **wish)
            audit(_actor(sweep), "power.restore", power.label(row), **answer)
            power.tell(row)
    return None if answer["set"] else answer["reason"]


def _gpu(sweep: PowerSweep) -> Gpu | None:
    return Gpu.objects.select_related("host").filter(host=sweep.host, uuid=sweep.gpu_uuid).first()


def _actor(sweep: PowerSweep) -> Actor:
    """Whoever has started it: an admin, or they could not have."""
    return Actor(name=sweep.created_by, role=Role.ADMIN)


def _host_now(host: Host) -> float:
    """The host's clock."""
    skew = Host.objects.filter(pk=host.pk).values_list("clock_skew_seconds", flat=True).first()
    return time.time() + (skew or 0.0)
