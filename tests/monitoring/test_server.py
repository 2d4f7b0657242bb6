"""The agent as a process behind its socket: who may connect, what outlives what, and the commands."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from monitoring.folders import AttemptFolder
from monitoring.server import AgentRunsAlreadyError, _Connection, _Server, ask, sole_agent
from monitoring.wire import AgentFaultError
from tests.monitoring.factories import (
    CHECKOUT,
    agent_process,
    call,
    make_spec,
    wait_for,
    wait_for_event,
    wait_for_state,
)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "monitoring", *arguments]
    return subprocess.run(program, cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=False)


def test_killed_agent_job_goes_on_and_is_adopted_with_no_line_lost_or_doubled(home: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    spec = make_spec(points=50, until=str(go))
    with agent_process(home) as first:
        pid = call(home, "launch", spec=spec, secrets={})["pid"]
        folder = AttemptFolder(home, 1, 1)
        wait_for_event(folder, "metrics")
        before = call(home, "poll", cursors=[{"job_id": 1, "attempt": 1, "offset": 0}], wait_seconds=5)["attempts"][0]
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert folder.state()[0] == "running"
    with agent_process(home):
        assert call(home, "poll", cursors=[], wait_seconds=0)["live"] == [[1, 1]]
        assert call(home, "launch", spec=spec, secrets={}) == {"adopted": True, "pid": pid}
        go.touch()
        wait_for_state(folder, "exited")
        position = {"job_id": 1, "attempt": 1, "offset": before["next_offset"]}
        after = call(home, "poll", cursors=[position], wait_seconds=5)["attempts"][0]
    assert before["lines"] + after["lines"] == folder.events.read_text()
    assert after["exit"]["code"] == 0


def test_only_the_owner_can_connect(home: Path) -> None:
    with agent_process(home):
        mode = (home / "agent.sock").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600


def test_the_socket_of_a_dead_agent_is_replaced(home: Path) -> None:
    with agent_process(home) as first:
        first.kill()
        first.wait()
        assert (home / "agent.sock").exists()
    with agent_process(home) as second:
        assert call(home, "describe")["agent_pid"] == second.pid


def test_a_home_may_lie_deeper_than_a_socket_name_reaches(tmp_path: Path) -> None:
    home = tmp_path / ("deep" * 20) / ("deeper" * 10)
    with agent_process(home) as agent:
        assert call(home, "describe")["agent_pid"] == agent.pid


def test_whoever_ends_the_agent_hears_of_it_first(home: Path) -> None:
    answered = threading.Event()
    ended_after_the_answer = []

    class Watched(_Server):
        def end(self) -> None:
            ended_after_the_answer.append(answered.wait(5))
            super().end()

    home.mkdir()
    with Watched(str(home / "agent.sock"), _Connection) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        assert ask(home, "shutdown", {}, 10.0) is None
        answered.set()
        serving.join(10)
    assert ended_after_the_answer == [True]


def test_a_second_agent_is_refused(home: Path) -> None:
    with sole_agent(home), pytest.raises(AgentRunsAlreadyError, match=f"pid {os.getpid()}"), sole_agent(home):
        pass
    with sole_agent(home):
        answer = command("agent", "--home", str(home))
    assert answer.returncode == 1
    assert answer.stderr == f"An agent (pid {os.getpid()}) already runs on {home}.\n"


def test_bad_calls_are_answered_and_the_agent_lives_on(home: Path) -> None:
    bad: list[tuple[str, dict[str, Any], str]] = [
        ("rm", {}, "knows no call 'rm'"),
        ("launch", {}, "missing"),
        ("describe", {"surprise": 1}, "surprise"),
        ("signal", {"job_id": 1, "attempt": 1, "wish": "explode"}, "explode"),
        ("read_log", {"job_id": "../1", "attempt": 1}, "job_id must be a positive whole number"),
    ]
    with agent_process(home):
        for name, args, sentence in bad:
            with pytest.raises(AgentFaultError, match=sentence) as caught:
                call(home, name, **args)
            assert caught.value.fault["code"] == "bad_call"
        assert call(home, "describe")["home"] == str(home)


def test_logs_can_be_read_through_the_socket(home: Path) -> None:
    with agent_process(home):
        call(home, "launch", spec=make_spec(environment={}), secrets={})
        wait_for_state(AttemptFolder(home, 1, 1), "exited")
        assert '"PILOTHOUSE_HOME"' in call(home, "read_log", job_id=1, attempt=1, lines=5)["lines"][0]


def test_an_agent_in_the_foreground_keeps_its_log_too(home: Path) -> None:
    """A journal has it, and so have the pages and GET /api/logs/agent."""
    program = [sys.executable, "-m", "monitoring", "agent", "--home", str(home)]
    with subprocess.Popen(program, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        line = agent.stderr.readline()
        assert f"agent {agent.pid} listens on" in line
        assert call(home, "read_agent_log", lines=5)["lines"] == [line.rstrip()]
        agent.terminate()


def test_an_agent_whose_jobs_do_not_end_goes_on(home: Path, tmp_path: Path) -> None:
    """And takes new ones: nobody else could tell its jobs anything."""
    with agent_process(home):
        call(home, "launch", spec=make_spec(deaf_until=str(tmp_path / "go")), secrets={})
        refused = command("stop", "--home", str(home), "--jobs", "--deadline", "0.2")
        assert refused.returncode == 1
        assert "Job 1 (attempt 1) still runs" in refused.stderr
        assert "The agent goes on" in refused.stderr
        call(home, "launch", spec=make_spec(2, until=str(tmp_path / "go")), secrets={})
        (tmp_path / "go").touch()
        ended = command("stop", "--home", str(home), "--jobs")
        assert (ended.returncode, ended.stderr) == (0, "")


def test_detach_describe_and_stop(home: Path) -> None:
    started = command("agent", "--home", str(home), "--detach")
    assert started.returncode == 0, started.stderr
    pid = int(started.stdout)
    assert os.getsid(pid) != os.getsid(0)
    again = command("agent", "--home", str(home), "--detach")
    assert (again.returncode, again.stderr) == (1, f"An agent (pid {pid}) already runs on {home}.\n")
    described = command("describe", "--home", str(home))
    assert f'"agent_pid": {pid}' in described.stdout
    assert "listens on" in "\n".join(call(home, "read_agent_log", lines=5)["lines"])
    stopped = command("stop", "--home", str(home), "--jobs")
    assert (stopped.returncode, stopped.stdout) == (0, f"The agent ({pid}) has ended.\n")
    assert not (home / "agent.sock").exists()
    assert command("stop", "--home", str(home)).returncode == 1


def test_an_agent_that_cannot_start_says_why(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("")
    answer = command("agent", "--home", str(home), "--detach")
    assert answer.returncode == 1
    assert str(home) in answer.stderr


def test_sigterm_ends_the_agent_and_leaves_jobs(home: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with agent_process(home) as agent:
        call(home, "launch", spec=make_spec(until=str(go)), secrets={})
        agent.terminate()
        assert agent.wait(10) == 0
    folder = AttemptFolder(home, 1, 1)
    assert folder.state()[0] == "running"
    go.touch()
    wait_for_state(folder, "exited")


def test_an_agent_at_rest_is_small(home: Path) -> None:
    with agent_process(home) as agent:
        call(home, "poll", cursors=[], wait_seconds=0)
        assert resident_bytes(agent.pid) < 60 << 20


def test_a_supervisor_at_rest_is_small(home: Path, tmp_path: Path) -> None:
    with agent_process(home):
        call(home, "launch", spec=make_spec(until=str(tmp_path / "go")), secrets={})
        folder = AttemptFolder(home, 1, 1)
        supervisor = wait_for(folder.supervisor_identity)
        assert resident_bytes(supervisor.pid) < 20 << 20
        (tmp_path / "go").touch()
        wait_for_state(folder, "exited")


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no memory figure for process {pid}")
