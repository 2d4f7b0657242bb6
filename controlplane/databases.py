"""Which data base this installation has: what `settings.DATABASES` is made from.

SQLite in the home folder, or PostgreSQL where DATABASE_URL names one. Connections to PostgreSQL are kept in a pool of
the process's, from which a thread takes one for as long as it asks: `DATABASE_CONNECTIONS` bounds them.
"""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

OLDEST_POSTGRES = 15
POOL_CONNECTIONS = 30
"""Half a dozen do in a small house; a PostgreSQL that nobody has tuned takes 97 altogether."""

WAIT_SECONDS = 5
"""How long a thread waits for a connection, and the pool for a server that doesn't answer, before the page says so."""

SESSION = {"lock_timeout": "20s", "idle_in_transaction_session_timeout": "8s", "jit": "off"}
"""As long as SQLite waits for another's transaction. Who stands still within one loses it: others wait for him."""


def database(home: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Django's description of it. Raises ImproperlyConfigured, with the fix, for an address that can't be one."""
    if url := environment.get("DATABASE_URL", "").strip():
        return postgres(url, _connections(environment))
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": home / "db.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
        },
        "TEST": {"NAME": home / "test-db.sqlite3"},
    }


def postgres(url: str, connections: int = POOL_CONNECTIONS) -> dict[str, Any]:
    """The PostgreSQL at this address, with a pool. Raises ImproperlyConfigured for an address that can't be one."""
    if not url.startswith(("postgres://", "postgresql://")):
        raise ImproperlyConfigured(
            "DATABASE_URL must look like postgresql://USER:PASSWORD@HOST:5432/NAME. Without it Pilothouse keeps its "
            "data in SQLite; it knows no third."
        )
    try:
        found: dict[str, Any] = dict(dj_database_url.parse(url, engine="controlplane.postgres"))
    except ValueError as error:
        raise ImproperlyConfigured(
            f"DATABASE_URL can't be read ({error}). It looks like postgresql://USER:PASSWORD@HOST:5432/NAME, with %40 "
            "for an @ in the password."
        ) from error
    if find_spec("psycopg_pool") is None:
        raise ImproperlyConfigured("PostgreSQL's driver isn't installed: bin/setup --extras postgres")
    if not found["NAME"]:
        raise ImproperlyConfigured("DATABASE_URL names no data base: postgresql://USER:PASSWORD@HOST:5432/NAME.")
    waits = {"timeout": WAIT_SECONDS, "reconnect_timeout": WAIT_SECONDS}
    pool = {"min_size": 1, "max_size": connections, "num_workers": 2, **waits}
    session = " ".join(f"-c {name}={value}" for name, value in SESSION.items())
    options = {"connect_timeout": WAIT_SECONDS, "options": session, **found.get("OPTIONS", {}), "pool": pool}
    return {**found, "OPTIONS": options, "CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": True}


def several() -> bool:
    """Whether several web processes may work on this data base."""
    return connection.vendor == "postgresql"


def _connections(environment: Mapping[str, str]) -> int:
    said = environment.get("DATABASE_CONNECTIONS", "") or str(POOL_CONNECTIONS)
    if not said.isdecimal() or int(said) < 2:
        raise ImproperlyConfigured(f"DATABASE_CONNECTIONS must be a number from 2 on, not {said!r}.")
    return int(said)
