"""The columns of the table of runs: what each shows of a run, and what the data base orders by. Web process.

Besides the fixed ones there is a column for each setting, by its path (`hyperparams.learning_rate`), and for the last
value of each metric (`last.eval_loss`), whatever a run may report.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import F
from django.db.models.functions import Lower

from controlplane.legible import is_legible
from controlplane.models import Run
from controlplane.services import run_facts
from controlplane.services.tables.columns import Column, Kind
from controlplane.services.tables.json_values import JsonNumber, JsonText, is_reachable
from controlplane.services.tables.spans import SecondsBetween
from training.config.difference import OF_THE_RUN
from training.config.fields import FieldInfo, by_path

LAST = "last."
LONGEST_KEY = 200
DEFAULT = ("state", "progress", "last.loss", "last.eval_loss", "tags", "model", "dataset", "created")
"""What the table shows where nobody chose columns."""

MOST_COLUMNS = 30


@dataclass(frozen=True)
class RunColumn(Column):
    """A column of the table of runs. `value`: what it shows of one."""

    value: Callable[[Run], Any] = lambda _run: None


def _took(run: Run) -> timedelta | None:
    job = run.job
    return job.ended_at - job.started_at if job.started_at and job.ended_at else None


def _host(run: Run) -> str:
    return run.job.host.name if run.job.host else ""


FIXED = (
    RunColumn("run", "run", "text", Lower("name"), is_full=True, value=lambda run: run.name),
    RunColumn("state", "state", "state", F("job__status"), is_full=True, value=lambda run: run.job.status),
    RunColumn("progress", "progress", "progress", F("last_step"), is_full=True, value=run_facts.progress),
    RunColumn("model", "model", "text", F("model__name"), value=lambda run: run.model.name if run.model else ""),
    RunColumn("dataset", "dataset", "text", F("dataset__name"), value=lambda run: str(run.dataset or "")),
    RunColumn("profile", "profile", "text", F("profile"), is_full=True, value=lambda run: run.profile),
    RunColumn("tags", "tags", "tags", value=run_facts.tag_names),
    RunColumn("group", "group", "text", Lower("group"), is_full=True, value=lambda run: run.group),
    RunColumn("notes", "notes", "text", value=lambda run: run.notes),
    RunColumn("started_by", "started by", "text", F("created_by"), is_full=True, value=lambda run: run.created_by),
    RunColumn("host", "host", "text", F("job__host__name"), value=_host),
    RunColumn("created", "created", "moment", F("id"), is_full=True, value=lambda run: run.created_at),
    RunColumn("started", "started", "moment", F("job__started_at"), value=lambda run: run.job.started_at),
    RunColumn("took", "took", "duration", SecondsBetween("job__started_at", "job__ended_at"), value=_took),
)
_FIXED = {column.key: column for column in FIXED}
COMMON_SETTINGS = (
    "hyperparams.learning_rate", "hyperparams.per_device_train_batch_size", "hyperparams.gradient_accumulation_steps",
    "hyperparams.num_train_epochs", "hyperparams.max_steps", "hyperparams.max_length", "hyperparams.seed",
    "hyperparams.lr_scheduler_type", "hyperparams.weight_decay", "model.method", "model.lora_r", "model.lora_alpha",
    "data.packing",
)  # fmt: skip
"""What people compare most, offered first."""

COMMON_METRICS = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second")


def find(key: str) -> RunColumn | None:
    """The column of a key, or None."""
    if key in _FIXED:
        return _FIXED[key]
    if key.startswith(LAST) and 0 < len(key) - len(LAST) <= LONGEST_KEY and is_legible(key):
        return _metric(key.removeprefix(LAST))
    field = by_path().get(key)
    return None if field is None or key.startswith(OF_THE_RUN) else _setting(field)


def _metric(name: str) -> RunColumn:
    order = JsonNumber("last", name) if is_reachable(name) else None
    return RunColumn(LAST + name, name, "number", order, value=lambda run: run.last.get(name))


def _setting(field: FieldInfo) -> RunColumn:
    path = ("config", field.section, field.name)
    is_number = field.kind in ("integer", "number")
    order = JsonNumber(*path) if is_number else JsonText(*path)

    def value(run: Run) -> Any:
        return run.config.get(field.section, {}).get(field.name, field.default)

    kind: Kind = "number" if is_number else "setting"
    return RunColumn(field.path, field.inner_title, kind, order, field.unit, value=value)
