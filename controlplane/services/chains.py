"""Chains of runs: "continue from the current model". Runs in the web process.

A run of a chain starts from the weights that the last finished one left. Which these are is settled when it is
launched, not when it is queued; one run of a chain goes at a time, and a run that fails leaves the chain where it was.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.legible import is_legible
from controlplane.live.announce import publish
from controlplane.models import Chain, LanguageModel, Run
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import ENDED, Status
from controlplane.models.language_models import ModelState
from controlplane.services import config_faults, models
from controlplane.services.access import audit
from training.config.loader import ConfigError, check_locked, parse_config

DEFAULT_CHAIN = "current_model"
"""The chain that is meant where nobody names one."""

MAX_NAME = 100
LOCKED = ("hyperparams.max_length", "locked.model_architecture", "locked.tokenizer_sha256")
"""What all runs of a chain share: another length, architecture or tokenizer would be another model."""


def list_chains() -> list[Chain]:
    """All chains, by name."""
    return list(Chain.objects.select_related("base", "current"))


def find(name: str) -> Chain | None:
    """The chain of that name, or None."""
    return Chain.objects.select_related("base", "current").filter(name=name.strip()).first()


def get(name: str) -> Chain:
    """The chain. Raises NotFoundError."""
    chain = find(name)
    if chain is None:
        raise NotFoundError(f"There is no chain {name!r}. GET /api/chains lists them.")
    return chain


def run_ids(rows: Iterable[Chain]) -> dict[int, list[int]]:
    """The ids of each chain's runs, oldest first, by the chain's id; one question for all of them."""
    found: dict[int, list[int]] = {chain.pk: [] for chain in rows}
    for chain_id, run_id in Run.objects.filter(chain__in=found).order_by("id").values_list("chain_id", "id"):
        found[chain_id].append(run_id)
    return found


def list_facts() -> list[dict[str, Any]]:
    """All chains as the API tells them."""
    rows = list_chains()
    runs = run_ids(rows)
    return [_told(chain, runs[chain.pk]) for chain in rows]


def facts(chain: Chain) -> dict[str, Any]:
    """A chain as the API tells it."""
    return _told(chain, run_ids([chain])[chain.pk])


def _told(chain: Chain, runs: list[int]) -> dict[str, Any]:
    return {
        "name": chain.name, "base": chain.base.name, "current_model": chain.current.name if chain.current else None,
        "start_model": chain.start.name, "locked": chain.locked,
        "runs": runs, "created_by": chain.created_by,
        "created_at": chain.created_at.isoformat(), "updated_at": chain.updated_at.isoformat(),
    }  # fmt: skip


# --- When a run is queued ---------------------------------------------------------------------------------------------


def name_in(config: Mapping[str, Any]) -> str:
    """The chain that a configuration, nested by section, names; nothing where it names none."""
    section = config.get("model")
    return str(section.get("chain") or "").strip() if isinstance(section, Mapping) else ""


def start_model(name: str, model: str) -> str:
    """The id of the model that a run of the chain would start from now.

    A chain that is there knows it; `model` may be left out then, or name its base or its current model. Raises
    InvalidInputError.
    """
    chain = find(_checked_name(name))
    if chain is None:
        if not model:
            message = f"The chain {name!r} isn't there yet: name the model that it begins with."
            raise InvalidInputError(message, (FieldFault("model", message),))
        return model
    if model and model not in (chain.base.name, chain.start.name):
        message = (
            f"The chain {name!r} began with {chain.base.name} and stands at {chain.start.name}, but {model} was asked "
            "for: leave the model out, or begin another chain."
        )
        raise InvalidInputError(message, (FieldFault("model", message),))
    return chain.start.name


def _checked_name(name: str) -> str:
    if len(name) > MAX_NAME or not is_legible(name):
        message = f"A chain's name has 1 to {MAX_NAME} printable characters."
        raise InvalidInputError(message, (FieldFault("config.model.chain", message),))
    return name


def with_locked(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with what the chain that it names has fixed, where it doesn't say it itself."""
    chain = find(name) if (name := name_in(config)) else None
    length = chain.locked.get("hyperparams.max_length") if chain else None
    section = config.get("hyperparams", {})
    if length is None or not isinstance(section, dict):
        return config
    return {**config, "hyperparams": {"max_length": length, **section}}


def join(actor: Actor, name: str, start: LanguageModel, config: dict[str, Any]) -> Chain:
    """The chain that a run with this whole configuration belongs to; a new one begins at `start`.

    Inside the transaction that creates the run. Raises InvalidInputError for settings that differ from the chain's.
    """
    chain, created = Chain.objects.get_or_create(
        name=name.strip(), defaults={"base": start, "created_by": actor.name, "locked": _lock_of(config)}
    )
    if created:
        audit(actor, "chain.create", chain.name, base=start.name)
    elif not chain.locked:
        Chain.objects.filter(pk=chain.pk).update(locked=_lock_of(config))
    else:
        _check_lock(chain, config)
    return chain


def _lock_of(config: dict[str, Any]) -> dict[str, Any]:
    return {path: config[path.split(".")[0]][path.split(".")[1]] for path in LOCKED}


def _check_lock(chain: Chain, config: dict[str, Any]) -> None:
    try:
        check_locked(parse_config(config), chain.locked)
    except ConfigError as error:
        raise config_faults.refusal(error, f"The chain {chain.name!r} can't be continued so.") from error


# --- When its turn comes ----------------------------------------------------------------------------------------------


def waits_for(run: Run) -> str | None:
    """Why a run of a chain can't start yet: another one of it is under way."""
    if run.chain_id is None:
        return None
    interrupted = Q(job__status=Status.PENDING, job__attempt_count__gt=0)
    if run.job.attempt_count > 0:
        interrupted &= Q(pk__lt=run.pk)  # of two that were interrupted the older one goes first
    others = Run.objects.filter(chain_id=run.chain_id).exclude(pk=run.pk).select_related("job", "chain")
    ahead = others.filter(Q(job__status__in=(Status.RUNNING, Status.PAUSED)) | interrupted).order_by("id").first()
    if ahead is None or ahead.chain is None:
        return None
    word = {Status.RUNNING: "trains", Status.PAUSED: "has paused"}.get(Status(ahead.job.status), "goes on with")
    return f"waits for run {ahead}, which {word} the chain {ahead.chain.name}"


def resolve(run: Run) -> Run:
    """Settles what a run starts from: the chain's current model, now. Inside the transaction that launches it.

    One that has a checkpoint goes on from that.
    """
    if run.chain is None or _has_begun(run) or run.model_id == run.chain.start.pk:
        return run
    start = run.chain.start
    run.config = {
        **run.config,
        "model": {**run.config["model"], "model": start.name},
        "locked": {**run.config["locked"], **models.locked_facts(start)},
    }
    run.model = start
    Run.objects.filter(pk=run.pk).update(model=start, config=run.config)
    return run


def _has_begun(run: Run) -> bool:
    return run.checkpoints.filter(gone_at=None).exists()


def check_launch(run: Run) -> None:
    """Raises ConflictError for a run whose chain has gone on without it, InvalidInputError for one that doesn't fit."""
    if run.chain is None:
        return
    if _has_begun(run) and run.model_id != run.chain.start.pk:
        raise ConflictError(
            f"Run {run} began at {run.start_model.name}, but the chain {run.chain.name} stands at "
            f"{run.chain.start.name} by now: its checkpoint would undo that. Start a new run of the chain."
        )
    _check_lock(run.chain, run.config)


def advance(run: Run) -> None:
    """A run of the chain is done: its model is the current one. Inside the transaction that says so."""
    model = LanguageModel.objects.filter(run=run, source="run", state=ModelState.READY).first()
    if run.chain_id is None or model is None:
        return
    Chain.objects.filter(pk=run.chain_id).update(current=model, updated_at=timezone.now())
    publish("models", "status", models.facts(model))


# --- By hand ----------------------------------------------------------------------------------------------------------


def reset(actor: Actor, name: str) -> Chain:
    """Lets the chain begin anew at its base; the models that it made stay.

    Raises ConflictError while one of its runs is under way.
    """
    chain = _changeable(actor, name)
    with transaction.atomic():
        _refuse_busy(chain, (Status.RUNNING, Status.PAUSED))
        waiting = chain.runs.exclude(job__status__in=ENDED).exists()
        was = chain.current.name if chain.current else None
        fields: dict[str, Any] = {"current": None, "updated_at": timezone.now()}
        Chain.objects.filter(pk=chain.pk).update(**fields, locked=chain.locked if waiting else {})
        audit(actor, "chain.reset", chain.name, before=was, after=chain.base.name)
        publish("models", "status", models.facts(chain.base))
    return get(name)


def remove(actor: Actor, name: str) -> None:
    """Forgets a chain; its runs and models stay. Raises ConflictError while a run of it waits or is under way."""
    chain = _changeable(actor, name)
    with transaction.atomic():
        _refuse_busy(chain, (Status.PENDING, Status.RUNNING, Status.PAUSED))
        audit(actor, "chain.delete", chain.name)
        publish("models", "status", models.facts(chain.base))
        Chain.objects.filter(pk=chain.pk).delete()


def _changeable(actor: Actor, name: str) -> Chain:
    actor.require(Role.USE)
    chain = get(name)
    actor.require_owner(f"The chain {name}", chain.created_by)
    return chain


def _refuse_busy(chain: Chain, statuses: tuple[str, ...]) -> None:
    run = chain.runs.filter(job__status__in=statuses).select_related("job").order_by("id").first()
    if run is not None:
        raise ConflictError(f"Run {run} of the chain {chain.name} is {run.job.status}. Wait for it, or stop it first.")
