"""`bin/up` from this checkout on a scratch home: starts, tells, refuses, and ends everything."""

import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from tests.product import CHECKOUT, wait_for

UP = CHECKOUT / "bin" / "up"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - told to bin/up, which finds the port busy


@pytest.fixture(autouse=True)
def needs_set_up() -> None:
    """These tests start the checkout's own .venv; `bin/test` has brought it up to date."""
    if subprocess.run([CHECKOUT / "bin" / "setup", "--check"], capture_output=True, check=False).returncode != 0:
        message = "the .venv of this checkout is not up to date: run bin/setup --extras dev"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)


@pytest.fixture
def home(tmp_path: Path, static_home: Path) -> Iterator[Path]:
    """A new home, whose static files are collected already; nothing of it runs afterwards."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "static").symlink_to(static_home / "static")
    (folder / "static.stamp").write_bytes((static_home / "static.stamp").read_bytes())
    yield folder
    left = [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("PILOTHOUSE_HOME") == str(folder)
    ]
    for process in left:
        process.kill()
    assert not left, f"{left} outlived bin/up --stop-all"


def lives(pid: int) -> bool:
    """Whether a process runs (a zombie doesn't)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """A port that nobody has at this moment."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path) -> dict[str, str]:
    """An owner's environment with a home of the test's own."""
    return {**os.environ, "PILOTHOUSE_HOME": str(home), "PILOTHOUSE_STARTER": "none"}


def start(home: Path, port: int, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    """Starts bin/up in a session of its own and waits until it serves; returns it and what it said."""
    said = home.parent / "said.txt"
    with said.open("wb") as output:
        running = subprocess.Popen(
            [UP, "--port", str(port), *arguments], env=environment(home), stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip

    def serves() -> bool:
        text = said.read_text()
        assert running.poll() is None, text
        return "Pilothouse serves" in text

    wait_for("bin/up", serves, 120)
    return running, said.read_text()


def stop_all(home: Path) -> subprocess.CompletedProcess[str]:
    """bin/up --stop-all."""
    return subprocess.run(
        [UP, "--stop-all"], env=environment(home), capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
def test_first_and_second_start_ctrl_c_and_stop_all(home: Path) -> None:
    port = free_port()
    running, said = start(home, port)
    assert f"http://127.0.0.1:{port}" in said
    password = re.search(r"one-time password (\S+)", said)
    assert password is not None
    kept = home / "admin-password"
    assert kept.read_text() == f"user: admin\npassword: {password[1]}\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert httpx.get(f"http://127.0.0.1:{port}/api/health").json() == {"status": "ok"}
    agent = (home / "agent.lock").read_text()

    again = subprocess.run(
        [UP, "--port", str(port)], env=environment(home), capture_output=True, text=True, check=False
    )
    assert again.returncode != 0
    assert f"already runs on {home} (pid {running.pid})" in again.stderr

    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 0
    assert lives(int(agent)), "Ctrl-C ends the web server alone"

    running, said = start(home, port)
    assert password[1] not in said, "the password is shown once"
    assert str(kept) in said
    assert (home / "agent.lock").read_text() == agent, "the agent that ran is found again"

    stopped = stop_all(home)
    assert stopped.returncode == 0, stopped.stderr
    assert f"The web server ({running.pid}) has ended." in stopped.stdout
    assert running.wait(5) == 0
    wait_for("the agent's end", lambda: not lives(int(agent)), 10)


def test_a_busy_port_is_one_clear_line(home: Path) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [UP, "--port", str(port)], env=environment(home), capture_output=True, text=True, check=False, timeout=120
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"Port {port} on 127.0.0.1 can't be used" in done.stderr
    assert not (home / "db.sqlite3").exists(), "nothing is made where nothing can start"


def test_a_home_that_cant_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [UP, "--home", str(tmp_path / "file" / "home")], env=environment(tmp_path), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "can't be made; give another: --home DIR" in done.stderr


def test_stop_all_where_nothing_runs(home: Path) -> None:
    done = stop_all(home)
    assert done.returncode == 0, done.stderr
    assert "No web server ran." in done.stdout


def test_beyond_loopback_it_says_what_that_means(home: Path) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [UP, "--host", EVERYWHERE, "--port", str(port)], env=environment(home), capture_output=True,
            text=True, check=False, timeout=120,
        )  # fmt: skip
    assert "without encryption" in done.stdout
    assert socket.gethostname() in done.stdout
    assert "127.0.0.1" in done.stdout
    assert done.returncode == 1
