"""How a file becomes a dataset: what it may be called, and taking it in. Runs in the web process.

A file is known by its SHA-256: it lies once under `datasets/SHA256/source.*`, whichever way and however often it came.
"""

import errno
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from django.conf import settings as django_settings
from django.db import IntegrityError, transaction
from django.db.models import Max

from controlplane.errors import ConflictError, InvalidInputError, TooLargeError
from controlplane.legible import is_legible
from controlplane.models import Dataset
from controlplane.models.access import Actor, Role
from controlplane.models.datasets import Level
from controlplane.services import dataset_checks, datasets
from controlplane.services.access import audit
from controlplane.services.lineage import Lineage
from monitoring.files import publish_folder

SMALL_FILE_BYTES = 32 << 20
SUFFIXES = (".jsonl", ".json", ".ndjson", ".txt", ".csv", ".tsv", ".parquet", ".gz")
"""What a file may be called; its first bytes tell what it is (`training.data.sources`)."""
UNSAID = Lineage()
OTHER_WAY = (
    "Send it in parts instead: POST /api/uploads says how large a part is, PUT /api/uploads/ID/parts/N takes each, "
    "POST /api/uploads/ID/complete makes the dataset. The upload form does the same."
)


class ReceivedFile(Protocol):
    """What a multipart form brings (`django.core.files.uploadedfile.UploadedFile`)."""

    @property
    def name(self) -> str | None: ...
    @property
    def size(self) -> int | None: ...
    def chunks(self, chunk_size: int | None = None) -> Iterable[bytes]: ...


# --- What it is called ------------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """The name, trimmed. Raises InvalidInputError unless it has 1 to 200 printable characters."""
    name = name.strip()
    if not 1 <= len(name) <= 200 or not is_legible(name):
        raise InvalidInputError("A dataset's name has 1 to 200 printable characters.")
    return name


def check_eval_fraction(fraction: float) -> float:
    """The fraction. Raises InvalidInputError unless it lies in [0, 0.5]."""
    if not 0 <= fraction <= 0.5:  # NaN fails too
        raise InvalidInputError("eval_fraction must lie between 0 and 0.5: the share of rows kept for evaluation.")
    return float(fraction)


def plain_filename(filename: str) -> str:
    """The last part of a name as a browser sends it. Raises InvalidInputError for what no file is called."""
    name = filename.replace("\\", "/").rpartition("/")[2].strip()
    if not name or len(name) > 255 or not is_legible(name):
        raise InvalidInputError("A file name has 1 to 255 printable characters.")
    return name


def check_filename(filename: str) -> str:
    """The last part of a name as a browser sends it. Raises InvalidInputError for a name or suffix we don't take."""
    name = plain_filename(filename)
    if Path(name).suffix.lower() not in SUFFIXES:
        raise InvalidInputError(
            f"{name} has no suffix that a dataset may have ({', '.join(SUFFIXES)}). "
            "Give JSON lines, a JSON array, CSV or Parquet, plain or gzipped."
        )
    return name


# --- Taking in --------------------------------------------------------------------------------------------------------


def receive_small(
    actor: Actor, file: ReceivedFile, name: str, eval_fraction: float, lineage: Lineage = UNSAID
) -> tuple[Dataset, bool]:
    """Takes a file that came in one piece. Returns the dataset and whether it is new.

    Raises InvalidInputError for what it is called, TooLargeError beyond SMALL_FILE_BYTES.
    """
    actor.require(Role.USE)
    name, eval_fraction, lineage = check_name(name), check_eval_fraction(eval_fraction), lineage.check()
    filename = check_filename(file.name or "")
    if (file.size or 0) > SMALL_FILE_BYTES:
        raise TooLargeError(f"The file has {file.size} bytes; a form takes {SMALL_FILE_BYTES}. {OTHER_WAY}")
    if not file.size:
        raise InvalidInputError(f"{filename} is empty. Give a file with one JSON object a line.")
    with tempfile.NamedTemporaryFile(dir=Path(django_settings.HOME) / "tmp", prefix="dataset-") as stream:
        digest = hashlib.sha256()
        for block in file.chunks():
            digest.update(block)
            stream.write(block)
        stream.flush()
        return adopt(
            actor, Path(stream.name), sha256=digest.hexdigest(), filename=filename, name=name,
            eval_fraction=eval_fraction, lineage=lineage,
        )  # fmt: skip


def adopt(
    actor: Actor, source: Path, *, sha256: str, filename: str, name: str, eval_fraction: float,
    level: str = Level.STANDARD, lineage: Lineage = UNSAID,
) -> tuple[Dataset, bool]:  # fmt: skip
    """Makes a dataset of a file under `tmp/` whose hash is known, and has it checked; the file is linked, not moved.

    With the level QUICK a sample is looked at first, and all rows only when that passes.

    Returns the dataset that has this hash already, and False, when there is one. The caller has checked the words.
    """
    if (existing := Dataset.objects.filter(sha256=sha256).first()) is not None:
        return existing, False
    _publish_source(source, sha256, Path(filename).suffix.lower())
    try:
        with transaction.atomic():
            last = Dataset.objects.filter(name=name).aggregate(Max("version"))["version__max"] or 0
            dataset = Dataset.objects.create(
                name=name, version=last + 1, filename=filename, sha256=sha256, bytes=source.stat().st_size,
                eval_fraction=eval_fraction, created_by=actor.name, generator=lineage.generator,
                generator_version=lineage.version, parents=lineage.parent_facts(),
            )  # fmt: skip
            if not _is_whole(dataset.folder, dataset.bytes):  # a row that had the same bytes came and went meanwhile
                raise ConflictError(f"The same file was deleted at this moment. Send {filename} again.")
            audit(actor, "dataset.create", dataset, sha256=sha256, bytes=dataset.bytes)
            dataset_checks.validate(actor, dataset, level)
    except IntegrityError:
        existing = Dataset.objects.filter(sha256=sha256).first()
        if existing is None:
            raise ConflictError(f"Another file became {name} at this moment. Send yours again.") from None
        return existing, False
    return dataset, True


def _publish_source(source: Path, sha256: str, suffix: str) -> None:
    """Puts the file in its place in one step, unless it is there. What a crash has left of it makes way."""
    home = Path(django_settings.HOME)
    final = home / "datasets" / sha256
    if final.exists() and not _is_whole(final, source.stat().st_size):
        aside = datasets.name_aside()
        final.rename(aside)
        datasets.remove_aside(aside)
    with tempfile.TemporaryDirectory(dir=home / "tmp", prefix="dataset-") as name:
        folder = Path(name) / sha256
        folder.mkdir()
        (folder / f"source{suffix}").hardlink_to(source)
        try:
            publish_folder(folder, final)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise


def _is_whole(folder: Path, size_bytes: int) -> bool:
    """Whether a folder holds the file that its name is the hash of, by its size."""
    return [entry.stat().st_size for entry in folder.glob("source.*")] == [size_bytes]
