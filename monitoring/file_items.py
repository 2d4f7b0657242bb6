"""What can travel between homes: a dataset, a model, its exports, a checkpoint, a job's results. Known by kind and id.

Runs in the agent and, for the library's own home, in the web process; standard library only. This is the one gate
through which ids and file names from outside become paths.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from monitoring.files import EXPORTS_FOLDER
from monitoring.wire import AgentFaultError

KEEP_PREFIX = "keep."
"""Marks beside a checkpoint's manifest belong to the home in which they lie; they don't travel."""

MOST_FILES = 10_000
MAX_NAME_BYTES = 1000


@dataclass(frozen=True)
class _Kind:
    """`in_place`: its files come one by one into a folder that others share, not as a folder in one step."""

    id_form: re.Pattern[str]
    place: Callable[[str], str]
    belongs: Callable[[PurePosixPath], bool]
    in_place: bool = False


def _is_visible(name: PurePosixPath) -> bool:
    return not any(part.startswith(".") for part in name.parts)


def _is_of_model(name: PurePosixPath) -> bool:
    return _is_visible(name) and name.parts[0] != EXPORTS_FOLDER


def _is_of_checkpoint(name: PurePosixPath) -> bool:
    return _is_visible(name) and not (len(name.parts) == 1 and name.name.startswith(KEEP_PREFIX))


def _is_result(name: PurePosixPath) -> bool:
    """Rows of an evaluation (`attempts/N/*.jsonl` but the events) and generated shards with how far they had come."""
    if not _is_visible(name):
        return False
    if name.parts[0] in ("shards", "progress"):
        return True
    is_rows = len(name.parts) == 3 and name.parts[0] == "attempts" and name.name in ("examples.jsonl", "losses.jsonl")
    return is_rows and name.parts[1].isdecimal()


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NUMBER = r"[1-9][0-9]{0,17}"

KINDS: dict[str, _Kind] = {
    "dataset": _Kind(re.compile(r"[0-9a-f]{64}"), lambda one: f"datasets/{one}", _is_visible),
    "model": _Kind(_UUID, lambda one: f"models/{one}", _is_of_model),
    "exports": _Kind(_UUID, lambda one: f"models/{one}/{EXPORTS_FOLDER}", _is_visible),
    "checkpoint": _Kind(
        re.compile(f"{_NUMBER}/(?:0|{_NUMBER})"),
        lambda one: "runs/{}/checkpoints/step-{}".format(*one.split("/")),
        _is_of_checkpoint,
    ),
    "results": _Kind(re.compile(_NUMBER), lambda one: f"jobs/{one}", _is_result, in_place=True),
}


@dataclass(frozen=True)
class Item:
    """One of them. Making one checks it: raises AgentFaultError `bad_call` for a kind or an id that can't be."""

    kind: str
    id: str

    def __post_init__(self) -> None:
        kind = KINDS.get(self.kind) if isinstance(self.kind, str) else None
        if kind is None:
            raise AgentFaultError("bad_call", f"There is no kind of files {self.kind!r}.", "Update the agent.")
        if not isinstance(self.id, str) or not kind.id_form.fullmatch(self.id):
            raise AgentFaultError("bad_call", f"{self.id!r} is no id of a {self.kind}.")

    @property
    def key(self) -> str:
        """A name for what is kept of it, which is no path."""
        return f"{self.kind}-{self.id.replace('/', '-')}"

    @property
    def place(self) -> str:
        """Where it lies in any home, relative to that."""
        return KINDS[self.kind].place(self.id)

    @property
    def is_in_place(self) -> bool:
        """Whether its files come one by one into a folder that others share."""
        return KINDS[self.kind].in_place

    def folder(self, home: Path) -> Path:
        """Where it lies in this home."""
        return home / self.place

    def files(self, home: Path) -> Iterator[tuple[str, Path]]:
        """Name and path of each file that is there and belongs to it, sorted by name."""
        folder, belongs = self.folder(home), KINDS[self.kind].belongs
        found = (entry for entry in folder.rglob("*") if entry.is_file()) if folder.is_dir() else ()
        named = ((entry.relative_to(folder).as_posix(), entry) for entry in found)
        yield from sorted((name, entry) for name, entry in named if belongs(PurePosixPath(name)))

    def stays(self, name: str) -> bool:
        """Whether what has this name in its folder is no part of it: it stays where another version takes its place."""
        return {"model": name == EXPORTS_FOLDER, "checkpoint": name.startswith(KEEP_PREFIX)}.get(self.kind, False)

    def check_name(self, name: object) -> str:
        """A file's name from outside. Raises AgentFaultError `bad_call` for one that leads out or doesn't belong."""
        if isinstance(name, str) and 0 < len(name.encode(errors="replace")) <= MAX_NAME_BYTES:
            parts = PurePosixPath(name).parts
            is_plain = name.isprintable() and "\\" not in name and "/".join(parts) == name
            leads_out = name.startswith("/") or ".." in parts
            if is_plain and not leads_out and KINDS[self.kind].belongs(PurePosixPath(name)):
                return name
        raise AgentFaultError("bad_call", f"{str(name)[:200]!r} is no name of a file of {self.kind} {self.id}.")


def item_at(place: str) -> Item | None:
    """The item that lies there, by its place relative to a home; None where nothing that travels does."""
    parts = PurePosixPath(place).parts
    match (parts[0] if parts else "", len(parts)):
        case ("datasets", 2):
            kind, value = "dataset", parts[1]
        case ("models", 2):
            kind, value = "model", parts[1]
        case ("runs", 4):
            kind, value = "checkpoint", f"{parts[1]}/{parts[3].removeprefix('step-')}"
        case _:
            return None
    try:
        item = Item(kind, value)
    except AgentFaultError:
        return None
    return item if item.place == place else None
