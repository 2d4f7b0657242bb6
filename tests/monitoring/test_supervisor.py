"""What a supervisor records, passes on and cleans up, and what happens without it."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from controlplane.services.ingest import explain
from monitoring.agent import Agent
from monitoring.events import EXIT_PAUSED, Wish
from monitoring.folders import AttemptFolder
from monitoring.processes import ProcessIdentity, catches, is_same
from monitoring.wire import ExitRecord
from tests.monitoring.factories import make_spec, wait_for, wait_for_event, wait_for_state


def ended(folder: AttemptFolder) -> ExitRecord:
    wait_for_state(folder, "exited")
    record = folder.exit()
    assert record is not None
    return record


def test_an_exit_code_is_recorded(agent: Agent, home: Path) -> None:
    agent.launch(make_spec(code=3), {})
    record = ended(AttemptFolder(home, 1, 1))
    assert (record["code"], record["signal"]) == (3, None)
    assert record["started_at"] < record["ended_at"]
    assert record["max_rss_bytes"] > 1 << 20
    assert record["cpu_seconds"] > 0


def test_a_deadly_signal_is_recorded(agent: Agent, home: Path) -> None:
    agent.launch(make_spec(kill_self=int(signal.SIGSEGV)), {})
    record = ended(AttemptFolder(home, 1, 1))
    assert (record["code"], record["signal"]) == (None, signal.SIGSEGV)


def test_a_kill_by_another_hand_is_recorded_with_what_the_job_held(agent: Agent, home: Path) -> None:
    agent.launch(make_spec(kill_self=int(signal.SIGKILL)), {})
    record = ended(AttemptFolder(home, 1, 1))
    assert (record["code"], record["signal"]) == (None, signal.SIGKILL)
    limit = record.get("memory_limit_bytes")
    assert limit is not None
    assert record["max_rss_bytes"] < limit <= psutil.virtual_memory().total
    assert record.get("oom_kills") == 0
    told = explain(record)
    assert "somebody else" in told["message"]
    assert f"{limit / 1e9:.1f} GB" in told["message"]


@pytest.mark.parametrize(
    ("wish", "outcome", "last_event"),
    [
        (Wish.PAUSE, (EXIT_PAUSED, None), "checkpoint"),
        (Wish.STOP, (0, None), "result"),
        (Wish.CANCEL, (None, signal.SIGKILL), "started"),
    ],
)
def test_a_wish_reaches_the_job(
    agent: Agent, home: Path, wish: Wish, outcome: tuple[int | None, int | None], last_event: str
) -> None:
    agent.launch(make_spec(until=str(home / "never")), {})
    folder = AttemptFolder(home, 1, 1)
    wait_for_event(folder, "started")
    assert agent.signal(1, 1, wish) == {"delivered": True, "state": "running"}
    record = ended(folder)
    assert (record["code"], record["signal"]) == outcome
    assert f'"kind":"{last_event}"' in folder.events.read_text().splitlines()[-1]


def test_a_wish_waits_for_a_job_that_cannot_hear_it_yet(agent: Agent, home: Path, tmp_path: Path) -> None:
    ears = tmp_path / "ears"
    agent.launch(make_spec(deaf_until=str(ears), until=str(tmp_path / "never")), {})
    folder = AttemptFolder(home, 1, 1)
    wait_for_event(folder, "started")
    assert agent.signal(1, 1, Wish.PAUSE)["delivered"]
    supervisor = folder.supervisor_identity()
    assert supervisor is not None
    wait_for(lambda: not _is_pending(supervisor.pid, signal.SIGTERM), "the supervisor to take the signal")
    assert folder.state()[0] == "running"
    ears.touch()
    assert ended(folder)["code"] == EXIT_PAUSED


def test_what_a_job_leaves_behind_ends_with_it(agent: Agent, home: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    answer = agent.launch(make_spec(children=2, until=str(go)), {})
    folder = AttemptFolder(home, 1, 1)
    wait_for_event(folder, "started")
    children = psutil.Process(answer["pid"]).children()
    assert len(children) == 2
    go.touch()
    assert ended(folder)["code"] == 0
    wait_for(lambda: not folder.is_held(), "the lock, which the children had inherited")
    wait_for(lambda: not any(_lives(child) for child in children), "the children's end")


def test_a_job_outlives_its_supervisor_and_is_still_owned(agent: Agent, home: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    agent.launch(make_spec(until=str(go)), {})
    folder = AttemptFolder(home, 1, 1)
    wait_for_event(folder, "started")
    job = _kill_supervisor(folder)
    assert is_same(job)
    assert folder.state() == ("running", None)
    assert agent.poll([], 0.0)["live"] == [(1, 1)]
    go.touch()
    wait_for_state(folder, "lost")
    news = agent.poll([{"job_id": 1, "attempt": 1, "offset": 0}], 5.0)["attempts"][0]
    assert (news["state"], news["drained"], news["exit"]) == ("lost", True, None)
    assert '"kind":"result"' in news["lines"]


@pytest.mark.parametrize("wish", [Wish.PAUSE, Wish.CANCEL])
def test_a_job_without_supervisor_can_be_signalled(agent: Agent, home: Path, tmp_path: Path, wish: Wish) -> None:
    agent.launch(make_spec(until=str(tmp_path / "never")), {})
    folder = AttemptFolder(home, 1, 1)
    job = folder.job_identity()
    assert job is not None
    wait_for(lambda: catches(job.pid, signal.SIGTERM))
    _kill_supervisor(folder)
    assert agent.signal(1, 1, wish)["delivered"]
    wait_for_state(folder, "lost")


def test_a_wish_for_what_has_ended_is_no_error(agent: Agent, home: Path) -> None:
    agent.launch(make_spec(), {})
    ended(AttemptFolder(home, 1, 1))
    for wish in Wish:
        assert agent.signal(1, 1, wish) == {"delivered": False, "state": "exited"}
        assert agent.signal(99, 1, wish) == {"delivered": False, "state": "lost"}


def test_a_supervisor_that_is_told_to_end_passes_it_on(agent: Agent, home: Path, tmp_path: Path) -> None:
    agent.launch(make_spec(until=str(tmp_path / "never")), {})
    folder = AttemptFolder(home, 1, 1)
    supervisor = folder.supervisor_identity()
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGTERM)  # as when the machine goes down
    assert ended(folder)["code"] == EXIT_PAUSED


def _kill_supervisor(folder: AttemptFolder) -> ProcessIdentity:
    supervisor, job = folder.supervisor_identity(), folder.job_identity()
    assert supervisor is not None and job is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not _lives(psutil.Process(supervisor.pid)) if psutil.pid_exists(supervisor.pid) else True)
    return job


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_pending(pid: int, number: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("SigPnd:", "ShdPnd:")) and int(line.split()[1], 16) >> (number - 1) & 1:
            return True
    return False
