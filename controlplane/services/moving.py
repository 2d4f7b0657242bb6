"""From SQLite to PostgreSQL: every row, in one transaction, compared before it is committed. Runs in a command.

Rows go table by table through PostgreSQL's COPY, a thousand at a time in memory. Tables are made, filled, compared and
their numbering set within one transaction of the target: it has all of it or nothing.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from django.apps import apps
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Model
from django.db.utils import OperationalError

from controlplane.databases import OLDEST_POSTGRES, postgres
from controlplane.errors import ConflictError, InvalidInputError
from controlplane.postgres.base import storable

TARGET = "move-target"
ROWS_AT_A_TIME = 1000
TABLES = (
    "SELECT table_name FROM information_schema.tables "
    "WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY 1"
)
Say = Callable[[str], object]
Picture = tuple[int, int]
"""How many rows a table has, and the sum of their hashes: the same in whichever order they are read."""


def move(url: str, say: Say) -> int:
    """Copies the whole data base to the PostgreSQL at `url`; returns how many rows it has.

    The caller sees to it that no web process works meanwhile. Raises InvalidInputError for a server that can't be the
    target, ConflictError where this data base can't be moved or the copy isn't the same; the target has nothing then.
    """
    _check_source()
    connections.settings[TARGET] = _described(url)
    try:
        _check_target()
        with transaction.atomic(), transaction.atomic(using=TARGET):
            _run("SET LOCAL idle_in_transaction_session_timeout = 0")
            call_command("migrate", database=TARGET, interactive=False, verbosity=0)
            return _copy_all(say)
    finally:
        connections[TARGET].close()
        connections[TARGET].close_pool()  # type: ignore[attr-defined] # the PostgreSQL back end's
        del connections[TARGET]
        del connections.settings[TARGET]


def tables() -> list[type[Model]]:
    """Every model that has a table of its own, and the tables between them."""
    found = apps.get_models(include_auto_created=True)
    return [model for model in found if model._meta.managed and not model._meta.proxy]


# --- Whether it can be ------------------------------------------------------------------------------------------------


def _described(url: str) -> dict[str, Any]:
    known = connections.settings[DEFAULT_DB_ALIAS]
    described: dict[str, Any] = connections.configure_settings({DEFAULT_DB_ALIAS: known, TARGET: postgres(url)})[TARGET]
    return described


def _check_source() -> None:
    if connections[DEFAULT_DB_ALIAS].vendor != "sqlite":
        raise ConflictError("DATABASE_URL names a PostgreSQL already. Run this without it: SQLite is what is moved.")
    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise ConflictError("This data base's tables are of another version. Run manage.py prepare once, then move it.")


def _check_target() -> None:
    try:
        ((version, encoding),) = _run("SELECT current_setting('server_version_num')::int, getdatabaseencoding()")
    except OperationalError as error:
        raise InvalidInputError(f"The PostgreSQL can't be reached: {str(error).strip()}.") from error
    if version < OLDEST_POSTGRES * 10_000:
        raise InvalidInputError(
            f"The server is PostgreSQL {version // 10_000}: Pilothouse needs {OLDEST_POSTGRES} or newer. Upgrade it."
        )
    if encoding != "UTF8":
        raise InvalidInputError(f"The data base there keeps texts as {encoding}. Make one with ENCODING 'UTF8'.")
    if there := [name for (name,) in _run(TABLES)]:
        some = ", ".join(there[:3])
        raise InvalidInputError(
            f"The data base there isn't empty: it has {len(there)} tables ({some}). Make a new one: CREATE DATABASE."
        )


def _run(sql: str) -> list[tuple[Any, ...]]:
    with connections[TARGET].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


# --- Copying and comparing --------------------------------------------------------------------------------------------


def _copy_all(say: Say) -> int:
    models = tables()
    quoted = [connections[TARGET].ops.quote_name(model._meta.db_table) for model in models]
    _run("SET CONSTRAINTS ALL IMMEDIATE")  # or the next is refused, for what still had to be checked
    _run(f"TRUNCATE {', '.join(quoted)}")  # what the making of tables has put into some
    _run("SET CONSTRAINTS ALL DEFERRED")
    total = 0
    for model in models:
        before = _copy(model)
        after = _picture(_rows(model, TARGET))
        if before != after:
            raise ConflictError(
                f"The table {model._meta.db_table} isn't the same there ({before[0]} rows here, {after[0]} there). "
                "Nothing was moved. Tell us of it, and stay with SQLite until then."
            )
        total += before[0]
        if before[0]:
            say(f"{before[0]:>9} rows of {model._meta.db_table}")
    for statement in connections[TARGET].ops.sequence_reset_sql(no_style(), models):
        _run(statement)
    return total


def _copy(model: type[Model]) -> Picture:
    """Writes the rows there; returns the picture of what was read here."""
    target = connections[TARGET]
    fields = model._meta.concrete_fields
    columns = ", ".join(target.ops.quote_name(str(field.column)) for field in fields)
    into = f"COPY {target.ops.quote_name(model._meta.db_table)} ({columns}) FROM STDIN"
    with target.cursor() as cursor, cursor.copy(into) as copy:

        def passed() -> Iterator[Sequence[Any]]:
            for row in _rows(model, DEFAULT_DB_ALIAS):
                copy.write_row([
                    field.get_db_prep_save(value, target) for field, value in zip(fields, row, strict=True)
                ])  # fmt: skip
                yield row

        return _picture(passed())


def _rows(model: type[Model], alias: str) -> Iterator[Sequence[Any]]:
    names = [field.attname for field in model._meta.concrete_fields]
    rows = model._base_manager.using(alias).order_by()  # an order by another table would leave out what isn't there yet
    return rows.values_list(*names).iterator(ROWS_AT_A_TIME)


def _picture(rows: Iterator[Sequence[Any]]) -> Picture:
    count = total = 0
    for row in rows:
        digest = hashlib.sha256(json.dumps([_plain(value) for value in row], sort_keys=True, default=str).encode())
        count, total = count + 1, (total + int.from_bytes(digest.digest())) % (1 << 256)
    return count, total


def _plain(value: Any) -> Any:
    """A value as both data bases have it: of a number in JSON PostgreSQL keeps what it is, not how it was written."""
    if isinstance(value, dict):
        return {storable(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    match value:
        case bytes() | memoryview():
            value = bytes(value).hex()
        case datetime():
            value = value.astimezone(UTC).isoformat()
        case float() if value.is_integer():
            value = int(value)
        case str():
            value = storable(value)
    return value
