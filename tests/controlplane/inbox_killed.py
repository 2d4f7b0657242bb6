"""A process that takes files from the inbox and is killed on the way: `python -m tests.controlplane.inbox_killed`.

Arguments: HOME KILLS.

HOME holds a data base. For each kill a file is put into the inbox; a fork of this process does the inbox's duty until
it ends itself by SIGKILL at one of the points that a whole course passes: each change of the disk, and each question
to the data base, before and after it. Of every fourth file a second fork is killed on its way to where the first has
come; the last one gets to the end. What has become of the files is printed as JSON.
"""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import django

AN_HOUR = 3600.0
ROUNDS = 10
FIRST = 4
"""So many files are taken undisturbed: the first makes the folders, the last of each sort say what a course is."""

CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.utime"})
"""Audit events (`sys.addaudithook`) of what changes the disk; what is opened for writing is another."""


class Points:
    """The points passed so far; at the one with the number `fatal` the process is no more."""

    def __init__(self, home: Path, fatal: int = 0) -> None:
        self._home, self._fatal = str(home), fatal
        self.passed = 0

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Hears of everything that the interpreter does."""
        if event in CHANGES or (event == "open" and self._is_writing(*arguments)):
            self._reach()

    def _is_writing(self, path: Any, _mode: Any, flags: int) -> bool:
        return bool(flags & (os.O_WRONLY | os.O_RDWR)) and str(path).startswith(self._home)

    def ask(self, execute: Callable[..., Any], *question: Any) -> Any:
        """Stands around every question to the data base."""
        self._reach()
        answer = execute(*question)
        self._reach()
        return answer

    def _reach(self) -> None:
        self.passed += 1
        if self.passed == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def fork(work: Callable[[], Any]) -> Any:
    """What `work` returns in a fork of this process; None when that was killed. Raises RuntimeError when it failed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, json.dumps(work()).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return None
    if status:
        raise RuntimeError("a fork has failed: see above")
    return json.loads(said)


def prepare() -> None:
    """A model and a template, so that a file becomes a dataset and starts a run."""
    from controlplane.models.access import SYSTEM
    from controlplane.services import run_templates, settings
    from tests.factories import make_model

    row = run_templates.save(SYSTEM, name="nightly", config={}, model=make_model().name)
    settings.put(SYSTEM, "inbox.template", row.name)


def content(number: int) -> bytes:
    """The bytes of a file, which no other has."""
    messages = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"It is {number}."}]
    return json.dumps({"messages": messages}).encode() + b"\n"


def put(home: Path, number: int) -> None:
    """A file with settings, written a while ago. Of every second one there is another name: it must be copied."""
    path = home / "inbox" / f"file-{number}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.with_name(f"{path.name}.json").write_text('{"max_steps": 3}')
    path.write_bytes(content(number))
    if number % 2:
        os.link(path, home / f"other-name-{number}")
    os.utime(path, (time.time() - AN_HOUR,) * 2)


def take(home: Path, fatal: int = 0, *, counts: bool = False) -> int:
    """The duty, until every file has its run; returns how many points that was."""
    from django.db import connection

    from controlplane.models import Dataset, InboxFile, Job
    from controlplane.models.datasets import DatasetStatus
    from controlplane.models.jobs import Kind, Status
    from controlplane.services import inbox_work

    points = Points(home, fatal)
    with ExitStack() as stack:
        if fatal or counts:
            sys.addaudithook(points.audit)
            stack.enter_context(connection.execute_wrapper(points.ask))
        for _ in range(ROUNDS):
            inbox_work.work()
            if not InboxFile.objects.exclude(state="queued").exists():
                return points.passed
            # As if all its rows had been checked.
            Job.objects.filter(kind=Kind.VALIDATE).update(status=Status.DONE)
            Dataset.objects.update(status=DatasetStatus.READY, examples=3)
    raise RuntimeError(str(list(InboxFile.objects.values_list("filename", "state", "reason"))))


def outcome(home: Path) -> dict[str, Any]:
    """What has become of the files, and what lies where none should be left."""
    from controlplane.models import InboxFile, Run
    from controlplane.services import datasets

    files: dict[str, dict[str, Any]] = {}
    for row in InboxFile.objects.select_related("dataset"):
        number = int(row.filename.removeprefix("file-").removesuffix(".jsonl"))
        file = files.setdefault(row.filename, {"rows": 0, "runs": 0, "is_whole": True})
        file["rows"] += 1
        file["runs"] = Run.objects.filter(dataset=row.dataset, config__hyperparams__max_steps=3).count()
        whole = row.dataset and datasets.source_path(row.dataset).read_bytes() == content(number)
        file["is_whole"] = file["is_whole"] and bool(whole)
    left = [path for folder in ("inbox", "tmp") for path in (home / folder).rglob("*") if path.is_file()]
    return {"files": files, "runs": Run.objects.count(), "left": [str(path.relative_to(home)) for path in left]}


def main(home: Path, kills: int) -> None:
    """Prints {"points", "survived", "files", "runs", "left"}; `survived`: at which points no kill came."""
    django.setup()
    for module in ("controlplane.services.inbox_work", "tests.factories"):
        importlib.import_module(module)  # once here, not in every fork
    fork(prepare)
    points = {}
    for number in range(FIRST):
        put(home, number)
        points[number % 2] = fork(lambda: take(home, counts=True))
    survived = []
    for number in range(FIRST, FIRST + kills):
        put(home, number)
        fatal = 1 + (number - FIRST) // 2 * 2 * points[number % 2] // kills
        if fork(lambda: take(home, fatal)) is not None:  # noqa: B023 - it is done at once
            survived.append(fatal)
        if number % 4 == 0:
            fork(lambda: take(home, fatal // 2))  # noqa: B023
        fork(lambda: take(home))
    told = fork(lambda: outcome(home))
    sys.stdout.write(json.dumps({"points": list(points.values()), "survived": survived, **told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
