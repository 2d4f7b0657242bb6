"""What goes into a job's process and what comes out of it: `JobSpec` and the events of `events.jsonl`.

Runs in every process; standard library only. The forms are those of the contracts page: a spec is one JSON file, an
event is one JSON object a line with `seq` (from 1 in each attempt), `time` (Unix seconds) and `kind`. The file is
append-only and is the truth about the attempt; everything else is what somebody has read from it.
"""

import contextlib
import dataclasses
import enum
import json
import math
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

SPEC_VERSION = 1
EVENTS_FILE = "events.jsonl"
SECRET_FILE = "secret"  # noqa: S105 - the name of a file
SPEC_FILE = "spec.json"
LOG_FILE = "log.txt"
RESERVE_FILE = ".reserve"
"""Room on the disk that a job's process holds for its last word (`monitoring.attempt`)."""
EXIT_FILE = "exit.json"
PROCESS_FILE = "process.json"

EXIT_PAUSED = 75
"""Exit code of a job that was told to pause (or whose host goes down) and has written a checkpoint (EX_TEMPFAIL)."""

Level = Literal["debug", "info", "warning", "error"]
PhaseName = Literal["launching", "active", "checkpointing", "stopping", "lost", "held"]


class Wish(enum.Enum):
    """What a running job can be told, and the signal that says it."""

    STOP = "stop"
    PAUSE = "pause"
    CANCEL = "cancel"

    @property
    def signal(self) -> signal.Signals:
        """STOP: end early but properly (checkpoint, model, result). PAUSE: checkpoint, exit with EXIT_PAUSED."""
        return {Wish.STOP: signal.SIGUSR1, Wish.PAUSE: signal.SIGTERM, Wish.CANCEL: signal.SIGKILL}[self]


# --- The spec -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Artefact:
    """A dataset, model or checkpoint as one host sees it: its id in the data base, its folder, its hash if known."""

    id: str
    path: str
    sha256: str = ""


@dataclass(frozen=True)
class Inputs:
    """What a job reads."""

    dataset: Artefact | None = None
    model: Artefact | None = None
    base: Artefact | None = None
    resume_from: Artefact | None = None


@dataclass(frozen=True)
class Meeting:
    """Where the processes of a run on several hosts meet: this host's are number `number` of `hosts`; number 0 leads.

    `endpoint` is the leader's "address:port", `address` this host's own; `key` tells one attempt's meeting from
    others'.
    """

    endpoint: str
    address: str
    key: str
    number: int
    hosts: int

    @property
    def is_local(self) -> bool:
        """Whether all are on one machine, so that nothing needs its network cards."""
        return self.endpoint.startswith("127.")


@dataclass(frozen=True)
class JobSpec:
    """One attempt of one job. `gpus` holds NVML UUIDs; `model_dir` is where a finished model is to be published.

    `meeting`: of a run on several hosts, each of which gets a spec of its own.
    """

    job_id: int
    attempt: int
    kind: str
    verb: str
    host: str
    output_dir: str
    inputs: Inputs = field(default_factory=Inputs)
    gpus: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    model_dir: str = ""
    meeting: Meeting | None = None
    spec_version: int = SPEC_VERSION

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads a spec back. Raises ValueError when it is of another version or lacks a field."""
        if value.get("spec_version") != SPEC_VERSION:
            raise ValueError(f"spec version {value.get('spec_version')!r}, but this program reads {SPEC_VERSION}")
        inputs = {name: Artefact(**item) if item else None for name, item in value.get("inputs", {}).items()}
        try:
            meeting = Meeting(**value["meeting"]) if value.get("meeting") else None
            gpus = tuple(value.get("gpus", ()))
            return cls(**{**value, "inputs": Inputs(**inputs), "gpus": gpus, "meeting": meeting})
        except TypeError as error:
            raise ValueError(f"not a job spec: {error}") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads `spec.json`."""
        return cls.from_json(json.loads(path.read_text()))


def read_secrets(spec_path: Path) -> dict[str, str]:
    """The secrets beside a spec (`engine_token`, `hf_token`), or {} where none were handed over."""
    path = spec_path.parent / SECRET_FILE
    secrets: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return secrets


# --- The events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    kind: ClassVar[str] = "started"
    pid: int


@dataclass(frozen=True)
class Phase:
    kind: ClassVar[str] = "phase"
    name: PhaseName


@dataclass(frozen=True)
class Metrics:
    """Figures at an optimizer step. Values may be NaN or infinite: that too is news."""

    kind: ClassVar[str] = "metrics"
    step: int
    values: dict[str, float]
    epoch: float | None = None


@dataclass(frozen=True)
class Progress:
    """`done` of `total` (None: not known yet) in `unit`: "steps", "bytes", "rows", "files"."""

    kind: ClassVar[str] = "progress"
    done: float
    total: float | None
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is complete on disk: `path` is relative to the job's output_dir."""

    kind: ClassVar[str] = "checkpoint"
    step: int
    path: str
    bytes: int
    loss: float | None = None
    eval_loss: float | None = None
    manifest_sha256: str = ""


@dataclass(frozen=True)
class CheckpointGone:
    """A checkpoint that retention took away."""

    kind: ClassVar[str] = "checkpoint_gone"
    step: int


@dataclass(frozen=True)
class Sample:
    kind: ClassVar[str] = "sample"
    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Resumed:
    """Supersedes the metric points of earlier attempts beyond `step`."""

    kind: ClassVar[str] = "resumed"
    step: int


@dataclass(frozen=True)
class Log:
    kind: ClassVar[str] = "log"
    level: Level
    text: str


@dataclass(frozen=True)
class Ready:
    """An engine answers on `port`; `runs_with`: its settings as they came to be, by name."""

    kind: ClassVar[str] = "ready"
    port: int
    runs_with: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The job has done what it was for. `values` is what its kind promises."""

    kind: ClassVar[str] = "result"
    values: dict[str, Any]


@dataclass(frozen=True)
class Error:
    """Why the job can't go on: a stable code, a sentence that names the thing, and what mends it.

    `needed_bytes` is how much of the disk must be free for it to go on, where that is the reason.
    """

    kind: ClassVar[str] = "error"
    code: str
    message: str
    fix: str = ""
    needed_bytes: int | None = None


Body = (
    Started | Phase | Metrics | Progress | Checkpoint | CheckpointGone | Sample | Resumed | Log | Ready | Result | Error
)
BODIES: dict[str, type[Any]] = {
    body.kind: body
    for body in (
        Started, Phase, Metrics, Progress, Checkpoint, CheckpointGone, Sample, Resumed, Log, Ready, Result, Error,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Event:
    """One line of `events.jsonl`."""

    seq: int
    time: float
    body: Body


class MalformedEventError(ValueError):
    """A complete line that is not an event."""


_NAMED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode_number(value: float) -> float | str:
    """A float as JSON can hold it: NaN and the infinities become the strings of the contract."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def decode_number(value: float | str) -> float:
    """The inverse of `encode_number`. Raises MalformedEventError for any other string."""
    if isinstance(value, str):
        if value not in _NAMED:
            raise MalformedEventError(f"{value!r} is not a number")
        return _NAMED[value]
    return float(value)


def encode_event(event: Event) -> bytes:
    """The event as one line, newline included."""
    fields = dataclasses.asdict(event.body)
    if isinstance(event.body, Metrics):
        fields["values"] = {key: encode_number(value) for key, value in event.body.values.items()}
    for name in ("loss", "eval_loss"):
        if isinstance(fields.get(name), float):
            fields[name] = encode_number(fields[name])
    whole = {"seq": event.seq, "time": round(event.time, 6), "kind": event.body.kind, **fields}
    return json.dumps(whole, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def decode_event(line: str | bytes) -> Event:
    """Reads one line. Raises MalformedEventError with a reason; unknown fields are ignored (a newer writer)."""
    try:
        whole = json.loads(line)
        body_type = BODIES[whole["kind"]]
        names = {f.name for f in dataclasses.fields(body_type)}
        fields = {name: value for name, value in whole.items() if name in names}
        if body_type is Metrics:
            fields["values"] = {str(key): decode_number(value) for key, value in fields["values"].items()}
        for name in ("loss", "eval_loss"):
            if fields.get(name) is not None:
                fields[name] = decode_number(fields[name])
        return Event(seq=int(whole["seq"]), time=float(whole["time"]), body=body_type(**fields))
    except MalformedEventError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise MalformedEventError(f"not an event: {type(error).__name__} {error}") from error


class EventWriter:
    """Appends events to an attempt's file: one `write` a line, so that a reader sees whole lines or a torn last one.

    Thread-safe. Use it as a context manager or call `close()`.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._lock = threading.Lock()
        self._path = path
        self._seq = _last_seq(path)

    def emit(self, body: Body) -> Event:
        """Writes one event and returns it as written. Raises OSError, and leaves nothing of it, on a full disk."""
        with self._lock:
            event = Event(seq=self._seq + 1, time=time.time(), body=body)
            line, written = encode_event(event), 0
            try:
                while written < len(line):
                    written += os.write(self._descriptor, line[written:])
            except OSError:  # the disk is full: half a line would swallow the event that comes after it
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise
            self._seq = event.seq
            return event

    def log(self, text: str, level: Level = "info") -> None:
        """Writes a log event, and the same line to stderr: a job's log file holds what its page showed."""
        event = self.emit(Log(level=level, text=text))
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
        with contextlib.suppress(OSError):  # the log may be on a full disk; the event was written
            sys.stderr.write(f"{clock} {level.upper()} {text}\n")

    def catch_up(self) -> None:
        """Counts on from what another process has written to the file meanwhile, and has closed."""
        with self._lock:
            self._seq = _last_seq(self._path)

    def close(self) -> None:
        """Makes what was written durable and closes the file."""
        with self._lock:
            if self._descriptor >= 0:
                os.fsync(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _last_seq(path: Path) -> int:
    """The seq of the last whole event of a file, 0 for an empty one."""
    last = 0
    with path.open("rb") as stream:
        for line in stream:
            try:
                last = max(last, decode_event(line).seq)
            except MalformedEventError:
                continue
    return last


def read_lines(path: Path, offset: int, limit_bytes: int = 1 << 20) -> tuple[bytes, int]:
    """Whole lines from byte `offset` on, and the offset behind them. A torn last line is left for the next call.

    A line longer than `limit_bytes` is read whole. A file that doesn't exist yet reads as empty.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(limit_bytes)
            while data and b"\n" not in data and (more := stream.read(limit_bytes)):
                data += more
    except FileNotFoundError:
        return b"", offset
    whole = data[: data.rfind(b"\n") + 1]
    return whole, offset + len(whole)
