"""Engines are started, take the active place, leave it, are ended. Runs in the web process.

The active place is one deployment's: its model answers when nobody names one. Further engines of that model (replicas)
leave with it; engines that are `kept` serve their models by name beside it.
"""

import math
from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError, UnavailableError
from controlplane.models import Attempt, Deployment, Host, Job, LanguageModel
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.deployments import LIVE, DeploymentStatus
from controlplane.models.jobs import ENDED, Desired, Kind, Status
from controlplane.models.language_models import EngineName, ModelState
from controlplane.services import bell, deployments, jobs, models
from controlplane.services.access import audit
from controlplane.services.engine_room import Room, room_for

SWAPS = ("auto", "wait", "beside", "ask")
"""What to do where memory doesn't allow two engines at once: end the old one first (`wait`: requests wait meanwhile),
start beside it all the same, or refuse with a question. `auto` waits where it must."""

MOST_ENGINES = 32
FAILED_PAUSE_SECONDS = 120.0
HISTORY_ROWS = 30


def activate(
    actor: Actor, model_name: str, *, host: Host | None = None, again: bool = False, swap: str = "auto"
) -> Deployment:
    """Starts an engine for a model; once it answers, it takes the active one's place.

    `host`: where the engine is to run; without it placement decides. A model that is active and ready already is left
    alone unless `again`, or it runs elsewhere than on the host that is named; one that is served by its name takes the
    place at once. An activation that is still on its way to another model gives up its wish to be active: the last one
    asked wins. Raises ConflictError where memory doesn't allow it and `swap` is "ask".
    """
    actor.require(Role.ADMIN)
    model = _usable(model_name)
    if swap not in SWAPS:
        raise InvalidInputError(f"swap is one of {', '.join(SWAPS)}.", (FieldFault("swap", ", ".join(SWAPS)),))
    with transaction.atomic():
        present = None if again else _present(model, host)
        if present is None:
            return _start_for_place(actor, model, host, _swaps(model, host, swap))
        _call_off(present)
        if present.status != DeploymentStatus.READY or present.is_active:
            return present
        audit(actor, "model.activate", model.name, deployment=present.pk)
        return take_place(present)


def _present(model: LanguageModel, host: Host | None) -> Deployment | None:
    """What spares the model another engine: the active one, one that answers, or one that is to become active."""
    rows = list(deployments.live().filter(model=model).order_by("-is_active", "-id"))
    rows = [row for row in rows if host is None or (row.host or row.job.host) == host]
    found = [row for row in rows if row.is_active or row.status == DeploymentStatus.READY or row.wants_active]
    return min(found, key=lambda row: (not row.is_active, row.status != DeploymentStatus.READY), default=None)


def _start_for_place(actor: Actor, model: LanguageModel, host: Host | None, swaps: bool) -> Deployment:
    present = deployments.active()
    deployment = _start(actor, model, host, wants_active=True, swaps=swaps,
                        kept=present is not None and present.kept and present.model_id == model.pk,
                        replaced=present.model if present is not None else None)  # fmt: skip
    _call_off(deployment)
    if swaps:
        for row in _leaving(model):
            retire(row)
    audit(actor, "model.activate", model.name, deployment=deployment.pk, swaps=swaps)
    return deployment


def _usable(model_name: str) -> LanguageModel:
    model = models.get(model_name)
    if model.state != ModelState.READY:
        raise ConflictError(f"The model {model.name} is {model.state}: only a model that is ready can be activated.")
    return model


def _call_off(newer: Deployment) -> None:
    """Ends activations that are still on their way, but for this one."""
    for other in deployments.live().exclude(pk=newer.pk).filter(wants_active=True, is_active=False):
        retire(other)


def _leaving(model: LanguageModel) -> list[Deployment]:
    """The engines that end when an engine of `model` takes the active place: the one there and its replicas."""
    rows = list(deployments.live().filter(kept=False))
    return [row for row in rows if row.is_active or (row.model_id != model.pk and not row.wants_active)]


def room_beside(model: LanguageModel, host: Host | None = None) -> Room | None:
    """Whether an engine of the model has room beside those that it would replace; None where no host is known."""
    return room_for(model, host, _leaving(model))


def _swaps(model: LanguageModel, host: Host | None, swap: str) -> bool:
    if swap in ("wait", "beside"):
        return swap == "wait"
    room = room_beside(model, host)
    if room is None or room.fits:
        return False
    if not _leaving(model):
        _refuse_beside_kept(model, room)
        return False  # nobody is there: the engine will say whether it finds memory
    if swap == "ask":
        raise ConflictError(
            f"{model.name} has no room beside the present engine. {room.sentence} Activate it with “swap”: the present "
            "engine ends first, and requests wait until the new one is ready."
        )
    return True


def _refuse_beside_kept(model: LanguageModel, room: Room) -> None:
    """Raises ConflictError where engines that stay hold the memory."""
    staying = sorted({row.model.name for row in deployments.live()})
    if staying:
        raise ConflictError(
            f"{model.name} has no room beside the engines that stay: {', '.join(staying)}. {room.sentence} Stop one of "
            "them first."
        )


def _start(
    actor: Actor, model: LanguageModel, host: Host | None, config: dict[str, Any] | None = None, **fields: Any
) -> Deployment:
    """A deployment with its job. Inside a transaction."""
    if deployments.live().count() >= MOST_ENGINES:
        raise ConflictError(f"There are {MOST_ENGINES} engines already: stop one first.")
    job = jobs.create(actor, Kind.SERVE, f"serve {model.name}", config or {}, host=host)
    deployment = Deployment.objects.create(model=model, job=job, created_by=actor.name, **fields)
    deployments.announce(deployment)
    return deployment


def reload(actor: Actor, *, swap: str = "auto") -> Deployment:
    """Starts the active model's engine anew; the old one serves until the new one is ready, then drains."""
    current = deployments.active()
    if current is None:
        raise NotFoundError("No model is active: activate one first.")
    return activate(actor, current.model.name, again=True, swap=swap)


def add_engine(actor: Actor, model_name: str, adapters: Sequence[str] = (), *, host: Host | None = None) -> Deployment:
    """Starts one more engine for a model and leaves the active place alone.

    Of the active model it is a replica, which takes its share of the requests; any other model is served by its name,
    and so are `adapters` of it, which one engine serves beside it.
    """
    actor.require(Role.ADMIN)
    model = _usable(model_name)
    if adapters and model.engine == EngineName.LLAMA_CPP:
        raise ConflictError(f"{model.name} is served by llama_cpp, which serves no adapters beside it.")
    for name in adapters:
        adapter = _usable(name)
        if adapter.kind != "adapter" or adapter.base != model:
            raise ConflictError(f"{name} is no adapter of {model.name}: it can't be served beside it.")
    with transaction.atomic():
        present = deployments.active()
        kept = present is None or present.kept or present.model_id != model.pk
        config = {"adapters": list(dict.fromkeys(adapters))} if adapters else {}
        deployment = _start(actor, model, host, config, wants_active=False, kept=kept or bool(adapters))
        audit(actor, "deployment.add", model.name, deployment=deployment.pk, kept=kept, adapters=list(adapters))
    return deployment


def load(model: LanguageModel) -> Deployment:
    """The engine that serves a model by its name or is on its way to; where there is none, one is started.

    Raises UnavailableError where there is no room for it, and for a while after one has failed.
    """
    with transaction.atomic():
        LanguageModel.objects.select_for_update().get(pk=model.pk)  # of many who ask at once, one starts it
        for row in deployments.live().order_by("-id"):
            if model.name in deployments.served_names(row):
                return row
        last = Deployment.objects.filter(model=model).order_by("-id").first()
        if last is not None and (left := _pause_seconds(last)) > 0:
            raise UnavailableError(f"The engine of {model.name} could not be started: {last.error}", math.ceil(left))
        room = room_for(model, None, ())
        if room is not None and not room.fits:
            raise UnavailableError(f"{model.name} has no room beside the engines that run. {room.sentence}", 30)
        return add_engine(SYSTEM, model.name)


def _pause_seconds(last: Deployment) -> float:
    """How long a model isn't loaded on demand after its engine has failed."""
    if last.status != DeploymentStatus.FAILED or last.ended_at is None:
        return 0.0
    return FAILED_PAUSE_SECONDS - (timezone.now() - last.ended_at).total_seconds()


def stop(actor: Actor, deployment_id: int) -> Deployment:
    """Lets requests in flight end, then ends the engine. A replica of the active one takes its place."""
    actor.require(Role.ADMIN)
    with transaction.atomic():
        deployment = deployments.get(deployment_id)
        if deployment.status not in LIVE:
            raise ConflictError(f"Deployment {deployment_id} is {deployment.status} already.")
        retire(deployment)
        _hand_on(deployment)
        audit(actor, "deployment.stop", f"deployment {deployment_id}", model=deployment.model.name)
    return deployments.get(deployment_id)


# --- The active place -------------------------------------------------------------------------------------------------


def take_place(deployment: Deployment) -> Deployment:
    """Makes a ready deployment the active one; those before it leave, or serve on by name. Inside a transaction."""
    for older in _leaving(deployment.model):
        if older.pk != deployment.pk:
            retire(older)
    for older in deployments.live().filter(is_active=True).exclude(pk=deployment.pk):
        if older.model_id == deployment.model_id:
            retire(older)
        else:
            deployments.change(older.pk, is_active=False, wants_active=False)
    return deployments.change(deployment.pk, is_active=True, wants_active=True, activated_at=timezone.now())


def retire(deployment: Deployment) -> None:
    """Takes a deployment out of the routing and asks its engine to drain. Inside a transaction."""
    deployments.change(deployment.pk, status=DeploymentStatus.DRAINING, is_active=False, wants_active=False)
    if not deployment.job.has_ended:
        jobs.wish(SYSTEM, deployment.job_id, Desired.STOP)
    job = jobs.get(deployment.job_id)
    if job.has_ended:
        ended(job, None)


def _hand_on(gone: Deployment) -> None:
    """A replica of a deployment that was active, where there is one, is active now. Inside a transaction."""
    replica = deployments.ready().filter(model=gone.model).exclude(pk=gone.pk).first() if gone.is_active else None
    if replica is not None:
        deployments.change(replica.pk, is_active=True, wants_active=True)


def history() -> list[Deployment]:
    """The deployments that had the active place, the last one first."""
    rows = Deployment.objects.select_related("model", "job", "host").exclude(activated_at=None)
    return list(rows.order_by("-activated_at", "-id")[:HISTORY_ROWS])


def before_active() -> LanguageModel | None:
    """The model that had the active place before the present one (or last, where none has it)."""
    present = deployments.active()
    rows = Deployment.objects.exclude(activated_at=None).filter(model__state=ModelState.READY).select_related("model")
    if present is not None:
        rows = rows.exclude(model_id=present.model_id)
    newest = rows.order_by("-activated_at", "-id").first()
    return newest.model if newest is not None else None


def roll_back(actor: Actor, *, swap: str = "auto") -> Deployment:
    """Activates the model that was active before the present one."""
    actor.require(Role.ADMIN)
    model = before_active()
    if model is None:
        raise ConflictError("No other model was active before: there is nothing to roll back to.")
    return activate(actor, model.name, swap=swap)


# --- What the engine's job reports, called inside ingest transactions -------------------------------------------------


def connect() -> None:
    """Hears of engines that ended by themselves and are started again. Called once, when the app is ready."""
    jobs.moved.connect(_moved, dispatch_uid="activation.moved")


def _moved(job: Job, before: str, **_more: Any) -> None:
    if job.kind != Kind.SERVE or (before, job.status) != (Status.RUNNING, Status.PENDING):
        return
    row = Deployment.objects.filter(job=job, status__in=LIVE).first()
    if row is not None:
        deployments.change(row.pk, status=DeploymentStatus.STARTING, port=None)


def waits_for(job: Job) -> str | None:
    """Why an engine that swaps doesn't start yet: those before it hold their memory still."""
    row = Deployment.objects.filter(job=job, swaps=True).first()
    if row is None:
        return None
    leaving = Deployment.objects.exclude(pk=row.pk).exclude(status__in=LIVE).exclude(job__status__in=ENDED)
    leaving = leaving.exclude(job__phase="lost")  # its host is away, and nobody knows for how long
    other = leaving.select_related("model").first()
    return f"waits until the engine of {other.model.name} has ended" if other is not None else None


def launching(job: Job, attempt: Attempt) -> None:
    """An engine is about to start."""
    row = Deployment.objects.filter(job=job).first()
    if row is None:
        return
    status = row.status if row.status == DeploymentStatus.DRAINING else DeploymentStatus.STARTING
    deployments.change(row.pk, status=status, host=attempt.host, attempt_number=attempt.number, port=None,
                       runs_with={})  # fmt: skip


def engine_ready(job: Job, attempt: Attempt, port: int, runs_with: dict[str, Any] | None = None) -> None:
    """An engine says that it can answer, and what it runs with: it is to be checked."""
    row = Deployment.objects.filter(job=job).first()
    if row is not None and row.status == DeploymentStatus.STARTING and row.attempt_number == attempt.number:
        deployments.change(row.pk, status=DeploymentStatus.CHECKING, port=port, runs_with=runs_with or {})
        transaction.on_commit(bell.wake)


def ended(job: Job, error: dict[str, str] | None) -> None:
    """An engine is gone and won't be started again."""
    row = Deployment.objects.filter(job=job).select_related("model", "replaced").first()
    if row is None:
        return
    if row.status == DeploymentStatus.FAILED:  # why it was given up is said already
        deployments.change(row.pk, is_active=False, wants_active=False, port=None)
        return
    status = DeploymentStatus.FAILED if error else DeploymentStatus.STOPPED
    text = " ".join(filter(None, (error["message"], error["fix"]))) if error else ""
    deployments.change(row.pk, status=status, is_active=False, wants_active=False, error=text,
                       ended_at=timezone.now(), port=None)  # fmt: skip
    if error:
        left_by_failure(row)


def left_by_failure(row: Deployment) -> None:
    """What becomes of the place that a failed engine had or was to have: a replica takes it, or the model that was
    ended for it comes back. `row` is as it was before it failed. Inside a transaction.
    """
    _hand_on(row)
    back = row.replaced
    was_to_have_it = row.swaps and row.wants_active and not row.is_active
    if was_to_have_it and back is not None and back.state == ModelState.READY and back.pk != row.model_id:
        _start(SYSTEM, back, None, wants_active=True, swaps=True)
        audit(SYSTEM, "model.restore", back.name, instead_of=row.model.name)
