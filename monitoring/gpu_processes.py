"""Who holds memory of the GPUs, and how one of them is ended. Runs in the agent."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from monitoring.cards import DescribeProcess
from monitoring.launch import COMMANDS
from monitoring.process_use import NOTHING_KNOWN, HostUses
from monitoring.processes import ProcessIdentity, boot_id, identify, is_alive, send
from monitoring.wire import AgentFaultError, EndAnswer, GpuProcess, HostReading

TERM_GRACE_SECONDS = 4.0
KILL_GRACE_SECONDS = 2.0
"""With the deadline of a reading before it, an end is answered within ten seconds."""

HOST_PID_NAMESPACE = "pid:[4026531836]"
"""The kernel's first one (PROC_PID_INIT_INO), in whose numbers NVML counts. A container has one of its own, mostly."""

DEVICES = Path("/dev")
JOB_MODULES = frozenset(command[2] for command in COMMANDS.values())
"""What the jobs' own processes run: `python -m training`, `python -m inference`."""

TICK_SECONDS = 0.02
MOST_KNOWN = 512

Leaders = Callable[[], dict[int, int]]
"""The jobs of the live attempts by the pid of the job's process, which leads the job's process group."""


@dataclass(frozen=True)
class _Known:
    """What doesn't change about a process."""

    start_ticks: int
    command: str
    user: str | None
    started_at: float | None
    is_of_our_job: bool


class ProcessWatch:
    """Tells of each process on a GPU whose it is. Thread-safe.

    Ours is what this home's agent has started: it belongs to a live job, or its environment names this home and a job,
    as that of every job and of its children does. The home alone is in many a shell.
    """

    def __init__(self, home: Path, leaders: Leaders) -> None:
        self._home = str(home)
        self._leaders = leaders
        self._lock = threading.Lock()
        self._known: dict[int, _Known] = {}
        self._uses = HostUses()
        self._jobs: dict[int, tuple[int, dict[int, int], int | None]] = {}

    def describer(self) -> DescribeProcess:
        """A function for one reading: the live jobs are looked up once, not once a process."""
        leaders = self._leaders()
        return lambda pid, memory_used_bytes: self._describe(pid, memory_used_bytes, leaders)

    def _describe(self, pid: int, memory_used_bytes: int | None, leaders: dict[int, int]) -> GpuProcess:
        known = self._look_up(pid)
        job_id = self._job_of(pid, known.start_ticks, leaders) if known else None
        use = self._uses.of(pid, known.start_ticks) if known else NOTHING_KNOWN
        return GpuProcess(
            pid=pid,
            start_ticks=known.start_ticks if known else None,
            boot_id=boot_id(),
            memory_used_bytes=memory_used_bytes,
            utilization_sm_percent=None,  # which NVML tells by the card
            cpu_percent=use.cpu_percent,
            rss_bytes=use.rss_bytes,
            command=known.command if known else "",
            user=known.user if known else None,
            started_at=known.started_at if known else None,
            job_id=job_id,
            is_ours=job_id is not None or (known is not None and known.is_of_our_job),
        )

    def _look_up(self, pid: int) -> _Known | None:
        """Who it is, or None for a process that is gone or in another container. Read once a process."""
        identity = identify(pid)
        if identity is None:
            return None
        with self._lock:
            known = self._known.get(pid)
        if known is not None and known.start_ticks == identity.start_ticks:
            return known
        if not _can_be_on_gpu(pid):
            return None
        known = _read(identity, self._home)
        with self._lock:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
                self._jobs.clear()
            self._known[pid] = known
        return known

    def _job_of(self, pid: int, start_ticks: int, leaders: dict[int, int]) -> int | None:
        """The job that a process belongs to; looked up again when other jobs live."""
        with self._lock:
            found = self._jobs.get(pid)
        if found is not None and found[:2] == (start_ticks, leaders):
            return found[2]
        job_id = _job_of(pid, leaders)
        with self._lock:
            self._jobs[pid] = (start_ticks, leaders, job_id)
        return job_id


def _can_be_on_gpu(pid: int) -> bool:
    """False where NVML's number is surely another process here: nothing of NVIDIA's is open in it.

    Told in a container alone, and of what can be read: another user's process may be anything, and can't be ended.
    """
    if str(Path("/proc/self/ns/pid").readlink()) == HOST_PID_NAMESPACE or not any(DEVICES.glob("nvidia*")):
        return True
    try:
        files = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return True
    return any(file.startswith(f"{DEVICES}/nvidia") for file in files)


def _read(identity: ProcessIdentity, home: str) -> _Known:
    command, user, started_at = "", None, None
    process_folder = Path("/proc") / str(identity.pid)
    try:
        variables = (process_folder / "environ").read_bytes().split(b"\0")
    except OSError:  # another user's
        variables = []
    is_of_our_job = b"PILOTHOUSE_HOME=" + os.fsencode(home) in variables and any(
        one.startswith(b"PILOTHOUSE_JOB=") for one in variables
    )
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(identity.pid)
        command = process.name()
        if is_of_our_job:
            command = " ".join([command, *_job_arguments(process.cmdline())])
        started_at = process.create_time()
        user = process.username()
    return _Known(
        start_ticks=identity.start_ticks,
        command=command,
        user=user,
        started_at=started_at,
        is_of_our_job=is_of_our_job,
    )


def _job_arguments(command_line: list[str]) -> list[str]:
    """`-m training train SPEC` of a job's own process: nothing secret is ever among a job's arguments.

    None of any other program: its arguments may hold secrets, also where a job has started it.
    """
    for place in range(1, len(command_line) - 1):
        if command_line[place] == "-m" and command_line[place + 1] in JOB_MODULES:
            return command_line[place:]
    return []


def _job_of(pid: int, leaders: dict[int, int]) -> int | None:
    """It is in the job's process group, or descends from the job's process."""
    if not leaders:
        return None
    try:
        if (leader := os.getpgid(pid)) in leaders:
            return leaders[leader]
        ancestors = [parent.pid for parent in psutil.Process(pid).parents()]
    except (OSError, psutil.Error):
        return None
    return next((leaders[parent] for parent in ancestors if parent in leaders), None)


def check_may_end(
    pid: object, start_ticks: object, boot: object, reading: HostReading, *, others: bool
) -> ProcessIdentity | None:
    """Whom to end, or None where it has ended already. `reading` must be fresh.

    Raises AgentFaultError: `bad_call`, `other_process`, `not_on_gpu`, `belongs_to_job`, `not_ours`.
    """
    identity = _check_identity(pid, start_ticks, boot)
    if identity.boot_id != boot_id():
        raise AgentFaultError("other_process", f"Process {pid} is of a time before this host's last start.", RELOAD)
    found = identify(identity.pid)
    if found is None or (found == identity and not is_alive(identity)):
        return None
    if found != identity:
        raise AgentFaultError("other_process", f"The number {pid} is another process's by now.", RELOAD)
    holder = _holder(identity, reading)
    if holder is None:
        why = f" {reading['gpu_fault']}" if reading["gpu_fault"] else ""
        raise AgentFaultError("not_on_gpu", f"Process {pid} isn't listed on any GPU.{why}", RELOAD)
    if holder["job_id"] is not None:
        message = f"Process {pid} belongs to job {holder['job_id']}, which is live."
        raise AgentFaultError("belongs_to_job", message, "Cancel the job instead.")
    if not holder["is_ours"] and not others:
        who = f"{holder['command']}, of {holder['user'] or 'another user'}"
        message = f"Process {pid} ({who}) wasn't started by Pilothouse."
        raise AgentFaultError("not_ours", message, "Confirm that you want to end somebody else's process.")
    return identity


RELOAD = "Reload the list of processes."


def _check_identity(pid: object, start_ticks: object, boot: object) -> ProcessIdentity:
    for name, value in (("pid", pid), ("start_ticks", start_ticks)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise AgentFaultError("bad_call", f"{name} must be a whole number, not {value!r}.")
    if not isinstance(boot, str):
        raise AgentFaultError("bad_call", f"boot_id must be a text, not {boot!r}.")
    identity = ProcessIdentity(int(str(pid)), boot, int(str(start_ticks)))
    if identity.pid <= 1:
        raise AgentFaultError("bad_call", f"Process {pid} is never ended.")
    if identity.pid in (os.getpid(), os.getppid()):
        raise AgentFaultError("bad_call", f"Process {pid} is the agent itself.", "End it with `bin/up --stop-all`.")
    return identity


def _holder(identity: ProcessIdentity, reading: HostReading) -> GpuProcess | None:
    for gpu in reading["gpus"]:
        for process in gpu["processes"]:
            if (process["pid"], process["start_ticks"]) == (identity.pid, identity.start_ticks):
                return process
    return None


def end_process(
    identity: ProcessIdentity,
    *,
    term_grace_seconds: float = TERM_GRACE_SECONDS,
    kill_grace_seconds: float = KILL_GRACE_SECONDS,
) -> EndAnswer:
    """SIGTERM, and SIGKILL for what lives on after a grace. Raises AgentFaultError `not_permitted`."""
    try:
        if not send(identity, signal.SIGTERM):
            return EndAnswer(ended=False, reason=f"Process {identity.pid} had ended before.")
        if _is_gone_within(identity, term_grace_seconds):
            return EndAnswer(ended=True, reason=None)
        send(identity, signal.SIGKILL)
    except PermissionError as error:
        message = f"The agent may not end process {identity.pid}: it belongs to another user."
        raise AgentFaultError("not_permitted", message, f"On the host, type: sudo kill {identity.pid}") from error
    if _is_gone_within(identity, kill_grace_seconds):
        return EndAnswer(ended=True, reason=f"It didn't heed SIGTERM within {term_grace_seconds:g} s and was killed.")
    reason = f"Process {identity.pid} lives on after SIGKILL: it hangs in the kernel, most likely in the GPU's driver."
    return EndAnswer(ended=False, reason=f"{reason} A reboot of the host ends it.")


def _is_gone_within(identity: ProcessIdentity, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(identity):
        if time.monotonic() > deadline:
            return False
        time.sleep(TICK_SECONDS)
    return True
