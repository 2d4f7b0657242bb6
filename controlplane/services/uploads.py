"""Files on their way in, in parts: nothing large is held in memory or lost to a break. Runs in the web process.

Parts are numbered from 1 and are PART_BYTES long, the last one shorter. Each lies under `tmp/uploads/ID/N`, written in
one step: a part that is listed is whole. An upload that nobody completes is swept away after a day.
"""

import hashlib
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from django.conf import settings as django_settings
from django.db import transaction
from django.utils import timezone

from controlplane.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    TooLargeError,
)
from controlplane.models import Dataset, Upload
from controlplane.models.access import Actor, Role
from controlplane.models.datasets import PART_BYTES
from controlplane.services import dataset_intake, settings
from controlplane.services.access import audit
from controlplane.services.disk_room import require_room
from controlplane.services.lineage import Lineage
from monitoring.files import replacing

BLOCK_BYTES = 256 << 10
KEEP = timedelta(days=1)
COPIES = 3
"""What a file takes on the disk on its way to a dataset: its parts, the whole, and the rows that validation writes."""

EVENT_FILE = "tfevents"
"""What TensorBoard's event files have in their names; it reads no others itself."""

SHA256 = re.compile(r"[0-9a-f]{64}")


class Stream(Protocol):
    """What a part is read from: a request, a file."""

    def read(self, size: int, /) -> bytes: ...


def begin(actor: Actor, filename: str, bytes: int, sha256: str = "", purpose: str = "dataset") -> Upload:
    """Makes room for a file of `bytes` bytes that becomes a dataset, or (purpose `run`) curves of a run.

    Raises InvalidInputError for a name, size or hash that can't be, TooLargeError beyond the setting
    `uploads.max_bytes`, UnavailableError when the disk is too full.
    """
    actor.require(Role.USE)
    filename, sha256 = _checked_name(filename, purpose), sha256.strip().lower()
    if bytes < 1:
        raise InvalidInputError(f"{filename} is empty. Give a file with something in it.")
    if bytes > (most := settings.get("uploads.max_bytes")):
        raise TooLargeError(f"{filename} has {bytes} bytes; this server takes {most} (setting uploads.max_bytes).")
    if sha256 and not SHA256.fullmatch(sha256):
        raise InvalidInputError("sha256 must be 64 hexadecimal digits, or be left out.")
    sweep()
    require_room(Path(django_settings.HOME), bytes * COPIES, f"taking {filename} in")
    with transaction.atomic():
        upload = Upload.objects.create(filename=filename, bytes=bytes, sha256=sha256, created_by=actor.name)
        audit(actor, "upload.begin", upload.pk, filename=filename, bytes=bytes)
    upload.folder.mkdir(parents=True)
    return upload


def _checked_name(filename: str, purpose: str) -> str:
    if purpose == "run":
        name = dataset_intake.plain_filename(filename)
        if EVENT_FILE not in name:
            raise InvalidInputError(
                f"{name} is no event file of TensorBoard by its name: choose those with {EVENT_FILE} in it."
            )
        return name
    if purpose != "dataset":
        raise InvalidInputError(f"There is no purpose {purpose[:50]!r}: an upload becomes a dataset or a run.")
    return dataset_intake.check_filename(filename)


def get(actor: Actor, upload_id: str) -> Upload:
    """An upload of the actor's (an admin sees all). Raises NotFoundError or ForbiddenError."""
    actor.require(Role.USE)
    upload = Upload.objects.filter(pk=upload_id).first()
    if upload is None:
        raise NotFoundError(
            f"There is no upload {upload_id}: it is complete, was given up, or is older than a day. Begin a new one."
        )
    actor.require_owner("This upload", upload.created_by)
    return upload


def part_size(upload: Upload, number: int) -> int:
    """How many bytes part `number` must have. Raises InvalidInputError for a part that the file doesn't have."""
    if not 1 <= number <= upload.part_count:
        raise InvalidInputError(f"There is no part {number}: this file has parts 1 to {upload.part_count}.")
    return min(PART_BYTES, upload.bytes - (number - 1) * PART_BYTES)


def write_part(actor: Actor, upload_id: str, number: int, stream: Stream) -> int:
    """Stores a part; the same part again takes the old one's place. Returns its size.

    Raises InvalidInputError, and stores nothing, when the part isn't exactly as long as it must be.
    """
    upload = get(actor, upload_id)
    expected = part_size(upload, number)
    if not upload.folder.is_dir():
        raise ConflictError(f"The parts of upload {upload_id} have gone from the disk. Begin a new one.")
    received = 0
    with replacing(upload.folder / str(number)) as target:
        while block := stream.read(min(BLOCK_BYTES, expected + 1 - received)):
            received += len(block)
            if received > expected:
                break
            target.write(block)
        if received != expected:
            found = f"more than {expected}" if received > expected else str(received)
            raise InvalidInputError(f"Part {number} must have {expected} bytes; {found} came. Send it again.")
    return received


def parts_held(upload: Upload) -> list[int]:
    """The numbers of the parts that are here, in order."""
    if not upload.folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in upload.folder.iterdir() if entry.name.isdecimal())


def status(actor: Actor, upload_id: str) -> dict[str, Any]:
    """What is here already, so that a client goes on where it broke off."""
    upload = get(actor, upload_id)
    return facts(upload)


def facts(upload: Upload) -> dict[str, Any]:
    """An upload as the API tells it."""
    return {
        "id": str(upload.pk), "filename": upload.filename, "bytes": upload.bytes, "sha256": upload.sha256,
        "part_bytes": PART_BYTES, "part_count": upload.part_count, "parts": parts_held(upload),
    }  # fmt: skip


def complete(
    actor: Actor, upload_id: str, name: str, eval_fraction: float, lineage: Lineage = dataset_intake.UNSAID
) -> tuple[Dataset, bool]:
    """Puts the parts together and makes the dataset; returns it and whether it is new (the same bytes may be here).

    Raises ConflictError when parts are missing, InvalidInputError when the hash is another than was said: what has come
    stays then.
    """
    upload = get(actor, upload_id)
    name, eval_fraction = dataset_intake.check_name(name), dataset_intake.check_eval_fraction(eval_fraction)
    lineage = lineage.check()
    dataset_intake.check_filename(upload.filename)  # it may have been begun for a run
    require_whole(upload)
    whole = upload.folder / "whole"
    sha256 = joined(upload, whole)
    dataset, created = dataset_intake.adopt(
        actor,
        whole,
        sha256=sha256,
        filename=upload.filename,
        name=name,
        eval_fraction=eval_fraction,
        lineage=lineage,
    )
    remove(upload)
    return dataset, created


def require_whole(upload: Upload) -> None:
    """Raises ConflictError when parts are missing."""
    missing = sorted(set(range(1, upload.part_count + 1)) - set(parts_held(upload)))
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        raise ConflictError(f"{len(missing)} of {upload.part_count} parts are missing: {shown}. Send them first.")


def joined(upload: Upload, whole: Path) -> str:
    """Writes the whole file; returns its SHA-256. Raises InvalidInputError when that is another than was said."""
    sha256 = _concatenate(upload, whole)
    if upload.sha256 and sha256 != upload.sha256:
        whole.unlink()
        raise InvalidInputError(
            f"The file that came has the SHA-256 {sha256}, but {upload.sha256} was said. Send the wrong parts again, "
            "or begin anew."
        )
    return sha256


def _concatenate(upload: Upload, whole: Path) -> str:
    """Writes the parts one behind the other; returns the SHA-256. Holds a block at a time."""
    digest = hashlib.sha256()
    try:
        with replacing(whole) as target:
            for number in range(1, upload.part_count + 1):
                with (upload.folder / str(number)).open("rb") as part:
                    while block := part.read(BLOCK_BYTES):
                        digest.update(block)
                        target.write(block)
    except FileNotFoundError as error:
        raise ConflictError(f"Upload {upload.pk} has just been completed or given up by another request.") from error
    return digest.hexdigest()


def abandon(actor: Actor, upload_id: str) -> None:
    """Gives an upload up; its parts go."""
    upload = get(actor, upload_id)
    with transaction.atomic():
        audit(actor, "upload.abandon", upload.pk)
    remove(upload)


def sweep() -> int:
    """Removes uploads older than a day and folders that no upload owns; returns how many. Each new upload calls it."""
    old = Upload.objects.filter(created_at__lt=timezone.now() - KEEP)
    removed = 0
    for upload in old:
        remove(upload)
        removed += 1
    root = Path(django_settings.HOME) / "tmp" / "uploads"
    known = {str(pk) for pk in Upload.objects.values_list("pk", flat=True)}
    limit = (timezone.now() - KEEP).timestamp()
    for folder in root.iterdir() if root.is_dir() else ():
        if folder.name not in known and folder.stat().st_mtime < limit:
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def remove(upload: Upload) -> None:
    """Ends an upload that has become something, or nothing; its parts go."""
    folder = upload.folder
    Upload.objects.filter(pk=upload.pk).delete()
    shutil.rmtree(folder, ignore_errors=True)
