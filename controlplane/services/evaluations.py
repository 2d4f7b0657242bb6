"""Evaluations: asked for, read, deleted; what their jobs report. Runs in the web process.

What is on the rows' log is `services.evaluations_log`'s, two of them side by side `services.evaluations_compare`'s.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.db import transaction
from django.db.models import QuerySet

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.legible import is_legible
from controlplane.models import Checkpoint, Dataset, Evaluation, Job, LanguageModel, Run
from controlplane.models.access import Actor, Role
from controlplane.models.datasets import DatasetStatus
from controlplane.models.evaluations import RowChoice
from controlplane.models.jobs import Kind, Status
from controlplane.models.language_models import ModelState
from controlplane.moments import iso
from controlplane.services import checkpoints, datasets, evaluations_log, jobs, models, run_facts
from controlplane.services.access import audit
from controlplane.services.evaluations_log import Figure, regex_fault
from controlplane.services.key_limits import check_model
from training.config.schedule import held_out

ANSWER_METRICS = ("accuracy", "exact_match", "contains", "regex", "rouge_l", "bleu", "profile_check")
LOSS_METRICS = ("loss", "perplexity")
TRAINED_BY = ("run__dataset", "run__model", "model__run__dataset", "model__run__model")
"""What `warning` looks at."""

METRICS = (*ANSWER_METRICS, *LOSS_METRICS)
SMALLER_IS_BETTER = frozenset(LOSS_METRICS)
MAX_SAMPLES = (1, 100_000)
MAX_TOKENS = (1, 8192)
DEFAULT_SEED = 42
"""That of a training run where nobody chose one: the rows it holds out are those that are asked."""


# --- Asked for --------------------------------------------------------------------------------------------------------


def create(
    actor: Actor,
    *,
    model: str,
    dataset: int | str,
    name: str = "",
    metrics: Sequence[str] = ("accuracy", "loss"),
    rows: str = "",
    max_samples: int = 1000,
    max_tokens: int = 256,
    pattern: str = "",
    keep_texts: bool = True,
    priority: str = "normal",
) -> Evaluation:
    """Queues the evaluation of a registered model.

    `rows` "": those that are held out, or all of a dataset that holds none out. Nothing is created where it raises
    InvalidInputError, NotFoundError or ConflictError.
    """
    actor.require(Role.USE)
    row = models.get(model)
    check_model(actor, row.name)
    if row.state != ModelState.READY:
        raise ConflictError(f"The model {row.name} is {row.state}: only a model that is ready can be evaluated.")
    found = datasets.get(dataset)
    asked = _Rows.of(found, rows, found.eval_fraction, max_samples)
    subject = {"model": row, "model_name": row.name, "seed": DEFAULT_SEED}
    return _create(
        actor, found, asked, name=name, subject=subject, metrics=metrics, max_tokens=max_tokens, pattern=pattern,
        keep_texts=keep_texts, priority=priority,
    )  # fmt: skip


def create_of_checkpoint(actor: Actor, run: Run, step: int, **options: Any) -> Evaluation:
    """Queues the evaluation of a run's checkpoint as `queue_checkpoint` does, and keeps that until then."""
    with transaction.atomic():
        made = queue_checkpoint(actor, run, step, **options)
        keep_checkpoint(made)
    return made


def queue_checkpoint(
    actor: Actor,
    run: Run,
    step: int,
    *,
    metrics: Sequence[str] = ("accuracy", "loss"),
    max_samples: int = 1000,
    max_tokens: int = 256,
    pattern: str = "",
    priority: str = "low",
) -> Evaluation:
    """Queues the evaluation of a run's checkpoint, on the rows that the run holds out.

    The checkpoint stays until then, once `keep_checkpoint` has said so.
    """
    actor.require(Role.USE)
    run.require_settings()
    check_model(actor, run_facts.model_name(run))
    checkpoint = checkpoints.get(run, step)
    data = run.config["data"]
    held = datasets.get(data["eval_dataset"]) if data["eval_dataset"] else run.training_set
    choice = RowChoice.ALL if data["eval_dataset"] else RowChoice.HELD_OUT
    asked = _Rows.of(held, choice, data["eval_fraction"], max_samples)
    subject = {
        "run": run, "checkpoint_step": step, "model_name": f"run {run.pk} · step {step}",
        "seed": run.config["hyperparams"]["seed"], "checkpoint_sha256": checkpoint.manifest_sha256,
    }  # fmt: skip
    return _create(
        actor, held, asked, name=f"{run.name} step {step}"[:200], subject=subject, metrics=metrics,
        max_tokens=max_tokens, pattern=pattern, keep_texts=True, priority=priority,
    )  # fmt: skip


def keep_checkpoint(row: Evaluation) -> None:
    """Retention leaves its checkpoint alone until it is over. Raises NotFoundError when that has gone meanwhile."""
    if row.run is not None and row.checkpoint_step is not None:
        checkpoints.mark(checkpoints.get(row.run, row.checkpoint_step), _mark(row))


def evaluate_checkpoints(actor: Actor, run: Run, **options: Any) -> list[Evaluation]:
    """Queues every checkpoint of a run that hasn't been evaluated yet, and isn't about to be. Newest first."""
    actor.require(Role.USE)
    known = of_run(run)
    made = []
    for row in run.checkpoints.filter(gone_at=None).order_by("-step"):
        if not is_of_these_weights(known.get(row.step), row):
            made.append(create_of_checkpoint(actor, run, row.step, **options))
    if not made:
        raise ConflictError(f"Run {run.pk} has no checkpoint that isn't evaluated already.")
    return made


def is_of_these_weights(row: Evaluation | None, checkpoint: Checkpoint) -> bool:
    """Whether an evaluation is, or will be, of what a checkpoint holds now: a run that was set back writes it anew."""
    if row is None or row.job.status in (Status.FAILED, Status.CANCELLED):
        return False
    return row.checkpoint_sha256 == checkpoint.manifest_sha256


def create_like(actor: Actor, like: Evaluation, model: LanguageModel) -> Evaluation:
    """Queues the same evaluation of another model: the same rows, metrics and limits."""
    if like.dataset is None:
        raise ConflictError(f"The dataset {like.dataset_name} has been deleted: evaluate on another one.")
    check_model(actor, model.name)
    subject = {"model": model, "model_name": model.name, "seed": like.seed}
    return _create(
        actor, like.dataset, _Rows(like.rows, like.take), name=f"{model.name} on {like.dataset}"[:200],
        subject=subject, metrics=like.metrics, max_tokens=like.max_tokens, pattern=like.pattern,
        keep_texts=like.keep_texts, priority="normal",
    )  # fmt: skip


class _Rows:
    """Which rows are asked: the choice, and how many in the order of the seed (0: all)."""

    def __init__(self, choice: str, take: int) -> None:
        self.choice = choice
        self.take = take

    @classmethod
    def of(cls, dataset: Dataset, choice: str, fraction: float, max_samples: int) -> "_Rows":
        """Raises ConflictError for a dataset that isn't ready, InvalidInputError for rows that there are not."""
        if dataset.status != DatasetStatus.READY or not dataset.examples:
            raise ConflictError(f"The dataset {dataset} is {dataset.status}: only one that is ready can be asked.")
        if choice and choice not in RowChoice.values:
            raise _refused("rows", f"There are no rows {choice!r}: choose {', '.join(RowChoice.values)}.")
        if not MAX_SAMPLES[0] <= max_samples <= MAX_SAMPLES[1]:
            raise _refused("max_samples", f"max_samples must lie between 1 and {MAX_SAMPLES[1]:,}.")
        held = held_out(dataset.examples, fraction)
        choice = choice or (RowChoice.HELD_OUT if held else RowChoice.ALL)
        if choice == RowChoice.HELD_OUT and not held:
            raise _refused("rows", f"{dataset} holds no rows out for evaluation: ask all of them instead.")
        there = held if choice == RowChoice.HELD_OUT else dataset.examples
        take = min(there, max_samples)
        return cls(choice, 0 if take == dataset.examples else take)


def _create(
    actor: Actor, dataset: Dataset, asked: _Rows, *, name: str, subject: dict[str, Any], metrics: Sequence[str],
    max_tokens: int, pattern: str, keep_texts: bool, priority: str,
) -> Evaluation:  # fmt: skip
    chosen = _check(name, metrics, max_tokens, pattern)
    level = jobs.parse_priority(priority)
    title = name.strip() or f"{subject['model_name']} on {dataset}"
    with transaction.atomic():
        job = jobs.create(actor, Kind.EVAL, f"Evaluate {title}", {}, priority=level)
        made = Evaluation.objects.create(
            job=job, name=title[:200], dataset=dataset, dataset_name=str(dataset), rows=asked.choice, take=asked.take,
            metrics=chosen, max_tokens=max_tokens, pattern=pattern, keep_texts=keep_texts, created_by=actor.name,
            **subject,
        )  # fmt: skip
        audit(actor, "evaluation.create", title, model=made.model_name, dataset=made.dataset_name)
    return made


def _check(name: str, metrics: Sequence[str], max_tokens: int, pattern: str) -> list[str]:
    """The metrics, each once. Raises InvalidInputError."""
    if len(name.strip()) > 200 or not is_legible(name.strip()):
        raise _refused("name", "An evaluation's name has at most 200 printable characters.")
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        what = f"There is no metric {unknown[0]!r}" if unknown else "An evaluation needs a metric"
        raise _refused("metrics", f"{what}: choose from {', '.join(METRICS)}.")
    if not MAX_TOKENS[0] <= max_tokens <= MAX_TOKENS[1]:
        raise _refused("max_tokens", f"max_tokens must lie between 1 and {MAX_TOKENS[1]:,}.")
    if "regex" in metrics and (fault := regex_fault(pattern)):
        raise _refused("pattern", fault)
    return list(dict.fromkeys(metrics))


def _refused(path: str, message: str) -> InvalidInputError:
    return InvalidInputError(message, (FieldFault(path, message),))


def delete(actor: Actor, evaluation_id: int) -> None:
    """Takes an evaluation that has ended off the books, with its log."""
    row = get(evaluation_id)
    actor.require_owner(f"Evaluation {row.pk}", row.created_by)
    if not row.job.has_ended:
        raise ConflictError(f"Evaluation {row.pk} is {row.job.status}: cancel its job {row.job_id} first.")
    with transaction.atomic():
        audit(actor, "evaluation.delete", row.name, model=row.model_name, dataset=row.dataset_name)
        Job.objects.filter(pk=row.job_id).delete()
    shutil.rmtree(Path(django_settings.HOME) / "jobs" / str(row.job_id), ignore_errors=True)


# --- Read -------------------------------------------------------------------------------------------------------------


def get(evaluation_id: int) -> Evaluation:
    """The evaluation. Raises NotFoundError."""
    row = Evaluation.objects.select_related("job__host", "dataset", *TRAINED_BY).filter(pk=evaluation_id)
    if (found := row.first()) is None:
        raise NotFoundError(f"There is no evaluation {evaluation_id}.")
    return found


def of_job(job_id: int) -> Evaluation:
    """The evaluation of a job. Raises NotFoundError, also for a job of another kind."""
    rows = Evaluation.objects.select_related("job__host", "dataset", *TRAINED_BY)
    row = rows.filter(job__in=Job.objects.filter(pk=job_id)).first()  # so a number beyond 63 bits is no fault
    if row is None:
        raise NotFoundError(f"There is no evaluation job {job_id}. GET /api/jobs?type=eval lists them.")
    return row


def rows() -> "QuerySet[Evaluation]":
    """All evaluations, newest first, with what their facts tell of other tables."""
    return Evaluation.objects.select_related("job", "dataset", *TRAINED_BY)


def list_evaluations(
    limit: int = 50, *, dataset: Dataset | None = None, model: LanguageModel | None = None
) -> list[Evaluation]:
    """Evaluations, newest first; those of one dataset or one model where named."""
    found = rows()
    found = found.filter(dataset=dataset) if dataset is not None else found
    found = found.filter(model=model) if model is not None else found
    return list(found[: max(1, min(limit, 500))])


def of_run(run: Run) -> dict[int, Evaluation]:
    """The newest evaluation of each checkpoint of a run, by its step."""
    rows = Evaluation.objects.select_related("job", "dataset").filter(run=run, checkpoint_step__isnull=False)
    return {row.checkpoint_step: row for row in rows.order_by("id") if row.checkpoint_step is not None}


def facts(row: Evaluation) -> dict[str, Any]:
    """An evaluation as the API answers it (`result` None until it is done)."""
    job = row.job
    return {
        "id": row.pk, "job_id": job.pk, "type": Kind.EVAL.value, "name": row.name, "status": job.status,
        "model_id": row.model_name, "run_id": row.run_id, "checkpoint_step": row.checkpoint_step,
        "dataset": {"id": row.dataset_id, "name": row.dataset_name}, "rows": row.rows, "max_samples": row.take or None,
        "metrics": row.metrics, "max_tokens": row.max_tokens, "pattern": row.pattern,
        "per_example_logging": row.keep_texts, "progress": job.progress, "error": job.error,
        "waiting_reason": job.waiting_reason if job.status == Status.PENDING else "", "result": result(row),
        "warning": warning(row), "created_by": row.created_by, "created_at": row.created_at.isoformat(),
        "ended_at": iso(job.ended_at),
    }  # fmt: skip


def result(row: Evaluation) -> dict[str, Any] | None:
    """The figures of an evaluation that is done, with their 95 % intervals under `ci95`."""
    values = row.job.result
    if row.job.status != Status.DONE or values is None:
        return None
    found = figures(row)
    return {
        **{name: value for name, value in values.items() if name != "examples_file"},
        "ci95": {name: [figure["low"], figure["high"]] for name, figure in found.items()},
    }  # fmt: skip


def measured(row: Evaluation) -> tuple[str, ...]:
    """The metrics that an evaluation gives: those asked for, and accuracy wherever anything is answered."""
    answers = any(metric in ANSWER_METRICS for metric in row.metrics)
    return tuple(dict.fromkeys(("accuracy", *row.metrics) if answers else row.metrics))


def figures(row: Evaluation) -> dict[str, Figure]:
    """{metric: {"value", "low", "high"}} of an evaluation that is done; calculated once, and stored.

    None at all where its log isn't on this machine.
    """
    if row.job.status != Status.DONE:
        return {}
    if row.figures is None:
        row.figures = evaluations_log.figures(row)
        if row.figures is None:
            return {}
        Evaluation.objects.filter(pk=row.pk).update(figures=row.figures)
    stored: dict[str, Figure] = row.figures
    return stored


def measure() -> None:
    """Calculates the figures of what is done and has none yet. A duty: the log of 100,000 rows takes seconds."""
    waiting = Evaluation.objects.select_related("job").filter(job__status=Status.DONE, figures__isnull=True)
    for row in waiting.order_by("id"):
        figures(row)


def warning(row: Evaluation) -> str:
    """Why the figures may flatter the model: it has been trained on rows that it is asked. Else nothing."""
    return next((told for run in _trainings(row) if (told := _seen(row, run))), "")


def _trainings(row: Evaluation) -> Iterator[Run]:
    """The runs that the model comes from: the last one, the one that made what that began with, and so on."""
    run = row.run or (row.model.run if row.model is not None else None)
    known: set[int] = set()
    while run is not None and run.pk not in known:
        known.add(run.pk)
        yield run
        run = run.model.run if run.model is not None else None


def _seen(row: Evaluation, run: Run) -> str:
    """What a run has seen of the rows that are asked: the first in the order of the seed, whatever the choice."""
    if row.dataset_id != run.dataset_id:
        return ""
    data, whole = run.config["data"], run.training_set.examples or 0
    held = 0 if data["eval_dataset"] else held_out(whole, data["eval_fraction"])
    asked = row.take or whole
    if held and run.config["hyperparams"]["seed"] == row.seed and asked <= held:
        return ""
    if not held or asked == whole:
        return f"Run {run.pk} was trained on this dataset: most of these rows it has seen in training."
    return f"Run {run.pk} held other rows out than these: some of them it has seen in training."


# --- What the job reports, called inside ingest transactions ----------------------------------------------------------


def done(job: Job) -> None:
    """All rows are asked: a duty calculates the intervals (`measure`)."""
    row = Evaluation.objects.filter(job=job).first()
    if row is not None:
        _let_go(row)
        Evaluation.objects.filter(pk=row.pk).update(figures=None)


def failed(job: Job) -> None:
    """It won't be tried again by itself."""
    row = Evaluation.objects.filter(job=job).first()
    if row is not None:
        _let_go(row)


def retried(job: Job) -> None:
    """It is queued once more. Raises NotFoundError when its checkpoint has gone meanwhile."""
    row = Evaluation.objects.select_related("run").filter(job=job).first()
    if row is not None:
        keep_checkpoint(row)


def _mark(row: Evaluation) -> str:
    """Under this name a checkpoint is kept until its evaluation is over."""
    return f"{checkpoints.EVALUATION}{row.pk}"


def _let_go(row: Evaluation) -> None:
    found: Iterable[Checkpoint] = Checkpoint.objects.filter(run=row.run_id, step=row.checkpoint_step or -1)
    for checkpoint in found:
        checkpoints.unmark(checkpoint, _mark(row))
