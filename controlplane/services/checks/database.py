"""Whether the data base answers, is up to date and whole. Runs in commands and in the web process; reads only."""

from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DatabaseError

from controlplane.services.checks.finding import Check, Finding

SECONDS = 30.0
"""Reading a data base of some gigabytes through takes its time."""

NAME = "data base"


def check() -> Check:
    """The data base of this installation."""
    return Check(NAME, SECONDS, _look)


def _look() -> list[Finding]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        found = f"It can't be opened: {str(error).strip()}."
        return [Finding(NAME, "fail", found, "Look at DATABASE_URL, at the server it names, or at the home's disk.")]
    findings = [_migrations()]
    if connection.vendor == "sqlite":
        findings += [_journal(), _integrity()]
    return findings


def _migrations() -> Finding:
    executor = MigrationExecutor(connection)
    missing = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if missing:
        return Finding(f"{NAME} tables", "fail", f"{missing} migrations are not applied.", "Run manage.py prepare.")
    return Finding(f"{NAME} tables", "ok", f"{connection.vendor}, all migrations are applied.")


def _journal() -> Finding:
    mode = _pragma("journal_mode")
    if mode == "wal":
        return Finding(f"{NAME} journal", "ok", "Write-ahead log: readers and the writer don't wait for each other.")
    fix = "Move the home to a local disk (network file systems have no write-ahead log), or set DATABASE_URL."
    return Finding(f"{NAME} journal", "warn", f"The journal mode is {mode}, not wal: expect waits.", fix)


def _integrity() -> Finding:
    said = _pragma("quick_check(1)")
    if said == "ok":
        return Finding(f"{NAME} integrity", "ok", "quick_check finds no fault.")
    fix = "Stop with bin/up --stop-all, put back the newest backup of db.sqlite3, and look at the disk (smartctl)."
    return Finding(f"{NAME} integrity", "fail", f"quick_check says: {said}.", fix)


def _pragma(name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA {name}")
        row = cursor.fetchone()
    return str(row[0]) if row else ""
