"""Data that models generate: asked for, read, deleted; what its jobs report. Runs in the web process.

Its rows under review are `services.data_generation_rows`'s, what becomes of them `services.data_generation_dataset`'s.
"""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.db import transaction
from django.db.models import Count, QuerySet
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.legible import is_legible
from controlplane.models import DataGeneration, Dataset, GeneratedExample, Job, LanguageModel
from controlplane.models.access import Actor, Role
from controlplane.models.datasets import DatasetStatus
from controlplane.models.generated import ReviewState, Strategy
from controlplane.models.jobs import Kind, Status
from controlplane.models.language_models import ModelState
from controlplane.moments import iso
from controlplane.services import dataset_intake, datasets, jobs, models
from controlplane.services.access import audit
from controlplane.services.key_limits import check_model

NUM_EXAMPLES = (1, 1_000_000)
MAX_TOKENS = (1, 8192)
SEED = (0, 2**32 - 1)
TEMPERATURE = (0.0, 2.0)
TOP_P = (0.01, 1.0)
THRESHOLD = (0.0, 1.0)
LIMITS: dict[str, tuple[float, float]] = {
    "num_examples": NUM_EXAMPLES, "seed": SEED, "temperature": TEMPERATURE, "top_p": TOP_P, "max_tokens": MAX_TOKENS,
    "similarity_threshold": THRESHOLD,
}  # fmt: skip
LONGEST_DOMAIN = 500
DEFAULTS: dict[str, Any] = {
    "num_examples": 100, "domain": "", "seed": 42, "temperature": 0.8, "top_p": 0.95, "max_tokens": 256,
    "similarity_threshold": 0.7, "check": True,
}  # fmt: skip
CLAIM_LASTS = timedelta(minutes=15)
"""Who has been making a dataset of a generation for longer has died at it."""

NAMES_TOLD = 20
"""How many names are told to who asks for seeds that aren't there."""

REGIME3_PROFILE = {"name": "regime3"}
_WITH = ("job__host", "model__base", "seeds", "dataset")


# --- Asked for --------------------------------------------------------------------------------------------------------


def create(
    actor: Actor,
    *,
    strategy: str,
    model: str = "",
    seeds: int | str = "",
    name: str = "",
    review: bool = True,
    priority: str = "normal",
    **options: Any,
) -> DataGeneration:
    """Queues a generation. `options` are some of DEFAULTS; `name` is the dataset's, "" for one made of the seeds'.

    `regime3` makes its examples by rule: it has no use for a model, seeds or a domain, so none is looked for. Nothing
    is created where it raises InvalidInputError, NotFoundError, ConflictError or ForbiddenError.
    """
    actor.require(Role.USE)
    if strategy not in Strategy.values:
        raise _refused("strategy", f"There is no strategy {strategy!r}: choose {', '.join(Strategy.values)}.")
    chosen = _checked({**DEFAULTS, **options})
    row, found = (None, None) if strategy == Strategy.REGIME3 else (_model(actor, model), _seeds(seeds))
    title = _name(name) or f"{found.name} {strategy}"[:200] if found else _name(name) or strategy
    level = jobs.parse_priority(priority)
    with transaction.atomic():
        job = jobs.create(actor, Kind.DATA_GEN, f"Generate {title}", {"strategy": strategy}, priority=level)
        made = DataGeneration.objects.create(
            name=title, job=job, strategy=strategy, options=chosen, review=review, created_by=actor.name,
            model=row, model_name=row.name if row else "", seeds=found, seeds_name=str(found) if found else "",
            profile=row.profile if row else REGIME3_PROFILE,
        )  # fmt: skip
        audit(
            actor, "data_generation.create", title, strategy=strategy, model=made.model_name, seeds=made.seeds_name,
            num_examples=chosen["num_examples"],
        )  # fmt: skip
    return made


def _model(actor: Actor, name: str) -> LanguageModel:
    if not name:
        raise _refused("model_id", "Name the model that is to make the examples: GET /api/models lists them.")
    row = models.get(name)
    check_model(actor, row.name)
    if row.state != ModelState.READY:
        raise ConflictError(f"The model {row.name} is {row.state}: only a model that is ready can generate data.")
    return row


def _seeds(ref: int | str) -> Dataset:
    """The dataset that examples are made of. Raises NotFoundError with the names that there are."""
    if ref == "":
        raise _refused(
            "config.dataset_ref", "Name the dataset whose rows are the seeds: its id, or its name for the newest."
        )
    try:
        found = datasets.get(ref)
    except NotFoundError:
        ready = list(dict.fromkeys(row.name for row in datasets.list_ready()))
        more = f" and {len(ready) - NAMES_TOLD} more" if len(ready) > NAMES_TOLD else ""
        known = f"{', '.join(ready[:NAMES_TOLD]) or 'none'}{more}"
        raise NotFoundError(f"There is no dataset {ref!r} to be the seeds. There are: {known}.") from None
    if found.status != DatasetStatus.READY or not found.examples:
        raise ConflictError(f"The dataset {found} is {found.status}: only one that is ready can be the seeds.")
    if set((found.report or {}).get("shapes", ())) == {"text"}:
        raise ConflictError(f"The dataset {found} has raw texts alone: seeds are conversations. Choose another one.")
    return found


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The same, whole. Raises InvalidInputError for what isn't within its limits."""
    for name, (low, high) in LIMITS.items():
        if not low <= options[name] <= high:  # NaN fails too
            raise _refused(f"config.{name}", f"{name} must lie between {low:,} and {high:,}.")
    domain = options["domain"].strip()
    if len(domain) > LONGEST_DOMAIN or not is_legible(domain):
        raise _refused("config.domain", f"domain has at most {LONGEST_DOMAIN} printable characters, in one line.")
    return {name: options[name] for name in DEFAULTS} | {"domain": domain}


def _name(name: str) -> str:
    """The dataset's name, trimmed; nothing where none is given. Raises InvalidInputError."""
    name = name.strip()
    if "/" in name or "\\" in name:
        raise _refused(
            "config.output_dir", "output_dir is the name of the dataset that is made, not a path: leave slashes out."
        )
    try:
        return dataset_intake.check_name(name) if name else ""
    except InvalidInputError as error:
        raise _refused("config.output_dir", error.message) from None


def _refused(path: str, message: str) -> InvalidInputError:
    return InvalidInputError(message, (FieldFault(path, message),))


def delete(actor: Actor, row: DataGeneration) -> None:
    """Takes a generation that has ended off the books, with its rows and its job's folder. Its dataset stays."""
    actor.require_owner(f"Generation {row.pk}", row.created_by)
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(pk=row.job_id).first()  # before its row, as a retry does
        now = DataGeneration.objects.select_for_update().filter(pk=row.pk).first()
        if job is None or now is None:
            raise missing(row.pk)
        if not job.has_ended:
            raise ConflictError(f"Generation {row.pk} is {job.status}: cancel its job {job.pk} first.")
        if now.making_since is not None and now.making_since > timezone.now() - CLAIM_LASTS:
            raise being_made(row.pk)
        audit(actor, "data_generation.delete", row.name, strategy=row.strategy, model=row.model_name)
        Job.objects.filter(pk=row.job_id).delete()
    shutil.rmtree(Path(django_settings.HOME) / "jobs" / str(row.job_id), ignore_errors=True)


# --- Read -------------------------------------------------------------------------------------------------------------


def get(generation_id: int) -> DataGeneration:
    """The generation. Raises NotFoundError."""
    row = DataGeneration.objects.select_related(*_WITH).filter(pk=generation_id).first()
    if row is None:
        raise missing(generation_id)
    return row


def being_made(generation_id: int) -> ConflictError:
    """What whoever comes while the dataset is made is told."""
    return ConflictError(f"The dataset of generation {generation_id} is being made at this moment. Wait for it.")


def missing(generation_id: int) -> NotFoundError:
    """What whoever asks for one that isn't there is told."""
    return NotFoundError(f"There is no generation {generation_id}.")


def of_job(job_id: int) -> DataGeneration:
    """The generation of a job. Raises NotFoundError, also for a job of another kind."""
    rows = DataGeneration.objects.select_related(*_WITH)
    row = rows.filter(job__in=Job.objects.filter(pk=job_id)).first()  # so a number beyond 63 bits is no fault
    if row is None:
        raise NotFoundError(f"There is no data generation job {job_id}. GET /api/jobs?type=data_gen lists them.")
    return row


def rows() -> "QuerySet[DataGeneration]":
    """All generations, newest first, with what their facts tell of other tables."""
    return DataGeneration.objects.select_related(*_WITH)


def counts(*rows: DataGeneration) -> dict[int, dict[str, int]]:
    """{id: {"pending", "accepted", "rejected", "edited"}}; of one that has become a dataset, what it had then."""
    found = {row.pk: row.counts or dict.fromkeys((*ReviewState.values, "edited"), 0) for row in rows}
    asked = GeneratedExample.objects.filter(generation__in=[row.pk for row in rows if row.made_at is None])
    groups = asked.order_by().values_list("generation", "state", "edited_by").annotate(number=Count("pk"))
    for generation, state, edited_by, number in groups:
        found[generation][state] += number
        found[generation]["edited"] += number if edited_by else 0
    return found


def shards(row: DataGeneration) -> list[dict[str, Any]]:
    """[{"file", "rows", "sha256"}]: what the job told when it was done; before, the files that are whole already."""
    if row.job.status == Status.DONE and row.job.result is not None:
        told: list[dict[str, Any]] = row.job.result["shards"]
        return told
    return [{"file": path.name, "rows": None, "sha256": None} for path in shard_files(row)]


def shard_files(row: DataGeneration) -> list[Path]:
    """The whole shards on this machine, in order."""
    return sorted(row.folder.glob(f"shard-{'[0-9]' * 5}.jsonl"))


def facts(row: DataGeneration, counted: dict[str, int] | None = None) -> dict[str, Any]:
    """A generation as the API answers it (`result` None until it is done); `counted` where its rows are counted."""
    job = row.job
    result = {name: value for name, value in (job.result or {}).items() if name != "shards"}
    return {
        "id": row.pk, "job_id": job.pk, "type": Kind.DATA_GEN.value, "name": row.name, "status": job.status,
        "model_id": row.model_name, "strategy": row.strategy,
        "config": {**row.options, "output_dir": row.name, "dataset_ref": row.seeds_id, "review": row.review},
        "seeds": {"id": row.seeds_id, "name": row.seeds_name} if row.seeds_name else None,
        "progress": job.progress, "waiting_reason": job.waiting_reason if job.status == Status.PENDING else "",
        "result": result if job.status == Status.DONE else None, "error": job.error, "shards": shards(row),
        "examples": counted or counts(row)[row.pk], "is_read": row.is_read, "dataset_id": row.dataset_id,
        "fault": row.fault, "created_by": row.created_by, "created_at": row.created_at.isoformat(),
        "ended_at": iso(job.ended_at),
    }  # fmt: skip


# --- What the job reports ---------------------------------------------------------------------------------------------


def retried(job: Job) -> None:
    """It is queued once more: what it writes from now on is read too. Inside the transaction that queues it."""
    row = DataGeneration.objects.select_related("dataset").filter(job=job).first()
    if row is None:
        return
    if row.made_at is not None or row.making_since is not None:
        raise ConflictError(f"What generation {row.pk} made has become a dataset already. Begin a new generation.")
    DataGeneration.objects.filter(pk=row.pk).update(is_read=False, fault="")
