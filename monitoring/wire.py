"""What an agent and the control plane say to each other.

Runs in the agent and, through `controlplane.fleet`, in the web process; standard library only. The carrier (a Unix
socket here, a Ray actor in a fleet) moves these plain JSON values and adds nothing. `None` stands for "not known" or
"not supported" everywhere: never 0, never a guess.
"""

from typing import Literal, NotRequired, TypedDict

AttemptState = Literal["launching", "running", "exited", "lost"]
"""exited: `exit.json` is there. lost: neither `exit.json` nor a holder of the lock."""


class ExitRecord(TypedDict):
    """`exit.json`: how an attempt's process ended. Exactly one of `code` and `signal` is set.

    `memory_limit_bytes`: what its host or control group has. `oom_kills`: how many processes of the host the kernel
    ended for want of memory while it ran.
    """

    code: int | None
    signal: int | None
    started_at: float
    ended_at: float
    max_rss_bytes: int
    cpu_seconds: float
    memory_limit_bytes: NotRequired[int | None]
    oom_kills: NotRequired[int | None]


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
    """A process that holds memory of a GPU. `pid`, `start_ticks` and `boot_id` name it for good (None: unreadable).

    `job_id` is the live job that it belongs to; `is_ours`: this home's agent started it, for a job that may be gone.
    `command`: the program's name, and for our own jobs their arguments; those of others may hold secrets.
    `utilization_sm_percent`: its share of this card's multiprocessors. `cpu_percent`: 100 is one core. `rss_bytes`: its
    share of the host's memory.
    """

    pid: int
    start_ticks: int | None
    boot_id: str
    memory_used_bytes: int | None
    utilization_sm_percent: int | None
    cpu_percent: float | None
    rss_bytes: int | None
    command: str
    user: str | None
    started_at: float | None
    job_id: int | None
    is_ours: bool


class GpuReading(TypedDict):
    """One GPU at one moment, with NVML's own terms in plain units. `fault`: why it can't be read, or None.

    `unsupported` names the fields that this card or driver doesn't have: shown as "not supported", never as 0.
    `throttle_reasons`: NVML's clocks-event reasons in force, in words ("sw_power_cap", "hw_thermal_slowdown", ...).
    """

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
    clock_sm_mhz: int | None
    clock_sm_max_mhz: int | None
    clock_memory_mhz: int | None
    clock_memory_max_mhz: int | None
    performance_state: int | None
    throttle_reasons: list[str] | None
    pcie_generation: int | None
    pcie_generation_max: int | None
    pcie_width: int | None
    pcie_width_max: int | None
    pcie_sent_bytes_per_second: int | None
    pcie_received_bytes_per_second: int | None
    ecc_enabled: bool | None
    ecc_corrected_count: int | None
    ecc_uncorrected_count: int | None
    persistence_mode: bool | None
    processes: list[GpuProcess]
    unsupported: list[str]
    fault: str | None


class DiskReading(TypedDict):
    mount: str
    used_bytes: int
    total_bytes: int


class NetworkReading(TypedDict):
    name: str
    received_bytes_per_second: float
    sent_bytes_per_second: float


class TemperatureReading(TypedDict):
    """A sensor of the host's own (processor, board, disks), as the kernel names it."""

    label: str
    celsius: float


class HostReading(TypedDict):
    """One host at one moment. `gpu_fault`: why no GPU can be read, as a sentence, or None.

    `gpu_fault_since`: when the driver stopped answering (Unix seconds), or None. `clock_synchronized`: whether the
    kernel knows of a time source that disciplines its clock; None where it doesn't tell.
    """

    time: float
    cpu_percent: float
    cpu_count: int
    load_1m: float
    memory_used_bytes: int
    memory_total_bytes: int
    swap_used_bytes: int
    swap_total_bytes: int
    disks: list[DiskReading]
    networks: list[NetworkReading]
    temperatures: list[TemperatureReading]
    clock_synchronized: bool | None
    gpus: list[GpuReading]
    gpu_fault: str | None
    gpu_fault_since: float | None


class HostSample(TypedDict):
    """A reading's plain figures at one second, kept by the agent for an hour.

    `values` by name: `cpu_percent`, `load_1m`, `memory_used_bytes`, `network_received_bytes_per_second` and
    `network_sent_bytes_per_second` (all interfaces), and for each GPU `UUID/power_draw_watts`,
    `UUID/power_limit_watts`, `UUID/temperature_celsius`, `UUID/utilization_gpu_percent`,
    `UUID/utilization_memory_percent`, `UUID/memory_used_bytes`, `UUID/fan_speed_percent`, `UUID/clock_sm_mhz`. What
    isn't known is left out.
    """

    time: float
    values: dict[str, float]


class HostFacts(TypedDict):
    """What doesn't change while an agent runs. `home_id` names its home folder, wherever that is mounted.
    `address`: where the control plane has met it, if it knows."""

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
    home_id: NotRequired[str]
    address: NotRequired[str]


class Cursor(TypedDict):
    """Where a reader stands in one attempt's events: the byte offset behind the last line that it has stored."""

    job_id: int
    attempt: int
    offset: int


class PollAnswer(TypedDict):
    """`live` lists (job, attempt) of every attempt whose lock is held on this host, asked for or not.

    `now` is the agent's clock when it answered. `samples` holds what was read after `samples_after` (oldest first, at
    most 600; more come with the next poll), one a second, whoever polled or not.
    """

    now: float
    attempts: list[AttemptNews]
    reading: HostReading
    samples: list[HostSample]
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


class PersistenceAnswer(TypedDict):
    """A GPU's persistence mode after a change was asked. `enabled` is what was read back."""

    uuid: str
    asked: bool
    enabled: bool | None
    set: bool
    method: Literal["nvml", "nvidia-smi"] | None
    refused_by: str | None
    reason: str | None
    fix: str | None


class EndAnswer(TypedDict):
    """`ended`: the process is gone. False: it had ended before, or lives on after SIGKILL (a hung driver)."""

    ended: bool
    reason: str | None


class LogSlice(TypedDict):
    """Lines of a log file with the byte offset at which they start and end."""

    lines: list[str]
    start: int
    end: int
    size: int


class LogLine(TypedDict):
    """One line of a log: its byte offset, its number from 1, and what was left out of it.

    `open`: it has no end yet, and may say more the next time.
    """

    start: int
    number: int
    level: str
    text: str
    cut_bytes: int
    open: bool


class LogPage(TypedDict):
    """Lines of a log between two byte offsets, with the numbers of the lines that begin there.

    `ended`: nobody writes to it any more.
    """

    lines: list[LogLine]
    start: int
    end: int
    size: int
    number: int
    end_number: int
    ended: bool


class LogBytes(TypedDict):
    """A piece of a log file as it lies on the disk, in base64; `packed`: the file is gzip."""

    data: str
    size: int
    packed: bool


class FileEntry(TypedDict):
    """A file of an item that travels: its name in the item's folder."""

    name: str
    bytes: int
    sha256: str


class FileListing(TypedDict):
    """What an item consists of. `hashing`: not known yet, so far of it has been read."""

    state: Literal["absent", "hashing", "ready"]
    files: list[FileEntry]
    hashed_bytes: int
    total_bytes: int


class FileBlock(TypedDict):
    """A block of a file, in base64. `size`: the whole file's."""

    data: str
    sha256: str
    size: int


class Incoming(TypedDict):
    """Where the taking of an item stands. `held`: how many bytes of each of its files are here."""

    state: Literal["hashing", "present", "receiving", "damaged", "published"]
    held: list[int]
    hashed_bytes: int
    total_bytes: int


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
