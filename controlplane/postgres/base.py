"""Django's back end for PostgreSQL, with the promises that services rely on. Named by `settings.DATABASES`.

What is right on SQLite is right here:
- One transaction at a time: each takes the same lock before it reads (`pg_advisory_xact_lock`), as an immediate
  transaction of SQLite does, whichever process it belongs to. Single statements take none.
- Texts and whole numbers of any length: `CharField` is `text`, an integer has 64 bits. Forms and schemas hold limits.
- A NUL or half a surrogate pair, which PostgreSQL stores nowhere, becomes U+FFFD.

Behind a fence (`controlplane.fence`) nothing is written by a dispatcher that has lost its place.
"""

from typing import Any

from django.db.backends.postgresql import base, operations
from django.db.backends.postgresql.psycopg_any import Jsonb
from psycopg.adapt import AdaptersMap
from psycopg.types.string import StrDumperUnknown
from psycopg_pool import PoolTimeout

from controlplane import fence

ONE_AT_A_TIME = 0x50494C4F54  # "PILOT": the lock's number; locks are each data base's own
REPLACEMENT = "\ufffd"
INTEGERS = ("IntegerField", "PositiveIntegerField", "PositiveSmallIntegerField", "SmallIntegerField", "OneToOneField")
TEXTS = ("CharField", "FileField", "FilePathField", "SlugField")
BIG = (-(1 << 63), (1 << 63) - 1)


class StorableText(StrDumperUnknown):
    """Texts without what PostgreSQL can't store."""

    def dump(self, obj: str) -> Any:
        """The text's bytes."""
        return super().dump(obj.replace("\0", REPLACEMENT) if "\0" in obj else obj)


def storable(value: Any) -> Any:
    """A JSON value whose texts PostgreSQL can store."""
    if isinstance(value, str):
        return value.replace("\0", REPLACEMENT).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {storable(key): storable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [storable(each) for each in value]
    return value


class DatabaseOperations(operations.DatabaseOperations):
    """Numbers of 64 bits, JSON that can be stored."""

    integer_field_ranges = {
        **operations.DatabaseOperations.integer_field_ranges,
        **{name: (0 if name.startswith("Positive") else BIG[0], BIG[1]) for name in INTEGERS},
    }

    def adapt_json_value(self, value: Any, encoder: Any) -> Any:
        """The value as it is sent; looked through only where its text tells of such a one."""
        dumps = operations.get_json_dumps(encoder)

        def dump(each: Any) -> str:
            text: str = dumps(each)
            return dumps(storable(each)) if "\\u0000" in text or "\\ud" in text else text

        return Jsonb(value, dumps=dump)


class DatabaseWrapper(base.DatabaseWrapper):
    """One connection, of a thread's."""

    ops_class = DatabaseOperations
    data_types = {
        **base.DatabaseWrapper.data_types,
        **dict.fromkeys(TEXTS, "text"),
        **dict.fromkeys(INTEGERS, "bigint"),
    }

    def get_connection_params(self) -> dict[str, Any]:
        """As Django gives them, with our texts."""
        parameters: dict[str, Any] = super().get_connection_params()
        parameters["context"] = AdaptersMap(parameters["context"])
        parameters["context"].register_dumper(str, StorableText)
        return parameters

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """One of the pool's. Where there is none in time: the server's own reason, where that is why."""
        try:
            return super().get_new_connection(conn_params)
        except PoolTimeout:
            self.Database.connect(**conn_params).close()
            raise

    def create_cursor(self, name: str | None = None) -> Any:
        """A cursor, given to nobody whose lease has run out."""
        if (held := fence.current()) is not None:
            held.check_clock()
        return super().create_cursor(name)

    def _set_autocommit(self, autocommit: bool) -> None:
        super()._set_autocommit(autocommit)  # type: ignore[misc] # Django's, which its stubs leave out
        if autocommit:
            return
        try:
            with self.wrap_database_errors:
                self.connection.execute("SELECT pg_advisory_xact_lock(%s)", [ONE_AT_A_TIME])
            if (held := fence.current()) is not None:
                held.check_row(self.connection)
        except BaseException:
            self._begin_nothing()
            raise

    def _begin_nothing(self) -> None:
        """Whoever asked for a transaction didn't get one: the connection is as it was, or closed where it is broken."""
        try:
            self.connection.rollback()
            self.connection.autocommit = True
        except self.Database.Error:
            self.close()
