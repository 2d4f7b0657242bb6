"""The parent of one job's process: starts it, passes signals on, and writes down how it ended.

Runs as a process of its own per attempt; standard library only, so that it starts in a blink and stays small. It
outlives the agent, Ray and the web server. The agent starts it as

    python -E -s -S -m monitoring.supervisor FOLDER LOCK_FD < plan

with the attempt's `lock` already held on the inherited descriptor LOCK_FD. The descriptor goes on to the job's
process: the lock is held, with no gap, from before the launch is acknowledged until supervisor and job are both gone.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

from monitoring.events import EXIT_FILE, LOG_FILE, PROCESS_FILE, RESERVE_FILE, SECRET_FILE
from monitoring.files import write_json
from monitoring.memory_limits import memory_limit_bytes, oom_kills
from monitoring.processes import catches, identify
from monitoring.streams import point_standard_streams_at
from monitoring.wire import ExitRecord, ProcessRecord

PASSED_ON = frozenset({signal.SIGTERM, signal.SIGUSR1})
AWAITED = PASSED_ON | {signal.SIGCHLD}
TICK_SECONDS = 0.05
NOT_STARTED = 127
"""Exit code of a job whose program could not be executed, as in a shell."""

START_UP_SECONDS = 30.0
"""How long a job may take to install its signal handlers. Until it has, a signal is held back: it would only kill."""

WRITE_RETRIES = 600
"""A job that fails on a full disk is a common end: the record waits, a second a try, until there is room."""

OOM_SCORE = 300
"""When memory runs out, the kernel takes the job before the web server and the agent."""


class Plan(TypedDict):
    """What the agent asks a supervisor to run."""

    command: list[str]
    cwd: str
    environment: dict[str, str]
    nice: int


def main(arguments: list[str]) -> int:
    """Reads the plan, leaves the caller's session by a double fork, and supervises. The caller waits for the first
    process alone, which ends at once."""
    folder, lock_descriptor = Path(arguments[0]), int(arguments[1])
    plan: Plan = json.load(sys.stdin)
    if os.fork():
        return 0
    os.setsid()
    if os.fork():
        os._exit(0)
    point_standard_streams_at(folder / LOG_FILE)
    os.set_inheritable(lock_descriptor, True)
    supervise(folder, plan)
    return 0


def supervise(folder: Path, plan: Plan) -> None:
    """Runs the plan's command to its end and leaves `process.json` and `exit.json` in the folder."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Written before the job exists: whoever finds the file knows that this attempt must never be started again.
    write_json(folder / PROCESS_FILE, _process_record(None))
    started_at, kills_before = time.time(), oom_kills()
    pid = _start(plan)
    write_json(folder / PROCESS_FILE, _process_record(pid))
    _pass_signals_until_end(pid)
    _kill_stragglers(pid)
    _, status, usage = os.wait4(pid, 0)
    signalled, kills = os.WIFSIGNALED(status), oom_kills()
    record = ExitRecord(
        code=None if signalled else os.WEXITSTATUS(status),
        signal=os.WTERMSIG(status) if signalled else None,
        started_at=started_at,
        ended_at=time.time(),
        max_rss_bytes=usage.ru_maxrss * 1024,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        memory_limit_bytes=memory_limit_bytes(),
        oom_kills=None if kills is None or kills_before is None else kills - kills_before,
    )
    (folder / SECRET_FILE).unlink(missing_ok=True)  # a token has no business on disk once its job is over
    (folder / RESERVE_FILE).unlink(missing_ok=True)  # one that was killed has left it
    _write_patiently(folder / EXIT_FILE, record)


def _start(plan: Plan) -> int:
    """Forks the job's process, in a process group of its own; returns its pid."""
    pid = os.fork()
    if pid:
        _lead_own_group(pid)
        return pid
    try:
        os.setpgid(0, 0)
        os.chdir(plan["cwd"])
        os.nice(plan["nice"])
        _raise_oom_score()
        for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
        os.execvpe(plan["command"][0], plan["command"], plan["environment"])  # noqa: S606 - a fixed table, no shell
    except OSError as error:
        os.write(2, f"Could not start {plan['command'][0]}: {error.strerror} ({error.filename}).\n".encode())
    finally:
        os._exit(NOT_STARTED)


def _lead_own_group(pid: int) -> None:
    """Done on both sides of the fork, so that the group exists whichever runs first."""
    try:
        os.setpgid(pid, pid)
    except (ProcessLookupError, PermissionError):
        return  # it has already run its program, and so has done this itself


def _pass_signals_until_end(pid: int) -> None:
    """Returns when the job's process has ended (and is still a zombie, so that its pid can't be another's yet)."""
    pending: set[signal.Signals] = set()
    grace_ends = time.monotonic() + START_UP_SECONDS
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        news = signal.sigtimedwait(AWAITED, TICK_SECONDS if pending else 3600.0)
        if news is not None and news.si_signo in PASSED_ON:
            pending.add(signal.Signals(news.si_signo))
        for number in sorted(pending):
            if catches(pid, number) or time.monotonic() > grace_ends:
                # To the job's process alone: torch's data-loading workers die of a SIGTERM that isn't their parent's.
                os.kill(pid, number)
                pending.discard(number)


def _kill_stragglers(pid: int) -> None:
    """Ends what is left of the job's process group, which would otherwise hold memory, GPUs and the lock."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _process_record(pid: int | None) -> ProcessRecord:
    own, job = identify(os.getpid()), identify(pid) if pid else None
    if own is None:
        raise RuntimeError("/proc does not list this process: is /proc mounted?")
    return ProcessRecord(
        pid=pid,
        start_ticks=job.start_ticks if job else None,
        boot_id=own.boot_id,
        supervisor_pid=own.pid,
        supervisor_start_ticks=own.start_ticks,
    )


def _raise_oom_score() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    except OSError:
        return  # some containers forbid it; the job runs all the same


def _write_patiently(path: Path, record: Any) -> None:
    for _ in range(WRITE_RETRIES):
        try:
            return write_json(path, record)
        except OSError as error:
            with contextlib.suppress(OSError):  # the log is on the same disk
                sys.stderr.write(f"Could not write {path.name}: {error.strerror}. Trying again.\n")
            time.sleep(1.0)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
