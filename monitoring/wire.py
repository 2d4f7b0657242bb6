"""What an agent and the control plane say to each other.

Runs in the agent and, through `controlplane.fleet`, in the web process; standard library only. The carrier (a Unix
socket here, a Ray actor in a fleet) moves these plain JSON values and adds nothing. `None` stands for "not known" or
"not supported" everywhere: never 0, never a guess.
"""

from typing import Literal, TypedDict

AttemptState = Literal["launching", "running", "exited", "lost"]
"""exited: `exit.json` is there. lost: neither `exit.json` nor a holder of the lock."""


class ExitRecord(TypedDict):
    """`exit.json`: how an attempt's process ended. Exactly one of `code` and `signal` is set."""

    code: int | None
    signal: int | None
    started_at: float
    ended_at: float
    max_rss_bytes: int
    cpu_seconds: float


class ProcessRecord(TypedDict):
    """`process.json`: whom an attempt belongs to. `pid` and `start_ticks` are None until the job's process exists."""

    pid: int | None
    start_ticks: int | None
    boot_id: str
    supervisor_pid: int
    supervisor_start_ticks: int


class AttemptNews(TypedDict):
    """What lies behind a cursor. `lines` holds whole event lines; `drained`: nothing more lies on disk now."""

    job_id: int
    attempt: int
    offset: int
    next_offset: int
    lines: str
    drained: bool
    state: AttemptState
    exit: ExitRecord | None


class GpuProcess(TypedDict):
    pid: int
    memory_used_bytes: int | None
    command: str
    job_id: int | None


class GpuReading(TypedDict):
    """One GPU at one moment, with NVML's own terms in plain units. `fault`: why it can't be read, or None."""

    index: int
    uuid: str
    name: str
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    utilization_gpu_percent: int | None
    utilization_memory_percent: int | None
    temperature_celsius: int | None
    power_draw_watts: float | None
    power_limit_watts: float | None
    power_limit_default_watts: float | None
    power_limit_min_watts: float | None
    power_limit_max_watts: float | None
    fan_speed_percent: int | None
    processes: list[GpuProcess]
    fault: str | None


class DiskReading(TypedDict):
    mount: str
    used_bytes: int
    total_bytes: int


class HostReading(TypedDict):
    """One host at one moment. `gpu_fault`: why no GPU can be read, as a sentence, or None."""

    time: float
    cpu_percent: float
    cpu_count: int
    load_1m: float
    memory_used_bytes: int
    memory_total_bytes: int
    disks: list[DiskReading]
    gpus: list[GpuReading]
    gpu_fault: str | None


class HostFacts(TypedDict):
    """What doesn't change while an agent runs."""

    name: str
    boot_id: str
    agent_pid: int
    agent_version: str
    started_at: float
    platform: str
    python_version: str
    cpu_name: str
    cpu_count: int
    memory_total_bytes: int
    driver_version: str | None
    cuda_driver_version: str | None
    home: str


class Cursor(TypedDict):
    """Where a reader stands in one attempt's events: the byte offset behind the last line that it has stored."""

    job_id: int
    attempt: int
    offset: int


class PollAnswer(TypedDict):
    """`live` lists (job, attempt) of every attempt whose lock is held on this host, asked for or not."""

    attempts: list[AttemptNews]
    reading: HostReading
    live: list[tuple[int, int]]


class LaunchAnswer(TypedDict):
    """`adopted`: this very attempt had been started already (the launch was asked twice). `pid`: None while the
    job's process is still being started."""

    adopted: bool
    pid: int | None


class SignalAnswer(TypedDict):
    """`delivered`: the wish was handed to a live process. False for an attempt that had ended: that is no error."""

    delivered: bool
    state: AttemptState


class StopAnswer(TypedDict):
    """(job, attempt) of the attempts that have ended after a PAUSE, and of those that outlived the deadline."""

    ended: list[tuple[int, int]]
    still_running: list[tuple[int, int]]


class PowerAnswer(TypedDict):
    """What a GPU's limit is after a change was asked. `refused_by`: "nvml", "sudo nvidia-smi" or None when set."""

    uuid: str
    asked_watts: float
    applied_watts: float | None
    clamped: bool
    set: bool
    method: Literal["nvml", "nvidia-smi"] | None
    refused_by: str | None
    reason: str | None
    fix: str | None


class LogSlice(TypedDict):
    """Lines of a log file with the byte offset at which they start and end."""

    lines: list[str]
    start: int
    end: int
    size: int


class AgentFault(TypedDict):
    """What the agent answers instead of a result."""

    code: str
    message: str
    fix: str


class AgentFaultError(Exception):
    """The agent refuses a call, for a reason that whoever asked can act on."""

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fault = AgentFault(code=code, message=message, fix=fix)
