"""`manage.py dispatch` in a process of its own: it meets the agent that a service manager starts, alone, and ends."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from pytest_django import Settings

from controlplane.dispatch import Dispatcher
from controlplane.fleet.local import ensure_agent
from controlplane.fleet.protocol import HostUnreachableError
from controlplane.sole import holder
from tests.product import CHECKOUT, wait_for


def hosts_of(home: Path) -> list[str]:
    """The hosts that the dispatcher has met."""
    with closing(sqlite3.connect(f"file:{home / 'db.sqlite3'}?mode=ro", uri=True, timeout=20)) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM controlplane_host")]


@pytest.mark.slow
@pytest.mark.django_db
def test_the_dispatcher_by_itself_waits_for_the_agent_of_another(tmp_path: Path, settings: Settings) -> None:
    environment = {**os.environ, "PILOTHOUSE_HOME": str(tmp_path), "PILOTHOUSE_AGENT": "external"}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    (tmp_path / "db.sqlite3").write_bytes(connection.connection.serialize())
    dispatcher = start("manage.py", "dispatch")
    try:
        wait_for("the dispatcher to hold its place", lambda: holder(tmp_path) == dispatcher.pid)
        settings.HOME = tmp_path
        with pytest.raises(CommandError, match=f"pid {dispatcher.pid}"):
            call_command("dispatch")
        # An agent that the dispatcher had started would let no other start.
        assert start("-m", "monitoring", "agent", "--home", str(tmp_path), "--detach").wait(60) == 0
        assert wait_for("the dispatcher to meet the agent", lambda: hosts_of(tmp_path))
    finally:
        dispatcher.terminate()
        said, _ = dispatcher.communicate(timeout=30)
        start("-m", "monitoring", "stop", "--home", str(tmp_path)).wait(30)
    assert dispatcher.returncode == 0
    assert "Pilothouse dispatches" in said
    assert "REDIS_URL" in said
    assert holder(tmp_path) is None


def test_a_host_without_its_agent_is_a_line_and_no_stumble(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PILOTHOUSE_AGENT", "external")
    monkeypatch.setattr("controlplane.fleet.local.OTHERS_START_SECONDS", 0.0)
    Dispatcher(home=home)._meet_hosts()
    assert "systemctl start pilothouse-agent" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_agent_that_another_starts_is_waited_for_and_then_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTHOUSE_AGENT", "external")
    monkeypatch.setattr("controlplane.fleet.local.OTHERS_START_SECONDS", 0.2)
    with pytest.raises(HostUnreachableError, match="systemctl start pilothouse-agent"):
        ensure_agent(home)
    assert not (home / "agent.sock").exists()
