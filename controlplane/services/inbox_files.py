"""The inbox on the disk: which files are whole, moving them in and out. Runs in the web process, in one of its duties.

    inbox/NAME  inbox/high/NAME  inbox/normal/NAME  inbox/low/NAME     files to be taken, by priority
    inbox/…/NAME.json                                                   settings of the file NAME, optional
    inbox/rejected/NAME  NAME.reason.txt                                what could not be used, and why
    tmp/inbox/ID/data  settings.json                                    a file that was taken, until it is a dataset

A name is only ever used as the last part of a path under `inbox/`; links are never followed.
"""

import errno
import fcntl
import json
import os
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings

from controlplane.errors import InvalidInputError
from controlplane.legible import is_legible
from controlplane.models.jobs import Priority
from controlplane.services.dataset_intake import SUFFIXES
from monitoring.files import sync_folder, write_bytes

FOLDERS: dict[str, Priority] = {
    "": Priority.NORMAL, "high": Priority.HIGH, "normal": Priority.NORMAL, "low": Priority.LOW,
}  # fmt: skip
REJECTED = "rejected"
REASON, SETTINGS = ".reason.txt", ".json"
"""What follows the name of a rejected file in those of its reason and of its settings."""

UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart", ".swp", "~")
"""How programs end the names of files that they are still writing."""

MAX_OPTIONS_BYTES = 1 << 20
MAX_NAME_BYTES = 200
DATA, OPTIONS = "data", "settings.json"


@dataclass(frozen=True)
class Found:
    """A file that lies in the inbox. `fault`: why it can't be taken, whatever is in it."""

    folder: str
    name: str
    bytes: int
    mtime_ns: int
    fault: str = ""

    @property
    def path(self) -> Path:
        """Where it lies."""
        return root() / self.folder / self.name


def root() -> Path:
    """The inbox of this home."""
    return Path(django_settings.HOME) / "inbox"


def held_folder(row_id: int) -> Path:
    """Where a file that was taken lies until it is a dataset."""
    return Path(django_settings.HOME) / "tmp" / "inbox" / str(row_id)


def make_folders() -> None:
    """Makes what isn't there."""
    for name in (*FOLDERS, REJECTED):
        (root() / name).mkdir(parents=True, exist_ok=True)
    held_folder(0).parent.mkdir(parents=True, exist_ok=True)


def find() -> list[Found]:
    """Every file that asks to be taken, the most urgent first, then the oldest."""
    found = [item for folder in FOLDERS for item in _entries(folder)]
    return sorted(found, key=lambda item: (-FOLDERS[item.folder], item.mtime_ns, item.name))


def _entries(folder: str) -> Iterator[Found]:
    with suppress(FileNotFoundError), os.scandir(root() / folder) as entries:
        for entry in entries:
            if is_unfinished(entry.name) or is_options(entry.name):
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # it was moved away at this moment
                continue
            if not stat.S_ISDIR(facts.st_mode):
                yield Found(folder, entry.name, facts.st_size, facts.st_mtime_ns, _refusal(entry.name, facts.st_mode))


def is_unfinished(name: str) -> bool:
    """Whether a name says that its file isn't to be read yet."""
    return name.startswith(".") or name.lower().endswith(UNFINISHED)


def is_plain_file(path: Path) -> bool:
    """Whether a file lies there, not a link to one."""
    return stat.S_ISREG(path.lstat().st_mode)


def is_options(name: str) -> bool:
    """Whether a file holds the settings of another one: `chats.jsonl.json` those of `chats.jsonl`."""
    stem = name[: -len(".json")]
    return name.lower().endswith(".json") and Path(stem).suffix.lower() in SUFFIXES


def _refusal(name: str, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "It is a symbolic link: links aren't followed. Move or copy the file itself into the inbox."
    if not stat.S_ISREG(mode):
        return "It is no file but a pipe, a socket or a device. Put a file into the inbox."
    if not is_legible(name) or len(os.fsencode(name)) > MAX_NAME_BYTES:
        return "Its name has characters that can't be shown, or is too long. Give it another name."
    return ""


def shown_name(name: str) -> str:
    """A name as people and the data base can have it."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "_" for letter in text)[:MAX_NAME_BYTES] or "_"


# --- Whether it is whole ----------------------------------------------------------------------------------------------


def is_written_to(path: Path) -> bool | None:
    """Whether any process of this host has the file open for writing; None where the kernel doesn't say.

    A read lease (`man 2 fcntl`, F_SETLEASE) is refused while somebody writes. Should a writer come while we hold it,
    the kernel tells us by SIGURG, which is ignored, and makes the writer wait for a moment.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None  # another's file, or a file system without leases
    finally:
        os.close(descriptor)
    return False


# --- Its settings -----------------------------------------------------------------------------------------------------


def options_path(found: Found) -> Path:
    """Where the settings of a file would lie."""
    return found.path.with_name(f"{found.name}.json")


def read_options(path: Path) -> dict[str, Any]:
    """What a settings file says; nothing where there is none. Raises InvalidInputError."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return {}
    name = path.name
    if not stat.S_ISREG(facts.st_mode):
        raise InvalidInputError(f"The settings in {name} are no file but a link or a device. Put a file there.")
    if facts.st_size > MAX_OPTIONS_BYTES:
        raise InvalidInputError(f"The settings in {name} have {facts.st_size} bytes; {MAX_OPTIONS_BYTES} are read.")
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"The settings in {name} can't be read: {error}. Write one JSON object.") from error
    if not isinstance(value, dict):
        raise InvalidInputError(f'The settings in {name} are no JSON object. Write {{"setting": value}}.')
    return value


# --- Moving -----------------------------------------------------------------------------------------------------------


def take(found: Found, row_id: int) -> None:
    """Moves a file and its settings under `tmp/inbox/ID/`. Doing it again, after a kill in its midst, ends it.

    Raises FileNotFoundError when the file is neither here nor there.
    """
    folder = held_folder(row_id)
    folder.mkdir(parents=True, exist_ok=True)
    _move(found.path, folder / DATA, found)
    with suppress(FileNotFoundError):
        _move(options_path(found), folder / OPTIONS, None)
    sync_folder(folder)


def _move(source: Path, target: Path, expected: Found | None) -> None:
    if target.exists():  # a kill came between the copy and the removal, or right behind the rename
        facts = _facts(source)
        if facts is not None and (expected is None or (facts.st_size, facts.st_mtime_ns) == _key(expected)):
            source.unlink()
        return
    facts = source.lstat()
    if facts.st_nlink == 1 and facts.st_uid == os.geteuid():
        try:
            source.rename(target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    # Another file system, another's file, or one with a second name by which it could be written to later: a copy is
    # made, which is ours alone.
    part = target.with_suffix(".part")
    shutil.copyfile(source, part, follow_symlinks=False)
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    os.utime(part, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    part.rename(target)
    source.unlink()


def _facts(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _key(found: Found) -> tuple[int, int]:
    return found.bytes, found.mtime_ns


def free_name(filename: str) -> str:
    """A name under `inbox/rejected/` that no other file has."""
    name, number = shown_name(filename), 1
    stem, suffix = name.partition(".")[0], name[len(name.partition(".")[0]) :]
    while os.path.lexists(root() / REJECTED / name):
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name


def put_aside(source: Path, options: Path, name: str, reason: str) -> None:
    """Moves what can't be used, and its settings, to `inbox/rejected/`, and says why beside it."""
    final = root() / REJECTED / name
    for path, target in ((source, final), (options, final.with_name(f"{name}{SETTINGS}"))):
        if os.path.lexists(path) and not os.path.lexists(target):
            shutil.move(path, target)
    if os.path.lexists(final):
        write_bytes(final.with_name(f"{name}{REASON}"), f"{reason}\n".encode())


def put_back(name: str, folder: str, filename: str) -> bool:
    """Moves a rejected file and its settings back to where it came from. Returns whether it was still there.

    Raises FileExistsError where a file of that name lies there by now.
    """
    rejected, target = root() / REJECTED / name, root() / folder / filename
    if os.path.lexists(target):
        raise FileExistsError(target)
    if not os.path.lexists(rejected):
        return False
    with suppress(FileNotFoundError):
        rejected.with_name(f"{name}{SETTINGS}").rename(target.with_name(f"{filename}.json"))
    rejected.rename(target)
    rejected.with_name(f"{name}{REASON}").unlink(missing_ok=True)
    return True


def forget_rejected(name: str) -> None:
    """Removes a rejected file whose bytes are a dataset that could be used after all."""
    for ending in ("", SETTINGS, REASON):
        (root() / REJECTED / f"{name}{ending}").unlink(missing_ok=True)


def release(row_id: int) -> None:
    """Removes what was held of a file: its bytes are its dataset's."""
    shutil.rmtree(held_folder(row_id), ignore_errors=True)


def held_rows() -> list[int]:
    """The ids of the rows whose files lie under `tmp/inbox/`."""
    with suppress(FileNotFoundError):
        return sorted(int(entry.name) for entry in held_folder(0).parent.iterdir() if entry.name.isdecimal())
    return []
