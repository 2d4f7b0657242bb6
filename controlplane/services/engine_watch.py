"""Engines are asked a question before they serve, given up when they are too slow, read, and ended when nobody asks.

Called by the dispatcher's threads and duties of the web process, outside any transaction.
"""

import logging
from typing import Any

import httpx
from django.db import transaction
from django.utils import timezone

from controlplane.live.announce import publish
from controlplane.models import Deployment
from controlplane.models.access import SYSTEM
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.jobs import Desired, Status
from controlplane.services import activation, deployments, energy, engine_http, jobs, settings
from controlplane.services.access import audit
from controlplane.services.routing import traffic

log = logging.getLogger(__name__)
CHECK_TIMEOUT_SECONDS = 120
STATISTICS_TIMEOUT_SECONDS = 2
CHECK_TOKENS = 8


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
            f"{deployments.base_url(deployment)}/v1/chat/completions", json=body,
            headers=deployments.headers(deployment), timeout=CHECK_TIMEOUT_SECONDS, trust_env=False,
            verify=engine_http.NO_TLS,
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
    _serve(deployment, text, usage)


def _give_up(deployment: Deployment, reason: str) -> None:
    log.warning("deployment %s: %s", deployment.pk, reason)
    with transaction.atomic():
        same = Deployment.objects.filter(
            pk=deployment.pk, status=deployment.status, attempt_number=deployment.attempt_number
        )
        before = same.select_related("model", "job", "replaced").first()
        fields = {"error": reason, "is_active": False, "wants_active": False, "ended_at": timezone.now()}
        if before is None or not same.update(status=DeploymentStatus.FAILED, **fields):
            return  # it drains, or another attempt has begun meanwhile
        deployments.announce(deployments.get(deployment.pk))
        if not jobs.get(deployment.job_id).has_ended:
            jobs.wish(SYSTEM, deployment.job_id, Desired.CANCEL)
        activation.left_by_failure(before)


def _serve(deployment: Deployment, text: str, usage: dict[str, Any]) -> None:
    with transaction.atomic():
        claimed = Deployment.objects.filter(pk=deployment.pk, status=DeploymentStatus.CHECKING).update(
            status=DeploymentStatus.READY, ready_at=timezone.now(), check_text=text, error=""
        )
        if not claimed:
            return
        fresh = deployments.get(deployment.pk)
        energy.became_ready(fresh, usage)
        if fresh.wants_active and not fresh.is_active:
            fresh = activation.take_place(fresh)
        audit(SYSTEM, "deployment.ready", f"deployment {fresh.pk}", model=fresh.model.name, active=fresh.is_active)
        deployments.announce(fresh)


def give_up_slow() -> None:
    """Engines that take longer to start than they may are ended."""
    limit = settings.get("serving.ready_timeout_seconds")
    for row in Deployment.objects.select_related("job", "model").filter(status=DeploymentStatus.STARTING):
        started = row.job.started_at
        if row.job.status == Status.RUNNING and started and (timezone.now() - started).total_seconds() > limit:
            _give_up(row, f"The engine wasn't ready after {limit} s (setting serving.ready_timeout_seconds).")


def end_idle() -> None:
    """Engines that nobody has asked for as long as their models say are ended; the active one stays."""
    for row in deployments.ready().filter(is_active=False, model__idle_unload_seconds__gt=0):
        limit = row.model.idle_unload_seconds
        unasked = min(traffic.idle_seconds(row.pk), _ready_seconds(row))
        if unasked < limit:
            continue
        with transaction.atomic():
            unasked_still = deployments.ready().filter(pk=row.pk, is_active=False, attempt_number=row.attempt_number)
            if unasked_still.select_for_update(of=("self",)).first() is None or traffic.idle_seconds(row.pk) < limit:
                continue  # somebody has activated or asked it meanwhile
            activation.retire(row)
            audit(SYSTEM, "deployment.idle", f"deployment {row.pk}", model=row.model.name, idle_seconds=round(unasked))


def _ready_seconds(row: Deployment) -> float:
    return (timezone.now() - (row.ready_at or timezone.now())).total_seconds()


def refresh_statistics() -> None:
    """Reads each ready engine's own figures and tells those that changed."""
    for row in Deployment.objects.select_related("model", "job", "host").filter(status=DeploymentStatus.READY):
        try:
            answer = engine_http.client().get(
                f"{deployments.base_url(row)}/stats", headers=deployments.headers(row),
                timeout=STATISTICS_TIMEOUT_SECONDS,
            )  # fmt: skip
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
