"""From SQLite to a real PostgreSQL: every row, all or nothing, and why not. The command runs as its owner runs it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from django.db import connection
from psycopg import sql

from controlplane.services import moving
from tests.factories import make_host
from tests.product import CHECKOUT, wait_for
from tests.rows_of_everything import make_rows_of_everything
from tests.servers import PostgresServer, missing

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "sqlite", reason="what is moved is SQLite"),
    pytest.mark.skipif("postgresql" in missing() and os.environ.get("CI") != "true", reason="no PostgreSQL"),
]

HOLD = """
import pathlib, sys
from controlplane.sole import sole_web_process
home = pathlib.Path(sys.argv[1])
with sole_web_process(home):
    (home / "held").touch()
    sys.stdin.read()
"""

MOVE = """
import sys, django
django.setup()
from django.core.management import CommandError, call_command
from controlplane.services import moving
{before}
for url in sys.argv[1:]:
    try:
        call_command("move_to_postgres", url)
    except CommandError as error:
        print("REFUSED", error)
"""

ONE_ROW_IS_LOST = """
whole = moving._rows
def lossy(model, alias):
    rows = whole(model, alias)
    return list(rows)[1:] if alias == moving.TARGET else rows
moving._rows = lossy
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def move(home: Path, *urls: str, before: str = "") -> str:
    """Moves this test's rows, in a process of its own, to one address after the other; returns what it says."""
    (home / "db.sqlite3").write_bytes(connection.connection.serialize())
    here = {"DJANGO_SETTINGS_MODULE": "controlplane.settings", "PILOTHOUSE_HOME": str(home), "DATABASE_URL": ""}
    command = [sys.executable, "-c", MOVE.format(before=before), *urls]
    done = subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, **here}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def counted(url: str) -> dict[str, int]:
    """How many rows each table there has."""
    with psycopg.connect(url) as there:
        names = [name for (name,) in there.execute(moving.TABLES.encode()).fetchall()]
        count = sql.SQL("SELECT count(*) FROM {}")
        counts = {name: there.execute(count.format(sql.Identifier(name))) for name in names}
        return {name: cursor.fetchall()[0][0] for name, cursor in counts.items()}


def test_a_row_of_every_model_moves_and_numbering_goes_on(home: Path, postgres: PostgresServer) -> None:
    make_rows_of_everything()
    host = make_host(name="the last")
    here = {model._meta.db_table: model._base_manager.count() for model in moving.tables()}
    assert min(here.values()) > 0
    url = postgres.new_database()
    said = move(home, url, url)
    assert f"{sum(here.values())} rows are there, and the same" in said
    assert "REFUSED The data base there isn't empty" in said, "at the second time"
    there = counted(url)
    assert {name: there[name] for name in here} == here
    with psycopg.connect(url) as other:
        new = "SELECT nextval(pg_get_serial_sequence('controlplane_host', 'id'))"
        assert other.execute(new).fetchone() == (host.pk + 1,)


def test_a_copy_that_differs_leaves_nothing_there(home: Path, postgres: PostgresServer) -> None:
    make_host()
    url = postgres.new_database()
    said = move(home, url, before=ONE_ROW_IS_LOST)
    assert "isn't the same there" in said
    assert "Nothing was moved" in said
    assert counted(url) == {}


def test_why_it_can_not_be(home: Path, postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as server:
        server.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    said = move(home, "mysql://somewhere/else", postgres.url("not_there"), postgres.url("latin"))
    reasons = said.split("REFUSED")[1:]
    for reason, words in zip(reasons, ("must look like postgresql://", "can't be reached", "LATIN1"), strict=True):
        assert words in reason
    assert "needs 99 or newer" in move(home, postgres.url(), before="moving.OLDEST_POSTGRES = 99")


def test_nothing_is_moved_while_a_web_process_runs(home: Path, postgres: PostgresServer) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(home)], cwd=CHECKOUT, stdin=subprocess.PIPE) as web:
        wait_for("it to hold the place", (home / "held").exists)
        url = postgres.new_database()
        assert f"(pid {web.pid}) already serves" in move(home, url)
        assert counted(url) == {}
