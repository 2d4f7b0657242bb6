"""One dispatching web process a home: real processes, real locks."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.sole import WebRunsAlreadyError, end_web_process, holder, sole_web_process
from tests.product import CHECKOUT

HOLD = """
import pathlib, sys, time
from controlplane.sole import sole_web_process
with sole_web_process(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the place; it ends when its input does."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_kernel_names_the_holder(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    assert holder(tmp_path) == other.pid
    with pytest.raises(WebRunsAlreadyError, match=str(other.pid)), sole_web_process(tmp_path):
        pass


def test_a_killed_holder_leaves_the_place_free(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    assert holder(tmp_path) is None
    with sole_web_process(tmp_path):
        pass


def test_ending_it_waits_for_its_end(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    assert end_web_process(tmp_path, 20) == other.pid
    assert holder(tmp_path) is None
    assert other.wait(5) == -15


def test_nobody_is_ended_where_nobody_is(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    assert end_web_process(tmp_path) is None
    with sole_web_process(tmp_path):
        pass
    assert end_web_process(tmp_path) is None, "a file that a former holder left names nobody"
