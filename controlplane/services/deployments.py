"""Models being served: which engines there are, and what is told of them. Runs in the web process.

Starting and ending them is `activation`'s, checking and watching them `engine_watch`'s.
"""

import hashlib
import hmac
from typing import Any

from django.conf import settings as django_settings
from django.db import transaction
from django.db.models import QuerySet

from controlplane.errors import NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Deployment, Host, Job
from controlplane.models.deployments import LIVE, DeploymentStatus
from controlplane.models.jobs import Status
from controlplane.moments import iso
from controlplane.services import energy
from controlplane.services.routing import Engine, traffic, waiting_room

LOOPBACK = "127.0.0.1"


def _rows() -> "QuerySet[Deployment]":
    return Deployment.objects.select_related("model", "job", "host")


def live() -> "QuerySet[Deployment]":
    """Deployments that answer or are about to."""
    return _rows().filter(status__in=LIVE)


def ready() -> "QuerySet[Deployment]":
    """Deployments that answer, the active one first."""
    return _rows().filter(status=DeploymentStatus.READY, port__isnull=False).order_by("-is_active", "-id")


def active() -> Deployment | None:
    """The deployment that answers when nobody names a model (it may be restarting)."""
    return _rows().filter(is_active=True).first()


def serving(model_name: str) -> Deployment | None:
    """The newest deployment that is ready for a model."""
    return ready().filter(model__name=model_name).first()


def served_names(deployment: Deployment) -> list[str]:
    """The models that it answers for: its own, and the adapters beside it."""
    return [deployment.model.name, *deployment.job.config.get("adapters", [])]


def get(deployment_id: int) -> Deployment:
    """The deployment. Raises NotFoundError."""
    row = _rows().filter(pk=deployment_id).first()
    if row is None:
        raise NotFoundError(f"There is no deployment {deployment_id}.")
    return row


def list_deployments(limit: int = 50) -> list[Deployment]:
    """Deployments, newest first."""
    return list(_rows()[: max(1, min(limit, 500))])


def facts(deployment: Deployment) -> dict[str, Any]:
    """A deployment as the API and the live topic tell it."""
    return {
        "id": deployment.pk, "model": deployment.model.name, "status": deployment.status,
        "is_active": deployment.is_active, "adapters": served_names(deployment)[1:],
        "kept": deployment.kept, "swaps": deployment.swaps,
        "host": deployment.host.name if deployment.host else None, "job_id": deployment.job_id,
        "attempt": deployment.attempt_number, "restart": restart(deployment.job),
        "in_flight": traffic.in_flight(deployment.pk),
        "error": deployment.error, "check_text": deployment.check_text, "runs_with": deployment.runs_with or None,
        "statistics": deployment.statistics, "energy": energy.of_deployment(deployment),
        "created_by": deployment.created_by, "created_at": deployment.created_at.isoformat(),
        "ready_at": iso(deployment.ready_at),
        "activated_at": iso(deployment.activated_at),
        "ended_at": iso(deployment.ended_at),
    }  # fmt: skip


def restart(job: Job) -> dict[str, Any] | None:
    """Why and when an engine that ended by itself is started again; None of one that wasn't."""
    if job.status != Status.PENDING or not job.failures:
        return None
    return {
        "reason": (job.error or {}).get("message", "It ended without a word."), "failures": job.failures,
        "most_failures": job.max_failures, "at": iso(job.not_before),
    }  # fmt: skip


def announce(deployment: Deployment) -> None:
    """Tells its own topic, and the models' one, what it is now; wakes requests that wait. Inside a transaction."""
    data = facts(deployment)
    publish(f"deployment:{deployment.pk}", "status", data)
    publish("models", "deployment", data)
    transaction.on_commit(waiting_room.look_again)


def change(deployment_id: int, **fields: Any) -> Deployment:
    """Changes a deployment's columns and tells it. Inside a transaction."""
    Deployment.objects.filter(pk=deployment_id).update(**fields)
    deployment = get(deployment_id)
    announce(deployment)
    return deployment


# --- How to speak to an engine ----------------------------------------------------------------------------------------


def engine_token(job_id: int, attempt: int) -> str:
    """The bearer token of one launch of one engine. Derived: it is stored nowhere but in the launch's secret file."""
    message = f"engine:{job_id}:{attempt}".encode()
    return hmac.new(django_settings.SECRET_KEY.encode(), message, hashlib.sha256).hexdigest()


def base_url(deployment: Deployment) -> str:
    """Where the engine answers."""
    return f"http://{listens_on(deployment.host)}:{deployment.port}"


def listens_on(host: Host | None) -> str:
    """The address at which the engines of a host listen: loopback for agents on this machine, else what an admin says
    or what the host was met at. Only the control plane has an engine's token."""
    if host is None or host.carrier == "local":
        return LOOPBACK
    return str(host.address or host.facts.get("address") or host.name)


def headers(deployment: Deployment) -> dict[str, str]:
    """What the engine wants to see."""
    return {"Authorization": f"Bearer {engine_token(deployment.job_id, deployment.attempt_number)}"}


def engines() -> list[tuple[Engine, tuple[str, ...], bool]]:
    """Every ready engine, the models that it answers for, and whether it is active: columns alone, since each request
    asks for them.
    """
    columns = ("pk", "job_id", "attempt_number", "port", "is_active", "model__name", "job__config", "host_id")
    addresses = {host.pk: listens_on(host) for host in Host.objects.exclude(carrier="local")}
    found = []
    for pk, job_id, attempt, port, is_active, name, config, host_id in ready().values_list(*columns):
        token = {"Authorization": f"Bearer {engine_token(job_id, attempt)}"}
        engine = Engine(pk, attempt, name, f"http://{addresses.get(host_id, LOOPBACK)}:{port}", token)
        found.append((engine, (name, *config.get("adapters", ())), is_active))
    return found
