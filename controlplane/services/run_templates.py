"""Run templates: saved, changed, used. Runs in the web process.

A template holds what a person chose, not what a run has of its own: `output_dir`, `register_as` (each model has an id
of its own) and the locked facts of the model are left out; dataset and model stand beside the configuration.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.legible import is_legible
from controlplane.models import Dataset, LanguageModel, Run, RunTemplate
from controlplane.models.access import Actor, Role
from controlplane.row_ids import row_id
from controlplane.services import chains, config_faults, datasets, models, runs
from controlplane.services.access import audit
from training.config.difference import chosen
from training.config.loader import to_dict

LEFT_OUT = (
    ("output", "output_dir"), ("output", "register_as"), ("data", "train_dataset"), ("model", "model"),
)  # fmt: skip
"""What is a run's own, or stands beside the configuration."""

MAX_NAME, MAX_DESCRIPTION = 100, 500
CHANGEABLE = frozenset({"name", "description", "config", "dataset", "model"})


def list_templates() -> list[RunTemplate]:
    """All templates, by name."""
    return list(RunTemplate.objects.select_related("dataset", "model"))


def get(template_id: int) -> RunTemplate:
    """The template. Raises NotFoundError."""
    row = RunTemplate.objects.select_related("dataset", "model").filter(pk=template_id).first()
    if row is None:
        raise NotFoundError(f"There is no run template {template_id}. GET /api/run-templates lists them.")
    return row


def named(name: str | int) -> RunTemplate:
    """The template called `name`; a number that is nobody's name is an id. Raises NotFoundError."""
    row = RunTemplate.objects.select_related("dataset", "model").filter(name=str(name).strip()).first()
    if row is None and (number := row_id(str(name))) is not None:
        row = RunTemplate.objects.select_related("dataset", "model").filter(pk=number).first()
    if row is None:
        known = ", ".join(RunTemplate.objects.values_list("name", flat=True)[:10]) or "none"
        raise NotFoundError(f"There is no run template {name!r}. Saved are: {known}.")
    return row


def apply(template: RunTemplate, /, **overrides: Any) -> dict[str, dict[str, Any]]:
    """The template's configuration (nested by section) for `runs.create`, with sections of `overrides` laid over it.

    `apply(template, hyperparams={"seed": 7})`. A section may be a mapping or None; it is checked by `runs.create`.
    """
    config: dict[str, Any] = {section: dict(values) for section, values in template.config.items()}
    for section, values in overrides.items():
        if values is None:
            continue
        held = config.get(section)
        config[section] = {**(held or {}), **values} if isinstance(values, Mapping) else values
    return config


def start(
    actor: Actor, template: RunTemplate, *, name: str, dataset: int | str | None = None, model: str = "",
    profile: str = "", priority: str = "normal", config: Mapping[str, Any] | None = None, based_on: int | None = None,
) -> Run:  # fmt: skip
    """Queues a run of a template; what is given besides lies over it. Raises as `runs.create` does, and
    InvalidInputError where neither the template nor the caller names dataset or model.
    """
    actor.require(Role.USE)
    choices = filled(template, dataset=dataset, model=model, profile=profile, config=config)
    with transaction.atomic():
        run = runs.create(actor, name=name, priority=priority, based_on=based_on, **choices)
        audit(actor, "run_template.use", f"run template {template.pk}", name=template.name, run=run.pk)
    return run


def filled(
    template: RunTemplate, *, dataset: int | str | None = None, model: str = "", profile: str = "",
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`dataset`, `model` and `config` for `runs.create`: the template's, under what is given. Raises
    InvalidInputError where one stays open.
    """
    whole = apply(template, **(config or {}))
    if profile and isinstance(held := whole.get("profile", {}), dict):
        whole["profile"] = {**held, "name": profile}
    data = dataset if dataset not in (None, "") else template.dataset_id
    begin = model or (template.model.name if template.model else "")
    missing = [
        word for word, value in (("dataset", data), ("model", begin or chains.name_in(whole))) if value in (None, "")
    ]
    if missing:
        raise InvalidInputError(
            f"The template {template.name} leaves the {' and '.join(missing)} open: name one.",
            tuple(FieldFault(word, "the template has none") for word in missing),
        )
    return {"dataset": data, "model": begin, "config": whole}


def save(
    actor: Actor, *, name: str, config: Mapping[str, Any], description: str = "", model: str | None = None,
    dataset: int | str | None = None,
) -> RunTemplate:  # fmt: skip
    """Makes a template. `config`: any part of TrainerConfig, nested by section; `model` and `dataset` may stay open.

    Raises InvalidInputError (also for a setting that can't be taken, by its path), ConflictError where the name is
    taken, NotFoundError for a dataset or model that isn't there.
    """
    actor.require(Role.USE)
    fields = _checked({
        "name": name, "description": description, "config": config, "model": model, "dataset": dataset,
    })  # fmt: skip
    with _unique(fields["name"]), transaction.atomic():
        row = RunTemplate.objects.create(**fields, created_by=actor.name)
        audit(actor, "run_template.create", f"run template {row.pk}", name=row.name)
    return get(row.pk)


def save_run(actor: Actor, run: Run, *, name: str, description: str = "") -> RunTemplate:
    """Makes a template of an existing run."""
    return save(
        actor, name=name, description=description, config=settings_of(run), model=start_of(run), dataset=run.dataset_id
    )


def start_of(run: Run) -> str:
    """The model that a run like this one names; none where its chain knows what the next one starts from."""
    return "" if run.chain else run.start_model.name


def settings_of(run: Run) -> dict[str, dict[str, Any]]:
    """What a run's settings were chosen to be, without what is its own. Its dataset's own evaluation share isn't a
    choice and stays open.
    """
    config = chosen(run.config)
    if run.config.get("data", {}).get("eval_fraction") == run.training_set.eval_fraction:
        config.get("data", {}).pop("eval_fraction", None)
    for section, name in LEFT_OUT:
        config.get(section, {}).pop(name, None)
    return {section: values for section, values in config.items() if values}


def change(actor: Actor, template_id: int, changes: Mapping[str, Any]) -> RunTemplate:
    """Changes some of name, description, config (as a whole), model and dataset (None: left open).

    Only its maker or an admin may. Runs that were started from it keep what they have.
    """
    row = _changeable(actor, template_id)
    if unknown := sorted(set(changes) - CHANGEABLE):
        raise InvalidInputError(f"A run template has no {', '.join(unknown)}: it has {', '.join(sorted(CHANGEABLE))}.")
    fields = _checked(dict(changes))
    with _unique(fields.get("name", row.name)), transaction.atomic():
        RunTemplate.objects.filter(pk=row.pk).update(**fields, updated_at=timezone.now())
        audit(actor, "run_template.update", f"run template {row.pk}", name=row.name, changed=sorted(fields))
    return get(row.pk)


def remove(actor: Actor, template_id: int) -> None:
    """Forgets a template; runs that were started from it stay."""
    row = _changeable(actor, template_id)
    with transaction.atomic():
        audit(actor, "run_template.delete", f"run template {row.pk}", name=row.name)
        row.delete()


def facts(row: RunTemplate) -> dict[str, Any]:
    """A template as the API tells it."""
    return {
        "id": row.pk, "name": row.name, "description": row.description, "config": row.config,
        "dataset": {"id": row.dataset.pk, "name": row.dataset.name, "version": row.dataset.version}
        if row.dataset else None,
        "model": row.model.name if row.model else None, "created_by": row.created_by,
        "created_at": row.created_at.isoformat(), "updated_at": row.updated_at.isoformat(),
    }  # fmt: skip


def _changeable(actor: Actor, template_id: int) -> RunTemplate:
    actor.require(Role.USE)
    row = get(template_id)
    actor.require_owner(f"The template {row.name}", row.created_by)
    return row


@contextmanager
def _unique(name: str) -> Iterator[None]:
    """Turns a name that is taken into a sentence."""
    try:
        yield
    except IntegrityError as error:
        raise ConflictError(
            f"There is already a run template {name!r}. Choose another name, or change that one."
        ) from error


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The model's fields. Raises InvalidInputError, naming the field."""
    fields: dict[str, Any] = {}
    if "name" in values:
        fields["name"] = _checked_name(str(values["name"] or ""))
    if "description" in values:
        fields["description"] = _checked_description(str(values["description"] or ""))
    if "dataset" in values:
        fields["dataset"] = _dataset(values["dataset"])
    if "model" in values:
        fields["model"] = _model(values["model"])
    if "config" in values:
        fields["config"] = _checked_config(values["config"])
    return fields


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME or not is_legible(name):
        raise InvalidInputError(
            f"A run template needs a name of 1 to {MAX_NAME} printable characters.",
            (FieldFault("name", f"1 to {MAX_NAME} printable characters"),),
        )
    return name


def _checked_description(text: str) -> str:
    text = text.strip()
    if len(text) > MAX_DESCRIPTION:
        raise InvalidInputError(
            f"The description of a run template has at most {MAX_DESCRIPTION} characters.",
            (FieldFault("description", f"at most {MAX_DESCRIPTION} characters"),),
        )
    return text


def _dataset(ref: int | str | None) -> Dataset | None:
    return datasets.get(ref) if ref not in (None, "") else None


def _model(name: str | None) -> LanguageModel | None:
    return models.get(name) if name else None


def _checked_config(given: Any) -> dict[str, dict[str, Any]]:
    """What the configuration asks for beyond the defaults, without what is a run's own."""
    if not isinstance(given, Mapping):
        raise InvalidInputError("config must be an object of sections.", (FieldFault("config", "an object"),))
    left = {section: dict(values) if isinstance(values, Mapping) else values for section, values in given.items()}
    left.pop("locked", None)
    for section, name in LEFT_OUT:
        if isinstance(left.get(section), dict):
            left[section].pop(name, None)
    parsed = config_faults.parsed(left)
    asked = parsed.profile
    config_faults.profile_of(
        asked.name, system_prompt=asked.system_prompt, options=asked.options, path="config.profile.name"
    )
    return _with_asked_share(chosen(to_dict(parsed)), left)


def _with_asked_share(config: dict[str, dict[str, Any]], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """An evaluation share that is asked for stays, also where it is the default: a dataset may have another."""
    share = given.get("data", {}).get("eval_fraction") if isinstance(given.get("data"), Mapping) else None
    if share is not None:
        config.setdefault("data", {})["eval_fraction"] = share
    return config
