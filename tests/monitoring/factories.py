"""What the agent's tests share: a small real job, specs for it, and waiting for a condition with a deadline."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from monitoring.agent import Agent
from monitoring.events import JobSpec
from monitoring.folders import AttemptFolder
from monitoring.processes import boot_id
from monitoring.server import ask
from monitoring.wire import GpuProcess

T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parent.parent.parent
COMMANDS = {
    "sleeper": (sys.executable, "-S", str(Path(__file__).with_name("sleeper.py"))),
    "missing": ("/no/such/program",),
}
DEADLINE_SECONDS = 15.0


def make_spec(job_id: int = 1, attempt: int = 1, *, kind: str = "sleeper", **config: Any) -> dict[str, Any]:
    """A spec of the sleeper (or of another kind of COMMANDS), as the control plane would send it."""
    spec = JobSpec(job_id=job_id, attempt=attempt, kind=kind, verb="", host="here", output_dir="runs/1", config=config)
    return spec.to_json()


def nobodys(pid: int, memory_used_bytes: int | None) -> GpuProcess:
    """A process on a GPU of which nothing else is known."""
    return GpuProcess(
        pid=pid, start_ticks=None, boot_id=boot_id(), memory_used_bytes=memory_used_bytes,
        utilization_sm_percent=None, cpu_percent=None, rss_bytes=None, command="", user=None, started_at=None,
        job_id=None, is_ours=False,
    )  # fmt: skip


def wait_for(condition: Callable[[], T | None], what: str = "the condition") -> T:
    """The first true value of `condition`. Fails after DEADLINE_SECONDS."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.005)
    raise AssertionError(f"waited {DEADLINE_SECONDS:g} s for {what}")


def wait_for_state(folder: AttemptFolder, state: str) -> None:
    """Waits until an attempt is in a state."""
    wait_for(lambda: folder.state()[0] == state, f"{folder.path} to be {state}")


def wait_for_event(folder: AttemptFolder, kind: str) -> None:
    """Waits until a job has written an event of a kind."""
    needle = f'"kind":"{kind}"'
    wait_for(lambda: folder.events.exists() and needle in folder.events.read_text(), f"event {kind}")


def kill_all(agent: Agent) -> None:
    """Ends what a test has left running, jobs whose supervisor is dead included."""
    for key in agent._live_now():
        if job := AttemptFolder(agent.home, *key).job_identity():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, 9)


@contextlib.contextmanager
def agent_process(home: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real agent process with the test's commands, ended by force afterwards if it still lives."""
    program = [sys.executable, "-m", "tests.monitoring.agent_process", str(home)]
    process = subprocess.Popen(program, cwd=CHECKOUT, env={**os.environ, **environment}, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def call(home: Path, name: str, **args: Any) -> Any:
    """Asks the agent process of a home."""
    return ask(home, name, args, DEADLINE_SECONDS)
