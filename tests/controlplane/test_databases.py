"""Which data base and which channel layer the environment names, and what is said of one that can't be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from controlplane import databases
from tests.product import CHECKOUT


def test_without_an_address_it_is_the_homes_own_file(tmp_path: Path) -> None:
    found = databases.database(tmp_path, {"DATABASE_URL": " "})
    assert (found["ENGINE"].rpartition(".")[2], found["NAME"]) == ("sqlite3", tmp_path / "db.sqlite3")


def test_an_address_with_its_pool(tmp_path: Path) -> None:
    url = "postgresql://me:p%40ss@db.example:5433/house?sslmode=require"
    found = databases.database(tmp_path, {"DATABASE_URL": url, "DATABASE_CONNECTIONS": "7"})
    assert found["ENGINE"] == "controlplane.postgres"
    assert (found["NAME"], found["USER"], found["PASSWORD"]) == ("house", "me", "p@ss")
    assert (found["HOST"], found["PORT"]) == ("db.example", 5433)
    options = found["OPTIONS"]
    assert (options["sslmode"], options["pool"]["max_size"]) == ("require", 7)
    assert "idle_in_transaction_session_timeout" in options["options"]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"DATABASE_URL": "mysql://me@host/house"}, "must look like postgresql://"),
        ({"DATABASE_URL": "postgresql://me@host:port/house"}, "can't be read"),
        ({"DATABASE_URL": "postgresql://me@host"}, "names no data base"),
        ({"DATABASE_URL": "postgresql://me@host/house", "DATABASE_CONNECTIONS": "many"}, "a number from 2 on"),
    ],
)
def test_an_address_that_can_not_be(tmp_path: Path, environment: dict[str, str], words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        databases.database(tmp_path, environment)


def test_a_missing_driver_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "find_spec", lambda _name: None)
    with pytest.raises(ImproperlyConfigured, match="bin/setup --extras postgres"):
        databases.postgres("postgresql://me@host/house")


def test_a_server_that_is_not_there_is_said_at_the_start_with_its_own_words(home: Path) -> None:
    environment = {
        **os.environ, "PILOTHOUSE_HOME": str(home), "DATABASE_URL": "postgresql://me@127.0.0.1:1/house",
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }  # fmt: skip
    command = [sys.executable, "manage.py", "prepare", "--port", "0", "--no-starter"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "The data base can't be opened" in done.stderr
    assert "Connection refused" in done.stderr
    assert "Look at DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_can_not_be_is_a_sentence_of_the_command(home: Path) -> None:
    environment = {**os.environ, "PILOTHOUSE_HOME": str(home), "DATABASE_URL": "mysql://me@host/house"}
    command = [sys.executable, "manage.py", "prepare"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("DATABASE_URL must look like postgresql://")
