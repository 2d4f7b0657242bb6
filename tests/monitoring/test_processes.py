"""The identity of processes, and signals that never hit a stranger."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from monitoring.processes import ProcessIdentity, boot_id, catches, identify, is_same, send, send_to_group
from tests.monitoring.factories import wait_for

SLEEP = (sys.executable, "-S", "-c", "import time; time.sleep(600)")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own."""
    process = subprocess.Popen(SLEEP, process_group=0)
    yield process
    process.kill()
    process.wait()


def known(pid: int) -> ProcessIdentity:
    identity = identify(pid)
    assert identity is not None
    return identity


def test_a_process_is_itself_as_long_as_it_lives(sleeper: subprocess.Popen[bytes]) -> None:
    identity = known(sleeper.pid)
    assert is_same(identity)
    sleeper.kill()
    sleeper.wait()
    assert not is_same(identity)
    assert identify(sleeper.pid) is None


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another boot"}])
def test_a_pid_that_was_used_again_is_not_signalled(
    sleeper: subprocess.Popen[bytes], change: dict[str, object]
) -> None:
    stranger = dataclasses.replace(known(sleeper.pid), **change)  # type: ignore[arg-type]
    assert not send(stranger, signal.SIGKILL)
    assert not send_to_group(stranger, signal.SIGKILL)
    assert sleeper.poll() is None


@pytest.mark.parametrize("pid", [1, 0, -1])
def test_init_and_whole_groups_by_accident_are_never_signalled(pid: int) -> None:
    identity = identify(pid) or ProcessIdentity(pid, boot_id(), 1)
    assert not send(identity, signal.SIGCONT)
    assert not send_to_group(identity, signal.SIGCONT)


def test_a_signal_arrives(sleeper: subprocess.Popen[bytes]) -> None:
    assert send(known(sleeper.pid), signal.SIGTERM)
    assert sleeper.wait() == -signal.SIGTERM


def test_a_group_signal_needs_the_groups_leader() -> None:
    member = subprocess.Popen(SLEEP)
    try:
        assert not send_to_group(known(member.pid), signal.SIGKILL)  # its group is the test's own
        assert member.poll() is None
    finally:
        member.kill()
        member.wait()


def test_a_zombie_is_not_signalled() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    identity = known(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_same(identity)
    assert not send(identity, signal.SIGTERM)
    process.wait()


def test_handlers_are_seen(sleeper: subprocess.Popen[bytes]) -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, print); time.sleep(600)"
    handler = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_for(lambda: catches(handler.pid, signal.SIGTERM), "the handler")
        assert not catches(handler.pid, signal.SIGUSR1)
        assert not catches(sleeper.pid, signal.SIGTERM)
    finally:
        handler.kill()
        handler.wait()
    assert not catches(handler.pid, signal.SIGTERM)
