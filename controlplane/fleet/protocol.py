"""What the control plane may ask of a host's agent, whichever way the words travel.

Runs in the web process. The wire types are the agent's own; the rest of the control plane imports them from here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from monitoring.events import Wish
from monitoring.file_items import Item
from monitoring.wire import (
    AgentFault,
    AttemptNews,
    AttemptState,
    Cursor,
    DiskReading,
    EndAnswer,
    ExitRecord,
    FileBlock,
    FileEntry,
    FileListing,
    GpuProcess,
    GpuReading,
    HostFacts,
    HostReading,
    HostSample,
    Incoming,
    LaunchAnswer,
    LogBytes,
    LogPage,
    LogSlice,
    NetworkReading,
    PersistenceAnswer,
    PollAnswer,
    PowerAnswer,
    SignalAnswer,
    StopAnswer,
    TemperatureReading,
)

__all__ = [
    "AgentFault",
    "AgentRefusedError",
    "AttemptNews",
    "AttemptState",
    "Carrier",
    "Cursor",
    "DiskReading",
    "EndAnswer",
    "ExitRecord",
    "FileBlock",
    "FileCalls",
    "FileEntry",
    "FileListing",
    "GpuProcess",
    "GpuReading",
    "HostFacts",
    "HostReading",
    "HostSample",
    "HostUnreachableError",
    "Incoming",
    "Item",
    "LaunchAnswer",
    "LogBytes",
    "LogPage",
    "LogSlice",
    "NetworkReading",
    "PersistenceAnswer",
    "PollAnswer",
    "PowerAnswer",
    "SignalAnswer",
    "StopAnswer",
    "TemperatureReading",
    "Wish",
]


class HostUnreachableError(Exception):
    """The agent doesn't answer. Whether a call has had its effect is not known: every call may be made again."""


class AgentRefusedError(Exception):
    """The agent has answered, and says no: a stable code, a sentence, and what mends it."""

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix


class FileCalls(Protocol):
    """The files of one home (`controlplane.fleet.files` has what each call says). Raises as a carrier's calls do."""

    def list_files(self, item: Item) -> FileListing:
        """What an item consists of; `absent` where it isn't there, `hashing` where the answer takes longer."""

    def read_block(self, item: Item, name: str, offset: int) -> FileBlock:
        """A block of a file. Refusal: `gone`."""

    def begin_files(self, item: Item, files: Sequence[FileEntry]) -> Incoming:
        """Makes ready for these files, or goes on where it broke off. Refusal: `disk_full`."""

    def write_block(self, item: Item, number: int, offset: int, block: FileBlock) -> int:
        """Appends a block; returns how much is held. Refusals: `damaged_block`, `wrong_offset`, `disk_full`."""

    def publish_files(self, item: Item) -> Incoming:
        """Puts an item into its place once every file has its hash."""

    def remove_files(self, item: Item, *, incoming_only: bool = False) -> int:
        """Takes an item away, or only what has come of it. Refusal: `in_use`."""


class Carrier(Protocol):
    """One host's agent. Thread-safe. Every call raises HostUnreachableError or AgentRefusedError."""

    def describe(self) -> HostFacts:
        """What doesn't change while the agent runs."""

    def launch(self, spec: Mapping[str, Any], secrets: Mapping[str, str]) -> LaunchAnswer:
        """Starts the attempt of `JobSpec.to_json()`; the same attempt asked twice runs once.

        Refusals: `bad_spec`, `unknown_kind`, `foreign_attempt`, `superseded`, `still_running`, `disk_full`, `stopping`,
        `launch_failed`.
        """

    def signal(self, job_id: int, attempt: int, wish: Wish) -> SignalAnswer:
        """Hands a wish to a job. For an attempt that has ended it is no error. Refusal: `launching` (ask again)."""

    def poll(self, cursors: Sequence[Cursor], wait_seconds: float, samples_after: float | None = None) -> PollAnswer:
        """What lies behind each cursor, and the samples after a time; waits up to `wait_seconds` (at most 30) for news.

        An attempt that has ended and is drained is always news: leave its cursor out once that is stored.
        """

    def set_power(
        self, gpu_uuid: str, watts: float, *, strict: bool = False, restore_at_stop: bool = False
    ) -> PowerAnswer:
        """Sets a GPU's power limit. Refusals: `unknown_gpu`, `bad_call`, with `strict` `out_of_range`.

        `restore_at_stop`: when the agent stops it puts back the limit that the card had before the first change.
        """

    def set_persistence(self, gpu_uuid: str, enabled: bool, *, restore_at_stop: bool = False) -> PersistenceAnswer:
        """Sets a GPU's persistence mode and reads it back. Refusals: `unknown_gpu`, `bad_call`."""

    def end_process(self, pid: int, start_ticks: int, boot_id: str, *, others: bool = False) -> EndAnswer:
        """Ends one process that holds GPU memory: SIGTERM, then SIGKILL after a grace.

        Refusals: `bad_call` (pid ≤ 1 or the agent's own), `other_process` (the pid is somebody else's now),
        `belongs_to_job` (a live job's: cancel the job), `not_ours` (without `others`), `not_on_gpu`, `not_permitted`.
        """

    def read_log(
        self, job_id: int, attempt: int, *, lines: int = 200, start: int | None = None, limit_bytes: int = 1 << 18
    ) -> LogSlice:
        """The last `lines` lines of an attempt's log or, with `start`, whole lines from that byte on."""

    def page_log(
        self, job_id: int, attempt: int, *, before: int | None = None, after: int | None = None,
        number: int | None = None, lines: int = 200, level: str = "", search: str = "",
    ) -> LogPage:  # fmt: skip
        """Lines of an attempt's log: the last ones before a byte (None: its end), or the first from `after` on.

        Of the level at least, and with `search` in them (large and small letters alike). `number`: that of the line
        there, where it is known.
        """

    def copy_log(self, job_id: int, attempt: int, *, start: int = 0) -> LogBytes:
        """A piece of an attempt's log as it lies on the disk: at most a mebibyte from `start` on."""

    def read_agent_log(self, lines: int = 200) -> LogSlice:
        """The last lines of the agent's own log."""

    def stop_all(self, deadline_seconds: float) -> StopAnswer:
        """Pauses every job of the host and waits for their end; the agent starts nothing afterwards."""

    def shutdown(self) -> None:
        """Ends the agent. Jobs go on."""

    @property
    def files(self) -> FileCalls:
        """The files of its home."""
