"""Training runs: made, read, stopped, paused, resumed. Runs in the web process."""

import shutil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.legible import is_legible
from controlplane.models import Dataset, Host, Job, LanguageModel, Run
from controlplane.models.access import Actor, Role
from controlplane.models.datasets import DatasetStatus
from controlplane.models.jobs import Desired, Kind, Status
from controlplane.models.language_models import ModelState
from controlplane.services import chains, config_faults, datasets, jobs, models, versions
from controlplane.services import checkpoints as checkpoint_files
from controlplane.services.access import audit
from controlplane.services.run_facts import checkpoints, facts

__all__ = [
    "check", "checkpoints", "create", "delete", "facts", "get", "list_runs", "pause", "register_checkpoint", "resume",
    "stop",
]  # fmt: skip
from training.config.loader import to_dict
from training.config.schedule import held_out


def create(
    actor: Actor,
    *,
    name: str,
    dataset: int | str,
    model: str = "",
    profile: str = "plain",
    priority: str = "normal",
    config: dict[str, Any] | None = None,
    based_on: int | None = None,
) -> Run:
    """Queues a run. Everything is checked first; where anything is wrong nothing is created.

    A run of a chain (`config.model.chain`) needs no model: it starts from the chain's current one when its turn comes.
    `based_on` is the run whose settings this one began with; its page says what differs.
    """
    actor.require(Role.USE)
    source = get(based_on) if based_on is not None else None
    if source is not None:
        source.require_settings()
    name = name.strip()
    if not 1 <= len(name) <= 200 or not is_legible(name):
        raise InvalidInputError("A run needs a name of 1 to 200 printable characters.", (_fault("name", "1 to 200"),))
    level = jobs.parse_priority(priority)
    data = _ready_dataset(dataset)
    chain_name = chains.name_in(config or {})
    start = _start(config or {}, model)
    whole = _whole_config(config or {}, data, start, profile)
    with transaction.atomic():
        chain = chains.join(actor, chain_name, start, whole) if chain_name else None
        job = jobs.create(actor, Kind.TRAIN, name, {}, priority=level)
        run = Run.objects.create(
            name=name, job=job, dataset=data, model=start, chain=chain, profile=whole["profile"]["name"], config=whole,
            based_on=source, created_by=actor.name,
        )  # fmt: skip
        whole["output"]["output_dir"] = str(run.folder)
        Run.objects.filter(pk=run.pk).update(config=whole)
        run.config = whole
        audit(actor, "run.create", f"run {run.pk}", dataset=str(data), model=start.name)
        jobs.announce(jobs.get(job.pk))
    return run


def check(
    *, dataset: int | str, model: str, profile: str = "plain", config: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The whole configuration of a run that could be created now; creates nothing. Raises as `create` does."""
    return _whole_config(config or {}, _ready_dataset(dataset), _start(config or {}, model), profile)


def _start(config: dict[str, Any], model: str) -> LanguageModel:
    """What the run starts from, as things stand: the model named, or the current one of the chain."""
    name = chains.name_in(config)
    return _ready_model(chains.start_model(name, model) if name else model)


def _fault(path: str, message: str) -> FieldFault:
    return FieldFault(path, message)


def _ready_dataset(ref: int | str) -> Dataset:
    data = datasets.get(ref)
    if data.status != DatasetStatus.READY:
        raise InvalidInputError(
            f"The dataset {data} is {data.status}: a run needs one that is ready.", (_fault("dataset", "not ready"),)
        )
    return data


def _ready_model(name: str) -> LanguageModel:
    model = models.get(name)
    if model.state != ModelState.READY:
        raise InvalidInputError(
            f"The model {name} is {model.state}: a run needs one that is ready.", (_fault("model", "not ready"),)
        )
    return model


def _whole_config(given: dict[str, Any], data: Dataset, model: LanguageModel, profile: str) -> dict[str, Any]:
    """The whole TrainerConfig: what was given, over what dataset and model say, over the defaults."""
    merged: dict[str, Any] = {section: dict(values) if isinstance(values, dict) else values
                              for section, values in chains.with_locked(given).items()}  # fmt: skip
    implied: dict[str, dict[str, Any]] = {
        "profile": {"name": profile},
        "data": {"train_dataset": str(data.pk), "eval_fraction": data.eval_fraction},
        "model": {"model": model.name},
    }
    for section, values in implied.items():
        if isinstance(merged.setdefault(section, {}), dict):
            merged[section] = {**values, **merged[section]}
    parsed = config_faults.parsed(merged)
    asked = parsed.profile
    config_faults.profile_of(asked.name, system_prompt=asked.system_prompt, options=asked.options)
    whole = to_dict(parsed)
    _refuse_contradictions(whole, data, model)
    return whole


def _refuse_contradictions(whole: dict[str, Any], data: Dataset, model: LanguageModel) -> None:
    """What dataset and model are is said once: a config that names others is refused with both values."""
    for path, said, meant in (
        ("config.data.train_dataset", whole["data"]["train_dataset"], str(data.pk)),
        ("config.model.model", whole["model"]["model"], model.name),
    ):
        if said != meant:
            message = f"{path} says {said!r}, the request {meant!r}: leave it out of the config."
            raise InvalidInputError(message, (_fault(path, message),))
    for name, meant in models.locked_facts(model).items():
        said = whole["locked"][name]
        if said and meant and said != meant:
            path = f"config.locked.{name}"
            message = f"{path} is locked: the model has {meant!r}, the config says {said!r}. Leave it out."
            raise InvalidInputError(message, (_fault(path, message),))
        whole["locked"][name] = meant
    if whole["output"]["output_dir"]:
        message = "config.output.output_dir is Pilothouse's own choice (runs/ID): leave it out."
        raise InvalidInputError(message, (_fault("config.output.output_dir", message),))
    if whole["data"]["eval_dataset"]:
        whole["data"]["eval_dataset"] = str(_ready_dataset(whole["data"]["eval_dataset"]).pk)
    held = whole["data"]["eval_dataset"] or held_out(data.examples or 0, whole["data"]["eval_fraction"])
    if whole["monitoring"]["evaluate_checkpoints"] and not held:
        message = "evaluate_checkpoints needs rows that are held out: raise data.eval_fraction or name an eval_dataset."
        raise InvalidInputError(message, (_fault("config.monitoring.evaluate_checkpoints", message),))
    _check_environment(whole)
    taken = whole["output"]["register_as"]
    if taken:
        _check_name(taken)


def _check_environment(whole: dict[str, Any]) -> None:
    """Whether there can be such hosts at all; whether one has room now, placement says."""
    asked, hosts_wanted = whole["environment"], whole["environment"]["num_nodes"]
    if hosts_wanted > 1 and asked["distributed"] == "none":
        message = "A run on several hosts (environment.num_nodes) needs environment.distributed ddp or fsdp."
        raise InvalidInputError(message, (_fault("config.environment.distributed", message),))
    if hosts_wanted > 1 and asked["host"]:
        message = "A run on several hosts can't name one: leave environment.host empty, or ask for a label."
        raise InvalidInputError(message, (_fault("config.environment.host", message),))
    if hosts_wanted > 1 and whole["hyperparams"]["early_stopping_patience"]:
        message = "A run on several hosts can't go back to its best checkpoint: leave early_stopping_patience at 0."
        raise InvalidInputError(message, (_fault("config.hyperparams.early_stopping_patience", message),))
    if asked["host"] and not Host.objects.filter(name=asked["host"]).exists():
        message = f"There is no host {asked['host']!r}: see the page Hosts."
        raise InvalidInputError(message, (_fault("config.environment.host", message),))


def _check_name(name: str) -> None:
    """Whether the run's model may be called so."""
    path = "config.output.register_as"
    try:
        models.check_name(name)
    except InvalidInputError as error:
        raise InvalidInputError(error.message, (_fault(path, error.message),)) from error
    if len(name) > versions.LONGEST_FAMILY:
        message = f"output.register_as has at most {versions.LONGEST_FAMILY} characters."
        raise InvalidInputError(message, (_fault(path, message),))
    if not versions.may_follow(name):
        raise InvalidInputError(
            f"There is already a model {name!r}, and no run has made it: choose another output.register_as.",
            (_fault(path, "taken"),),
        )


def get(run_id: int) -> Run:
    """The run with its job, dataset and model. Raises NotFoundError."""
    run = Run.objects.select_related("job", "job__host", "dataset", "model", "chain").filter(pk=run_id).first()
    if run is None:
        raise NotFoundError(f"There is no run {run_id}.")
    return run


def list_runs(limit: int = 50, before_id: int | None = None) -> list[Run]:
    """Runs, newest first, before an id."""
    rows = Run.objects.select_related("job", "job__host", "dataset", "model", "chain").order_by("-id")
    rows = rows.prefetch_related("job__energy")
    if before_id:
        rows = rows.filter(pk__lt=before_id)
    return list(rows[: max(1, min(limit, 500))])


def stop(actor: Actor, run_id: int, mode: str = "save") -> Run:
    """Ends a run: `save` with a checkpoint and its model (it becomes done), `now` at once (cancelled)."""
    if mode not in ("save", "now"):
        raise InvalidInputError(
            f"There is no stop mode {mode!r}: choose save or now.", (_fault("mode", "save or now"),)
        )
    run = get(run_id)
    jobs.wish(actor, run.job_id, Desired.STOP if mode == "save" else Desired.CANCEL)
    return get(run_id)


def pause(actor: Actor, run_id: int) -> Run:
    """Writes a checkpoint, frees the GPU, keeps the place."""
    run = get(run_id)
    if run.job.status == Status.PAUSED:
        raise ConflictError(f"Run {run_id} is paused already.")
    jobs.wish(actor, run.job_id, Desired.PAUSE)
    return get(run_id)


def resume(actor: Actor, run_id: int) -> Run:
    """Goes on from the last checkpoint."""
    jobs.resume(actor, get(run_id).job_id)
    return get(run_id)


def register_checkpoint(actor: Actor, run_id: int, step: int, name: str) -> LanguageModel:
    """Makes a model of a checkpoint: a fetch job copies and checks its files."""
    run = get(run_id)
    return models.register_checkpoint(actor, run, checkpoint_files.get(run, step), name)


def delete(actor: Actor, run_id: int) -> None:
    """Takes a run that has ended off the books, with its checkpoints and logs; its models stay."""
    run = get(run_id)
    actor.require_owner(f"Run {run_id}", run.created_by)
    if not run.job.has_ended:
        raise ConflictError(f"Run {run_id} is {run.job.status}: stop it first.")
    with transaction.atomic():
        Job.objects.filter(pk=run.job_id).delete()
        audit(actor, "run.delete", f"run {run_id}", name=run.name)
    for folder in (run.folder, Path(settings.HOME) / "jobs" / str(run.job_id)):
        shutil.rmtree(folder, ignore_errors=True)  # what is left of it `manage.py clean` finds
