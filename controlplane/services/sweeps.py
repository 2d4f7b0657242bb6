"""Power sweeps: started, cancelled, read, and what they recommend. Runs in the web process.

The measuring itself is `services.sweep_run`. A sweep belongs to one GPU and to the engine that serves its model there.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

from django.db import IntegrityError, transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Deployment, Gpu, Job, PowerSweep
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Status
from controlplane.models.telemetry import OPEN_SWEEPS, SweepStatus
from controlplane.moments import iso
from controlplane.services import deployments, models, power
from controlplane.services.access import audit
from controlplane.services.power_profiles import label

MIN_SHARE = 0.90
"""A profile is recommended only if it gives at least this share of the fastest one's tokens a second."""

PROMPT = "Tell a long story about a ship and its crew."
SECONDS = (5, 600)
CONCURRENCY = (1, 64)
MAX_TOKENS = (8, 2048)
ACTIVATE = "Activate it on the Models page; its engine takes a GPU where there is one."


class Result(TypedDict):
    """What one profile came to. `error` says why there are no figures; `watts` is the limit that was read back."""

    profile: str
    watts: float | None
    tokens_per_second: float | None
    joules_per_token: float | None
    mean_draw_watts: float | None
    seconds: float | None
    tokens: float | None
    error: str | None


# --- Starting and ending ----------------------------------------------------------------------------------------------


def start(
    actor: Actor,
    model: str,
    *,
    host: str | None = None,
    gpu: int | None = None,
    seconds_per_profile: int = 30,
    concurrency: int = 4,
    max_tokens: int = 128,
) -> PowerSweep:
    """Queues a sweep of a served model on the GPU of its engine; `host` and `gpu` only check which one that is.

    Raises InvalidInputError for a figure out of range, NotFoundError for the model, ConflictError where no engine of
    it is ready on a GPU whose power can be read, where something else works on that GPU, or sweeps it already.
    """
    actor.require(Role.ADMIN)
    _check("seconds_per_profile", seconds_per_profile, SECONDS)
    _check("concurrency", concurrency, CONCURRENCY)
    _check("max_tokens", max_tokens, MAX_TOKENS)
    deployment, card = _engine_and_gpu(models.get(model).name, host, gpu)
    _refuse_unmeasurable(deployment, card)
    config = {
        "seconds_per_profile": seconds_per_profile, "concurrency": concurrency, "max_tokens": max_tokens,
        "prompt": PROMPT, "gpu_index": card.index, "gpu_name": card.name,
    }  # fmt: skip
    try:
        with transaction.atomic():
            sweep = PowerSweep.objects.create(
                model_name=model, host=card.host, gpu_uuid=card.uuid, config=config, created_by=actor.name
            )
            audit(actor, "sweep.start", label(card), sweep=sweep.pk, model=model)
            publish("sweeps", "status", facts(sweep))
    except IntegrityError:
        raise ConflictError(f"A sweep of {label(card)} is open already: wait for its end, or cancel it.") from None
    return sweep


def _check(name: str, value: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not low <= value <= high:
        fault = FieldFault(name, f"{low} to {high}")
        raise InvalidInputError(f"{name} must lie between {low} and {high}, not {value}.", (fault,))


def _engine_and_gpu(model: str, host: str | None, gpu: int | None) -> tuple[Deployment, Gpu]:
    deployment = deployments.serving(model)
    if deployment is None or deployment.host is None:
        raise ConflictError(f"{model} is not being served. {ACTIVATE}")
    card = engine_gpu(deployment)
    if card is None:
        raise ConflictError(
            f"The engine of {model} runs on the processor of {deployment.host.name}: a sweep needs it on a GPU. "
            f"{ACTIVATE}"
        )
    if (host is not None and host != card.host.name) or (gpu is not None and gpu != card.index):
        raise ConflictError(f"{model} is served on {label(card)}, not there. Start the sweep without a host or GPU.")
    return deployment, card


def engine_gpu(deployment: Deployment) -> Gpu | None:
    """The GPU that an engine runs on; None where it runs on the processor."""
    rows = Gpu.objects.select_related("host").filter(host=deployment.host, uuid__in=deployment.job.gpus)
    return rows.order_by("index").first()


def _refuse_unmeasurable(deployment: Deployment, card: Gpu) -> None:
    if not card.host.is_online:
        raise ConflictError(f"{card.host.name} doesn't answer: start its agent (bin/up) first.")
    if card.reading.get("power_draw_watts") is None:
        why = card.reading.get("fault") or "the card doesn't tell its draw."
        raise ConflictError(f"No power can be read on {label(card)}: {why} So there is nothing to measure.")
    if card.heat_level > 0:
        raise ConflictError(f"{label(card)} is too hot: the thermal guard rules its power until it has cooled.")
    busy = others(card, deployment.job_id)
    if busy:
        raise ConflictError(f"{busy} on {label(card)} too: its power would be counted. Wait for its end, or pause it.")


def others(card: Gpu, job_id: int) -> str:
    """Who works on a GPU beside a job: "run 7 works"; empty where nobody does."""
    for job in Job.objects.filter(status=Status.RUNNING, host=card.host).exclude(pk=job_id).select_related("run"):
        if card.uuid in job.gpus:
            run = getattr(job, "run", None)
            return f"Run {run.pk} works" if run is not None else f"The {job.kind} job {job.pk} works"
    return ""


def cancel(actor: Actor, sweep_id: int) -> PowerSweep:
    """Ends a sweep; what was measured stays, and the former power limit is put back."""
    actor.require(Role.ADMIN)
    with transaction.atomic():
        sweep = get(sweep_id)
        if sweep.status not in OPEN_SWEEPS:
            raise ConflictError(f"Sweep {sweep_id} is {sweep.status} already.")
        waiting = PowerSweep.objects.filter(pk=sweep_id, status=SweepStatus.WAITING)
        if not waiting.update(status=SweepStatus.CANCELLED, ended_at=timezone.now()):
            PowerSweep.objects.filter(pk=sweep_id, status=SweepStatus.RUNNING).update(status=SweepStatus.CANCELLING)
        audit(actor, "sweep.cancel", f"sweep {sweep_id}", model=sweep.model_name)
        publish("sweeps", "status", facts(get(sweep_id)))
    return get(sweep_id)


def use(actor: Actor, sweep_id: int) -> power.Outcome:
    """Sets the profile that a sweep recommends on its GPU. Raises ConflictError where it recommends none."""
    actor.require(Role.ADMIN)
    sweep = get(sweep_id)
    if not sweep.recommended:
        raise ConflictError(f"Sweep {sweep_id} recommends no profile.")
    card = Gpu.objects.select_related("host").filter(host=sweep.host, uuid=sweep.gpu_uuid).first()
    if card is None:
        raise NotFoundError(f"The GPU of sweep {sweep_id} is no longer known on {sweep.host.name}.")
    return power.set_profile(actor, card, sweep.recommended)


# --- Reading ----------------------------------------------------------------------------------------------------------


def get(sweep_id: int) -> PowerSweep:
    """The sweep. Raises NotFoundError."""
    sweep = PowerSweep.objects.select_related("host").filter(pk=sweep_id).first()
    if sweep is None:
        raise NotFoundError(f"There is no power sweep {sweep_id}.")
    return sweep


def keep(sweep: PowerSweep, **config: Any) -> None:
    """Changes some of a sweep's `config`, which only the thread that carries it out does."""
    sweep.config = {**sweep.config, **config}
    PowerSweep.objects.filter(pk=sweep.pk).update(config=sweep.config)


def candidates() -> list[tuple[Deployment, Gpu]]:
    """The ready engines that run on a GPU, with it: what a sweep may be started for."""
    served = [row for row in deployments.list_deployments(500) if row.status == "ready" and row.host is not None]
    pairs = [(row, engine_gpu(row)) for row in served]
    return [(row, card) for row, card in pairs if card is not None]


def facts(sweep: PowerSweep) -> dict[str, Any]:
    """A sweep as the API and the live topic tell it."""
    config = sweep.config
    return {
        "id": sweep.pk, "model": sweep.model_name, "host": sweep.host.name, "gpu": config.get("gpu_index"),
        "gpu_uuid": sweep.gpu_uuid, "gpu_name": config.get("gpu_name", ""), "status": sweep.status,
        "seconds_per_profile": config.get("seconds_per_profile"), "concurrency": config.get("concurrency"),
        "max_tokens": config.get("max_tokens"), "progress": config.get("progress"), "results": sweep.results,
        "recommended": sweep.recommended or None, "reason": sweep.reason, "error": sweep.error,
        "created_by": sweep.created_by, "created_at": sweep.created_at.isoformat(),
        "ended_at": iso(sweep.ended_at),
    }  # fmt: skip


# --- What it recommends -----------------------------------------------------------------------------------------------


def recommend(results: Sequence[Result]) -> tuple[str, str]:
    """The profile to take and the reason as a sentence; no profile where there is nothing to compare.

    The fewest joules a token win, among the profiles that give at least 90 % of the fastest one's tokens a second.
    """
    measured = [row for row in results if row["tokens_per_second"] and row["joules_per_token"]]
    if len(measured) < 2:
        one = f"Only {_name(measured[0])} could be measured" if measured else "No profile could be measured"
        return "", f"{one}: there is nothing to compare."
    fastest, thriftiest = max(measured, key=_rate), min(measured, key=_thrift)
    best = min((row for row in measured if _rate(row) >= MIN_SHARE * _rate(fastest)), key=_thrift)
    rate, thrift = _percent(_rate(best) / _rate(fastest)), _percent(_thrift(best) / _thrift(fastest))
    if best is not fastest:
        much = f"{rate} of the tokens a second of {_name(fastest)} at {thrift} of the joules a token"
        return best["profile"], f"{_name(best)} gives {much}."
    if thriftiest is fastest:
        return best["profile"], f"{_name(best)} is the fastest, and no other profile takes fewer joules a token."
    rate, thrift = _percent(_rate(thriftiest) / _rate(best)), _percent(_thrift(thriftiest) / _thrift(best))
    return best["profile"], (
        f"{_name(best)} is the fastest. {_name(thriftiest)} takes {thrift} of its joules a token, but gives {rate} of "
        f"its tokens a second, and nothing under {_percent(MIN_SHARE)} is recommended."
    )


def _rate(row: Result) -> float:
    return row["tokens_per_second"] or 0.0


def _thrift(row: Result) -> float:
    return row["joules_per_token"] or 0.0


def _name(row: Result) -> str:
    return row["profile"].capitalize()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
