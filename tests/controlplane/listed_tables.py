"""Rows for every table that is asked by its address, and where each is found. Used by its tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Model, QuerySet
from django.http import QueryDict
from django.utils import timezone

from controlplane.models import (
    Alert,
    ApiKey,
    AuditLine,
    Conversation,
    DataGeneration,
    Dataset,
    Evaluation,
    Host,
    InboxFile,
    Job,
    LanguageModel,
    PowerSweep,
    RunSweep,
    User,
)
from controlplane.models.access import SYSTEM
from controlplane.services.tables import (
    alerts,
    audit,
    conversations,
    datasets,
    evaluations,
    generations,
    inbox,
    jobs,
    keys,
    models,
    power_sweeps,
    sweeps,
)
from controlplane.services.tables.keyset import Question, Table
from tests import factories

Make = Callable[[int, str], Model]
STATES = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Listing:
    """One table: its page, its call, the name of its rows there, and what makes row `number` with a name."""

    page: str
    call: str
    rows: str
    table: Table
    make: Make
    ask: Callable[[QueryDict], Question]
    noun: str = ""

    @property
    def model(self) -> Any:
        """What its rows are."""
        rows = self.ask(QueryDict()).filters.queryset
        assert rows is not None
        return rows.model

    @property
    def sorts(self) -> Iterator[str]:
        """Every order, up and down."""
        for column in self.table.columns:
            if column.order is not None:
                yield from (column.key, f"-{column.key}")


def owner() -> User:
    """Whose conversations are listed: the first admin."""
    return User.objects.filter(role="admin").order_by("pk").first() or factories.make_user("admin", "mara")


def _job(number: int, kind: str = "fetch", title: str = "") -> Job:
    """Every second one has run, for one of two times."""
    begun = timezone.now() - timedelta(hours=1) if number % 2 else None
    ended = begun + timedelta(seconds=number % 4) if begun else None
    return factories.make_job(
        kind, STATES[number % 3], title=title, created_by=f"p{number % 2}", started_at=begun, ended_at=ended
    )


def _dataset(number: int, name: str) -> Dataset:
    return Dataset.objects.create(
        name=name[:200], version=number + 1, filename=name[:255], sha256=f"{number:064d}", bytes=number % 3,
        examples=number % 2 or None, status=["ready", "rejected"][number % 2], created_by=f"p{number % 2}",
    )  # fmt: skip


def _model(number: int, name: str) -> LanguageModel:
    return LanguageModel.objects.create(
        name=f"{name[:190]} {number}", source="hub", state=["ready", "failed"][number % 2],
        parameters=number % 3 or None, size_bytes=number % 2, created_by="somebody",
        created_at=timezone.now() - timedelta(days=number // 2),
    )  # fmt: skip


def _evaluation(number: int, name: str) -> Evaluation:
    return Evaluation.objects.create(
        name=name[:200], job=_job(number, "eval"), model_name=name[:200], dataset_name=f"set {number % 2}", rows="all",
        created_by=f"p{number % 2}",
    )  # fmt: skip


def _generation(number: int, name: str) -> DataGeneration:
    return DataGeneration.objects.create(
        name=name[:200], job=_job(number, "data_gen"), strategy="answer", options={"num_examples": 5},
        model_name=name[:200], seeds_name=f"set {number % 2}", created_by=f"p{number % 2}",
    )  # fmt: skip


def _sweep(number: int, name: str) -> RunSweep:
    known = RunSweep.objects.first()
    model = known.model if known else factories.make_model()
    return RunSweep.objects.create(
        name=name[:150], method="grid", space=[{"field": "hyperparams.learning_rate", "values": [1e-4, 1e-3]}],
        dataset=known.dataset if known else factories.make_dataset(), model=model,
        max_trials=number % 3, state=["done", "stopped"][number % 2], created_by=f"p{number % 2}",
    )  # fmt: skip


def _conversation(number: int, name: str) -> Conversation:
    used = timezone.now().replace(microsecond=0) - timedelta(hours=number // 3)
    settings = {"model": f"m{number % 2}"} if number % 3 else {}
    return Conversation.objects.create(
        title=name[:200], settings=settings, owner=owner().actor().owner, created_by="mara", updated_at=used
    )


def _alert(number: int, name: str) -> Alert:
    begun = timezone.now() - timedelta(hours=1)
    return Alert.objects.create(
        rule="run_failed", subject=name[:200], severity=["critical", "info", "warning"][number % 3], message=name,
        created_at=begun, ended_at=begun + timedelta(seconds=number % 2),
    )  # fmt: skip


def _line(number: int, name: str) -> AuditLine:
    detail = {"name": name}
    return AuditLine.objects.create(actor=f"p{number % 2}", action="job.create", target=name[:200], detail=detail)


def _key(number: int, name: str) -> ApiKey:
    moment = timezone.now().replace(microsecond=0) if number % 2 else None
    return ApiKey.objects.create(
        name=name[:100], role=["use", "read"][number % 2], prefix=f"{number:08d}", hash=f"{number:064d}",
        created_by="mara", last_used_at=moment, expires_at=moment, revoked_at=moment if number % 3 else None,
    )  # fmt: skip


def _file(number: int, name: str) -> InboxFile:
    state = ["done", "running", "failed"][number % 3]
    return InboxFile.objects.create(filename=name[:255], state=state, reason=name[:400], bytes=number % 2)


def _power_sweep(number: int, name: str) -> PowerSweep:
    host = Host.objects.first() or factories.make_host("box")
    asked = {"gpu_index": 0, "gpu_name": name[:60], "seconds_per_profile": 9, "concurrency": 1, "max_tokens": 64}
    return PowerSweep.objects.create(
        model_name=name[:200], host=host, gpu_uuid=f"GPU-{number}", status="done", created_by=f"p{number % 2}",
        recommended=["normal", ""][number % 2], config=asked,
    )  # fmt: skip


LISTINGS = {
    "jobs": Listing(
        "/queue/jobs/", "/api/jobs", "jobs", jobs.TABLE, lambda n, name: _job(n, title=name[:250]), jobs.ask, "jobs"
    ),
    "datasets": Listing("/datasets/", "/api/datasets", "datasets", datasets.TABLE, _dataset, datasets.ask, "datasets"),
    "models": Listing("/models/", "/api/models", "models", models.TABLE, _model, models.ask, "models"),
    "evaluations": Listing(
        "/evaluate/", "/api/eval/jobs", "evaluations", evaluations.TABLE, _evaluation, evaluations.ask, "evaluations"
    ),
    "generations": Listing(
        "/datasets/generate/", "/api/data_gen/jobs", "generations", generations.TABLE, _generation, generations.ask,
        "generations",
    ),
    "sweeps": Listing("/runs/sweeps/", "/api/run-sweeps", "sweeps", sweeps.TABLE, _sweep, sweeps.ask, "sweeps"),
    "conversations": Listing(
        "/chat/conversations", "/api/conversations", "conversations", conversations.TABLE, _conversation,
        lambda asked: conversations.ask(owner().actor(), asked), "conversations",
    ),
    "inbox": Listing("/queue/inbox/", "/api/inbox", "files", inbox.TABLE, _file, inbox.ask),
    "power-sweeps": Listing(
        "/power/sweeps/", "/api/power_sweeps", "sweeps", power_sweeps.TABLE, _power_sweep, power_sweeps.ask
    ),
    "alerts": Listing(
        "/alerts/", "/api/alerts", "alerts", alerts.TABLE, _alert, lambda asked: alerts.ask(asked, is_open=False)
    ),
    "audit": Listing(
        "/settings/audit", "/api/audit", "lines", audit.TABLE, _line, lambda asked: audit.ask(SYSTEM, asked)
    ),
    "keys": Listing(
        "/settings/keys", "/api/keys", "keys", keys.TABLE, _key, lambda asked: keys.ask(SYSTEM, asked), "keys"
    ),
}  # fmt: skip


def fill(listing: Listing, count: int, name: str = "row") -> list[Any]:
    """Rows whose values are equal in groups; their keys in the order in which they were made."""
    return [listing.make(number, name).pk for number in range(count)]


def rows_named(word: str, name: str) -> "QuerySet[Any]":
    """The rows of a table that were made with a name."""
    other = {
        "jobs": "title", "conversations": "title", "alerts": "subject", "audit": "target", "inbox": "filename",
        "power-sweeps": "model_name",
    }  # fmt: skip
    field = other.get(word, "name")
    model: Any = LISTINGS[word].model
    rows: QuerySet[Any] = model.objects.filter(**{f"{field}__startswith": name})
    return rows
