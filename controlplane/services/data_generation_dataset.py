"""What becomes of generated rows: a dataset with its lineage. Runs in the web process; `work` is a duty.

Rows are written to a file one by one, outside of any transaction; whoever makes a dataset claims its generation first,
so that a second press makes none.
"""

import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from django.conf import settings as django_settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from controlplane.errors import ConflictError, PilothouseError
from controlplane.models import DataGeneration, Dataset
from controlplane.models.access import Actor, Role
from controlplane.models.generated import ReviewState, Strategy
from controlplane.models.jobs import ENDED, Status
from controlplane.services import data_generation, data_generation_rows, dataset_intake
from controlplane.services.access import audit
from controlplane.services.lineage import LONGEST_NAME, Lineage
from training.profiles.regime3.profile import Regime3Profile

log = logging.getLogger(__name__)
EVAL_FRACTION = 0.05
READ_AT_ONCE = 1000

TIMES_TRIED = 10
"""One that breaks the duty so often in a row, and whose job has ended, is given up."""

_broken: Counter[int] = Counter()
"""{generation: how often it broke the duty in a row}."""


def make(
    actor: Actor, row: DataGeneration, *, name: str = "", eval_fraction: float = EVAL_FRACTION
) -> tuple[Dataset, bool]:
    """Makes a dataset of the accepted rows (of all of them where the generation has no review) and has it checked.

    Returns the dataset, and whether it is new: once it is made, the same one comes again. The rows go with it: their
    decisions are carried out. Raises ConflictError while the job works, and where no row is accepted.
    """
    actor.require(Role.USE)
    name = dataset_intake.check_name(name or row.name)
    eval_fraction = dataset_intake.check_eval_fraction(eval_fraction)
    claimed = _claim(row)
    try:
        row = data_generation.get(row.pk)
        if row.made_at is not None:
            return _made(row), False
        _check_ended(row)
        return _make(actor, row, name, eval_fraction)
    finally:
        DataGeneration.objects.filter(pk=row.pk, making_since=claimed).update(making_since=None)


def _check_ended(row: DataGeneration) -> None:
    if not row.job.has_ended:
        raise ConflictError(f"Generation {row.pk} is {row.job.status}: wait for its end, or cancel its job.")
    if row.review and not row.is_read:
        raise ConflictError(f"The rows of generation {row.pk} are still being read: try again in a moment.")


def _claim(row: DataGeneration) -> datetime:
    now = timezone.now()
    free = Q(making_since=None) | Q(making_since__lt=now - data_generation.CLAIM_LASTS)
    if not DataGeneration.objects.filter(free, pk=row.pk).update(making_since=now):
        raise data_generation.being_made(row.pk)
    return now


def _made(row: DataGeneration) -> Dataset:
    if row.dataset is None:
        raise ConflictError(f"The dataset of generation {row.pk} has been deleted. Generate the data anew.")
    return row.dataset


def _make(actor: Actor, row: DataGeneration, name: str, eval_fraction: float) -> tuple[Dataset, bool]:
    with tempfile.NamedTemporaryFile(dir=Path(django_settings.HOME) / "tmp", prefix="dataset-") as stream:
        written, sha256 = _write(row, stream)
        if not written:
            raise ConflictError(
                f"No row of generation {row.pk} is accepted, so there is no dataset to make. Accept some first."
                if row.review else f"Generation {row.pk} has made no row, so there is no dataset to make."
            )  # fmt: skip
        dataset, is_new = dataset_intake.adopt(
            actor, Path(stream.name), sha256=sha256, filename=f"generated-{row.pk}.jsonl", name=name,
            eval_fraction=eval_fraction, lineage=_lineage(row),
        )  # fmt: skip
    with transaction.atomic():
        _carry_out(actor, row, dataset, written)
    return dataset, is_new


def _write(row: DataGeneration, stream: IO[bytes]) -> tuple[int, str]:
    """Writes the rows that go on, and returns how many and their hash."""
    digest, written = hashlib.sha256(), 0
    for messages in _accepted(row) if row.review else _all(row):
        line = json.dumps({"messages": messages}, ensure_ascii=False).encode() + b"\n"
        digest.update(line)
        stream.write(line)
        written += 1
    stream.flush()
    return written, digest.hexdigest()


def _accepted(row: DataGeneration) -> Iterator[Any]:
    found = row.examples.filter(state=ReviewState.ACCEPTED).order_by("number")
    yield from found.values_list("messages", flat=True).iterator(chunk_size=READ_AT_ONCE)


def _all(row: DataGeneration) -> Iterator[Any]:
    for path in data_generation.shard_files(row):
        for one in data_generation_rows.generated(row, path):
            yield one.messages


def _lineage(row: DataGeneration) -> Lineage:
    version = Regime3Profile.version if row.strategy == Strategy.REGIME3 else row.model_name[:LONGEST_NAME]
    return Lineage(f"pilothouse {row.strategy}", version, (row.seeds_id,) if row.seeds_id is not None else ())


def _carry_out(actor: Actor, row: DataGeneration, dataset: Dataset, written: int) -> None:
    """The rows have gone on: theirs is the dataset's now. Inside a transaction."""
    counts = data_generation.counts(row)[row.pk] if row.review else {}
    reviewers = row.examples.exclude(decided_by="").order_by().values_list("decided_by", flat=True).distinct()
    audit(
        actor, "data_generation.dataset", dataset, generation=row.pk, rows=written, reviewers=list(reviewers), **counts
    )
    row.examples.all().delete()
    DataGeneration.objects.filter(pk=row.pk).update(
        dataset=dataset, made_at=timezone.now(), making_since=None, counts=counts, is_read=True, fault=""
    )
    data_generation_rows.tell(row, {"dataset": dataset.pk})


# --- The duty ---------------------------------------------------------------------------------------------------------


def work() -> None:
    """Reads what jobs have written, and makes the datasets that nobody wants to look at before."""
    waiting = DataGeneration.objects.filter(is_read=False).exclude(job__status=Status.PENDING)
    for row in waiting.select_related("job", "dataset").order_by("pk"):
        try:
            _attend(row)
        except (PilothouseError, OSError) as error:
            log.warning("generation %s: %s", row.pk, error)
            _finish(row, fault=str(error))
        except Exception as error:  # those behind it must have their turn; it is tried again the next time
            log.exception("generation %s could not be attended to", row.pk)
            _broken[row.pk] += 1
            if row.job.has_ended and _broken[row.pk] >= TIMES_TRIED:
                fault = f"It can't be read: {type(error).__name__} came up again and again. The server's log says more."
                _finish(row, fault)
                del _broken[row.pk]
        else:
            del _broken[row.pk]


def _attend(row: DataGeneration) -> None:
    if row.review:
        data_generation_rows.take_in(row)
    elif row.job.status == Status.DONE and row.made_at is None:
        make(Actor(name=row.created_by, role=Role.USE), row)
    if row.job.has_ended:
        _finish(row)


def _finish(row: DataGeneration, fault: str = "") -> None:
    """Nothing more is read of it, unless its job was put back into the queue meanwhile."""
    with transaction.atomic():
        same = DataGeneration.objects.filter(pk=row.pk, job__status__in=ENDED, job__attempt_count=row.job.attempt_count)
        if same.update(is_read=True, fault=fault):
            data_generation_rows.tell(row, {"is_read": True})
