"""The columns of the table of runs: what each shows of a run, and what the data base orders by. Web process.

Besides the fixed ones there is a column for each setting, by its path (`hyperparams.learning_rate`), and for the last
value of each metric (`last.eval_loss`), whatever a run may report.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DurationField, Expression, ExpressionWrapper, F, FloatField, Func, TextField
from django.db.models.functions import Lower
from django.db.models.sql.compiler import SQLCompiler

from controlplane.models import Run
from controlplane.services import run_facts
from training.config.difference import OF_THE_RUN
from training.config.fields import FieldInfo, by_path

Kind = Literal["run", "state", "progress", "number", "text", "setting", "tags", "moment", "duration"]
Order = Expression | F
LAST = "last."
LONGEST_KEY = 200
DEFAULT = ("state", "progress", "last.loss", "last.eval_loss", "tags", "model", "dataset", "created")
"""What the table shows where nobody chose columns."""

MOST_COLUMNS = 30


@dataclass(frozen=True)
class Column:
    """One column. `key` is its name in addresses; `order` what it is sorted by, None where it can't be."""

    key: str
    title: str
    kind: Kind
    value: Callable[[Run], Any]
    order: Order | None = None
    unit: str = ""

    @property
    def is_figure(self) -> bool:
        """Whether it is written to the right."""
        return self.kind in ("progress", "number", "moment", "duration")


class JsonNumber(Func):
    """A number inside a JSON column. Whatever else stands there is NULL, NaN and the infinities (texts) included."""

    output_field = FloatField()

    def __init__(self, column: str, *path: str) -> None:
        super().__init__(F(column))
        self.path = path

    def sqlite_path(self) -> str:
        """The names as the stored JSON has them: SQLite may compare them letter by letter, escapes included."""
        return "$" + "".join(f".{json.dumps(name)}" for name in self.path)

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **_context: Any) -> Any:
        """By SQLite's JSON functions; its paths know no escape for a quotation mark (see `can_be_ordered`)."""
        sql, params = compiler.compile(self.source_expressions[0])
        path = self.sqlite_path()
        whole = f"CASE WHEN JSON_TYPE({sql}, %s) IN ('integer', 'real') THEN JSON_EXTRACT({sql}, %s) END"
        return whole, (*params, path, *params, path)

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **_context: Any) -> Any:
        """By PostgreSQL's operators on jsonb."""
        sql, params = compiler.compile(self.source_expressions[0])
        path = list(self.path)
        whole = f"CASE WHEN JSONB_TYPEOF({sql} #> %s) = 'number' THEN ({sql} #>> %s)::double precision END"
        return whole, (*params, path, *params, path)


class JsonText(JsonNumber):
    """What stands inside a JSON column, as a text."""

    output_field = TextField()  # type: ignore[assignment] # django-stubs: a property of the parent's

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **_context: Any) -> Any:
        """See JsonNumber."""
        sql, params = compiler.compile(self.source_expressions[0])
        return f"CAST(JSON_EXTRACT({sql}, %s) AS TEXT)", (*params, self.sqlite_path())

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **_context: Any) -> Any:
        """See JsonNumber."""
        sql, params = compiler.compile(self.source_expressions[0])
        return f"({sql} #>> %s)", (*params, list(self.path))


def can_be_ordered(key: str) -> bool:
    """Whether a data base can order by the metric of this key."""
    return '"' not in key and "\\" not in key


def _took(run: Run) -> timedelta | None:
    job = run.job
    return job.ended_at - job.started_at if job.started_at and job.ended_at else None


_TOOK = ExpressionWrapper(F("job__ended_at") - F("job__started_at"), output_field=DurationField())
FIXED = (
    Column("run", "run", "run", lambda run: run.name, Lower("name")),
    Column("state", "state", "state", lambda run: run.job.status, F("job__status")),
    Column("progress", "progress", "progress", run_facts.progress, F("last_step")),
    Column("model", "model", "text", lambda run: run.model.name, F("model__name")),
    Column("dataset", "dataset", "text", lambda run: str(run.dataset), F("dataset__name")),
    Column("profile", "profile", "text", lambda run: run.profile, F("profile")),
    Column("tags", "tags", "tags", run_facts.tag_names),
    Column("group", "group", "text", lambda run: run.group, Lower("group")),
    Column("notes", "notes", "text", lambda run: run.notes),
    Column("started_by", "started by", "text", lambda run: run.created_by, F("created_by")),
    Column("host", "host", "text", lambda run: run.job.host.name if run.job.host else "", F("job__host__name")),
    Column("created", "created", "moment", lambda run: run.created_at, F("id")),
    Column("started", "started", "moment", lambda run: run.job.started_at, F("job__started_at")),
    Column("took", "took", "duration", _took, _TOOK),
)  # fmt: skip
_FIXED = {column.key: column for column in FIXED}
COMMON_SETTINGS = (
    "hyperparams.learning_rate", "hyperparams.per_device_train_batch_size", "hyperparams.gradient_accumulation_steps",
    "hyperparams.num_train_epochs", "hyperparams.max_steps", "hyperparams.max_length", "hyperparams.seed",
    "hyperparams.lr_scheduler_type", "hyperparams.weight_decay", "model.method", "model.lora_r", "model.lora_alpha",
    "data.packing",
)  # fmt: skip
"""What people compare most, offered first."""

COMMON_METRICS = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second")


def find(key: str) -> Column | None:
    """The column of a key, or None."""
    if key in _FIXED:
        return _FIXED[key]
    if key.startswith(LAST) and 0 < len(key) - len(LAST) <= LONGEST_KEY and key.isprintable():
        return _metric(key.removeprefix(LAST))
    field = by_path().get(key)
    return None if field is None or key.startswith(OF_THE_RUN) else _setting(field)


def _metric(name: str) -> Column:
    order = JsonNumber("last", name) if can_be_ordered(name) else None
    return Column(LAST + name, name, "number", lambda run: run.last.get(name), order)


def _setting(field: FieldInfo) -> Column:
    path = ("config", field.section, field.name)
    is_number = field.kind in ("integer", "number")
    order = JsonNumber(*path) if is_number else JsonText(*path)

    def value(run: Run) -> Any:
        return run.config.get(field.section, {}).get(field.name, field.default)

    return Column(field.path, field.inner_title, "number" if is_number else "setting", value, order, field.unit)


def to_cursor(value: Any) -> Any:
    """A value that rows are ordered by, as JSON can hold it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return round(value.total_seconds() * 1_000_000) if isinstance(value, timedelta) else value


def from_cursor(column: Column, value: Any) -> Any:
    """The same value again. Raises ValueError for what can't be one of this column."""
    if value is None:
        return None
    if column.kind == "moment" and column.key != "created":
        if not isinstance(value, str):
            raise ValueError("no moment")
        return _moment(value)
    if column.kind in ("run", "state", "text", "setting"):
        if not isinstance(value, str) or "\0" in value:
            raise ValueError("no text")
        value.encode()  # half a character is no text either
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("no number")
    is_whole = column.kind in ("progress", "moment", "duration")  # the others are floats to the data base
    if abs(value) >= 2**62 and (is_whole or isinstance(value, int)):
        raise ValueError("no number")
    return timedelta(microseconds=value) if column.kind == "duration" else value


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("no moment") from None
