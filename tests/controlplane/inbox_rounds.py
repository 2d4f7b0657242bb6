"""What the tests of the inbox share: files in it, a template for their runs, and checks that have passed."""

import os
import time
from pathlib import Path
from typing import Any

from controlplane.models import Dataset, InboxFile, Job
from controlplane.models.access import SYSTEM
from controlplane.models.datasets import DatasetStatus
from controlplane.models.jobs import Kind, Status
from controlplane.services import run_templates, settings
from tests.factories import chat_rows, jsonl, make_model

AN_HOUR = 3600.0


def put(path: Path, data: bytes | None = None, *, age_seconds: float = AN_HOUR) -> Path:
    """A file that was written a while ago."""
    path.write_bytes(jsonl(chat_rows()) if data is None else data)
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    return path


def template(**fields: Any) -> str:
    """A run template of a model that is there; files of the inbox start runs with it."""
    row = run_templates.save(SYSTEM, name="nightly", config={}, model=make_model().name, **fields)
    settings.put(SYSTEM, "inbox.template", row.name)
    return row.name


def pass_validation(dataset: Dataset | None, status: str = DatasetStatus.READY, reason: str = "") -> None:
    """As if both checks had been made."""
    assert dataset is not None
    Job.objects.filter(kind=Kind.VALIDATE).update(status=Status.DONE)
    Dataset.objects.filter(pk=dataset.pk).update(status=status, reason=reason, examples=3)


def only() -> InboxFile:
    """The one file that the inbox knows."""
    return InboxFile.objects.select_related("dataset", "run", "run__job").get()
