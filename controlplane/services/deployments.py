"""Models being served: started, checked by a real generation, switched to, drained. Runs in the web process."""

import hashlib
import hmac
import logging
from typing import Any

import httpx
from django.conf import settings as django_settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from controlplane.errors import ConflictError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Attempt, Deployment, Host, Job
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.deployments import LIVE, DeploymentStatus
from controlplane.models.jobs import Desired, Kind, Status
from controlplane.models.language_models import ModelState
from controlplane.services import bell, energy, jobs, models, settings
from controlplane.services.access import audit

log = logging.getLogger(__name__)
CHECK_TIMEOUT_SECONDS = 120
STATISTICS_TIMEOUT_SECONDS = 2
CHECK_TOKENS = 8


def activate(actor: Actor, model_name: str, *, host: Host | None = None, again: bool = False) -> Deployment:
    """Starts an engine for a model; once it answers, it takes the active one's place.

    A model that is active and ready already is left alone unless `again`. An activation that is still on its way to
    another model gives up its wish to be active: the last one asked wins.
    """
    actor.require(Role.ADMIN)
    model = models.get(model_name)
    if model.state != ModelState.READY:
        raise ConflictError(f"The model {model.name} is {model.state}: only a model that is ready can be activated.")
    with transaction.atomic():
        existing = _live().filter(model=model, wants_active=True).order_by("-id").first()
        if existing is not None and not again:
            for other in _live().exclude(pk=existing.pk).filter(is_active=False):
                _retire(other)
            return existing
        job = jobs.create(actor, Kind.SERVE, f"serve {model.name}", {}, host=host)
        deployment = Deployment.objects.create(model=model, job=job, created_by=actor.name)
        for older in _live().exclude(pk=deployment.pk).filter(is_active=False):
            _retire(older)
        audit(actor, "model.activate", model.name, deployment=deployment.pk)
        announce(deployment)
    return deployment


def reload(actor: Actor) -> Deployment:
    """Starts the active model's engine anew; the old one serves until the new one is ready, then drains."""
    current = active()
    if current is None:
        raise NotFoundError("No model is active: activate one first.")
    return activate(actor, current.model.name, again=True)


def _live() -> "QuerySet[Deployment]":
    return Deployment.objects.filter(status__in=LIVE).select_related("model", "job", "host")


def active() -> Deployment | None:
    """The deployment that answers when nobody names a model (it may be restarting)."""
    return Deployment.objects.select_related("model", "job", "host").filter(is_active=True).first()


def serving(model_name: str) -> Deployment | None:
    """The newest deployment that is ready for a model."""
    rows = Deployment.objects.select_related("model", "job", "host").filter(status=DeploymentStatus.READY)
    return rows.filter(model__name=model_name).order_by("-is_active", "-id").first()


def get(deployment_id: int) -> Deployment:
    """The deployment. Raises NotFoundError."""
    row = Deployment.objects.select_related("model", "job", "host").filter(pk=deployment_id).first()
    if row is None:
        raise NotFoundError(f"There is no deployment {deployment_id}.")
    return row


def list_deployments(limit: int = 50) -> list[Deployment]:
    """Deployments, newest first."""
    return list(Deployment.objects.select_related("model", "job", "host")[: max(1, min(limit, 500))])


def stop(actor: Actor, deployment_id: int) -> Deployment:
    """Lets requests in flight end, then ends the engine."""
    actor.require(Role.ADMIN)
    deployment = get(deployment_id)
    if deployment.status not in LIVE:
        raise ConflictError(f"Deployment {deployment_id} is {deployment.status} already.")
    with transaction.atomic():
        _retire(deployment)
        audit(actor, "deployment.stop", f"deployment {deployment_id}", model=deployment.model.name)
    return get(deployment_id)


def facts(deployment: Deployment) -> dict[str, Any]:
    """A deployment as the API and the live topic tell it."""
    return {
        "id": deployment.pk, "model": deployment.model.name, "status": deployment.status,
        "is_active": deployment.is_active, "host": deployment.host.name if deployment.host else None,
        "job_id": deployment.job_id, "error": deployment.error, "check_text": deployment.check_text,
        "statistics": deployment.statistics, "energy": energy.of_deployment(deployment),
        "created_by": deployment.created_by,
        "created_at": deployment.created_at.isoformat(),
        "ready_at": deployment.ready_at.isoformat() if deployment.ready_at else None,
        "ended_at": deployment.ended_at.isoformat() if deployment.ended_at else None,
    }  # fmt: skip


def announce(deployment: Deployment) -> None:
    """Tells its own topic, and the models' one, what it is now. Inside a transaction."""
    data = facts(deployment)
    publish(f"deployment:{deployment.pk}", "status", data)
    publish("models", "deployment", data)


def _change(deployment_id: int, **fields: Any) -> Deployment:
    Deployment.objects.filter(pk=deployment_id).update(**fields)
    deployment = get(deployment_id)
    announce(deployment)
    return deployment


def _retire(deployment: Deployment) -> None:
    """Takes a deployment out of the routing and asks its engine to drain. Inside a transaction."""
    _change(deployment.pk, status=DeploymentStatus.DRAINING, is_active=False, wants_active=False)
    if not deployment.job.has_ended:
        jobs.wish(SYSTEM, deployment.job_id, Desired.STOP)
    job = jobs.get(deployment.job_id)
    if job.has_ended:
        ended(job, None)


# --- What the engine's job reports, called inside ingest transactions -------------------------------------------------


def engine_token(job_id: int, attempt: int) -> str:
    """The bearer token of one launch of one engine. Derived: it is stored nowhere but in the launch's secret file."""
    message = f"engine:{job_id}:{attempt}".encode()
    return hmac.new(django_settings.SECRET_KEY.encode(), message, hashlib.sha256).hexdigest()


def launching(job: Job, attempt: Attempt) -> None:
    """An engine is about to start."""
    row = Deployment.objects.filter(job=job).first()
    if row is None:
        return
    status = row.status if row.status == DeploymentStatus.DRAINING else DeploymentStatus.STARTING
    _change(row.pk, status=status, host=attempt.host, attempt_number=attempt.number, port=None)


def engine_ready(job: Job, attempt: Attempt, port: int) -> None:
    """An engine says that it can answer: it is to be checked."""
    row = Deployment.objects.filter(job=job).first()
    if row is not None and row.status == DeploymentStatus.STARTING and row.attempt_number == attempt.number:
        _change(row.pk, status=DeploymentStatus.CHECKING, port=port)
        transaction.on_commit(bell.wake)


def ended(job: Job, error: dict[str, str] | None) -> None:
    """An engine is gone and won't be started again."""
    row = Deployment.objects.filter(job=job).first()
    if row is None:
        return
    if row.status == DeploymentStatus.FAILED:  # why it was given up is said already
        _change(row.pk, is_active=False, wants_active=False, port=None)
        return
    status = DeploymentStatus.FAILED if error else DeploymentStatus.STOPPED
    text = " ".join(filter(None, (error["message"], error["fix"]))) if error else ""
    _change(row.pk, status=status, is_active=False, wants_active=False, error=text, ended_at=timezone.now(), port=None)


# --- The watcher, called by the dispatcher outside any transaction ----------------------------------------------------


def base_url(deployment: Deployment) -> str:
    """Where the engine answers."""
    return f"http://127.0.0.1:{deployment.port}"


def headers(deployment: Deployment) -> dict[str, str]:
    """What the engine wants to see."""
    return {"Authorization": f"Bearer {engine_token(deployment.job_id, deployment.attempt_number)}"}


def any_coming() -> bool:
    """Whether an engine is being started or checked."""
    return Deployment.objects.filter(status__in=(DeploymentStatus.STARTING, DeploymentStatus.CHECKING)).exists()


def waiting_for_check() -> list[Deployment]:
    """Engines that say they are ready and haven't been asked anything yet."""
    return list(Deployment.objects.select_related("model", "job").filter(status=DeploymentStatus.CHECKING))


def check(deployment: Deployment) -> None:
    """Asks the engine for a real generation; switches to it when it answers, gives it up when it doesn't."""
    prompt = settings.get("serving.check_prompt")
    body = {
        "model": deployment.model.name, "messages": [{"role": "user", "content": prompt}],
        "max_tokens": CHECK_TOKENS, "temperature": 0,
    }  # fmt: skip
    try:
        answer = httpx.post(
            f"{base_url(deployment)}/v1/chat/completions", json=body, headers=headers(deployment),
            timeout=CHECK_TIMEOUT_SECONDS, trust_env=False,
        )  # fmt: skip
        if answer.is_error:
            _give_up(deployment, f"The engine refused a test question ({answer.status_code}): {answer.text[:300]}")
            return
        whole = answer.json()
        text, usage = whole["choices"][0]["message"]["content"] or "", dict(whole["usage"])
        tokens = usage["completion_tokens"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError) as error:
        _give_up(deployment, f"The engine started but did not answer a test question: {error}. See its log.")
        return
    if tokens < 1:
        _give_up(deployment, "The engine answered a test question with nothing. See its log.")
        return
    _switch(deployment, text, usage)


def _give_up(deployment: Deployment, reason: str) -> None:
    log.warning("deployment %s: %s", deployment.pk, reason)
    with transaction.atomic():
        same = Deployment.objects.filter(
            pk=deployment.pk, status=deployment.status, attempt_number=deployment.attempt_number
        )
        fields = {"error": reason, "is_active": False, "wants_active": False, "ended_at": timezone.now()}
        if not same.update(status=DeploymentStatus.FAILED, **fields):
            return  # it drains, or another attempt has begun meanwhile
        announce(get(deployment.pk))
        if not jobs.get(deployment.job_id).has_ended:
            jobs.wish(SYSTEM, deployment.job_id, Desired.CANCEL)


def _switch(deployment: Deployment, text: str, usage: dict[str, Any]) -> None:
    with transaction.atomic():
        claimed = Deployment.objects.filter(pk=deployment.pk, status=DeploymentStatus.CHECKING).update(
            status=DeploymentStatus.READY, ready_at=timezone.now(), check_text=text, error=""
        )
        if not claimed:
            return
        fresh = get(deployment.pk)
        energy.became_ready(fresh, usage)
        if fresh.wants_active:
            for older in Deployment.objects.select_related("job").filter(is_active=True).exclude(pk=fresh.pk):
                _retire(older)
            Deployment.objects.filter(pk=fresh.pk).update(is_active=True)
            fresh = get(fresh.pk)
        audit(SYSTEM, "deployment.ready", f"deployment {fresh.pk}", model=fresh.model.name, active=fresh.is_active)
        announce(fresh)


def give_up_slow() -> None:
    """Engines that take longer to start than they may are ended."""
    limit = settings.get("serving.ready_timeout_seconds")
    for row in Deployment.objects.select_related("job", "model").filter(status=DeploymentStatus.STARTING):
        started = row.job.started_at
        if row.job.status == Status.RUNNING and started and (timezone.now() - started).total_seconds() > limit:
            _give_up(row, f"The engine wasn't ready after {limit} s (setting serving.ready_timeout_seconds).")


def refresh_statistics() -> None:
    """Reads each ready engine's own figures and tells those that changed."""
    for row in Deployment.objects.select_related("model", "job", "host").filter(status=DeploymentStatus.READY):
        try:
            answer = httpx.get(
                f"{base_url(row)}/stats", headers=headers(row), timeout=STATISTICS_TIMEOUT_SECONDS, trust_env=False
            )
            fresh = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            continue  # its process is watched elsewhere; an engine that is busy answers the next time
        if fresh != row.statistics:
            _store_statistics(row, fresh)


def _store_statistics(read: Deployment, fresh: dict[str, Any]) -> None:
    """Stores an engine's figures, unless another process has taken its place since they were asked for."""
    with transaction.atomic():
        same = Deployment.objects.filter(
            pk=read.pk, status=DeploymentStatus.READY, attempt_number=read.attempt_number
        ).first()
        if same is None:
            return
        served = energy.counted(same.served, fresh)
        Deployment.objects.filter(pk=read.pk).update(statistics=fresh, served=served)
        publish(f"deployment:{read.pk}", "telemetry", {"id": read.pk, "statistics": fresh})
