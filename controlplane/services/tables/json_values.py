"""Values inside JSON columns, as a data base compares and orders them. Runs in the web process."""

import json
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, FloatField, Func, TextField
from django.db.models.sql.compiler import SQLCompiler


def is_reachable(key: str) -> bool:
    """Whether a path of SQLite's can name this key: those know no escape for a quotation mark."""
    return '"' not in key and "\\" not in key


class JsonNumber(Func):
    """A number inside a JSON column. Whatever else stands there is NULL, NaN and the infinities (texts) included."""

    output_field = FloatField()

    def __init__(self, column: str, *path: str) -> None:
        super().__init__(F(column))
        self.path = path

    def sqlite_path(self) -> str:
        """The names as the stored JSON has them: SQLite may compare them letter by letter, escapes included."""
        return "$" + "".join(f".{json.dumps(name)}" for name in self.path)

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **_context: Any) -> Any:
        """By SQLite's JSON functions (see `is_reachable`)."""
        sql, params = compiler.compile(self.source_expressions[0])
        path = self.sqlite_path()
        whole = f"CASE WHEN JSON_TYPE({sql}, %s) IN ('integer', 'real') THEN JSON_EXTRACT({sql}, %s) END"
        return whole, (*params, path, *params, path)

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **_context: Any) -> Any:
        """By PostgreSQL's operators on jsonb."""
        sql, params = compiler.compile(self.source_expressions[0])
        path = list(self.path)
        whole = f"CASE WHEN JSONB_TYPEOF({sql} #> %s) = 'number' THEN ({sql} #>> %s)::double precision END"
        return whole, (*params, path, *params, path)


class JsonText(JsonNumber):
    """What stands inside a JSON column, as a text."""

    output_field = TextField()  # type: ignore[assignment] # django-stubs: a property of the parent's

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **_context: Any) -> Any:
        """See JsonNumber."""
        sql, params = compiler.compile(self.source_expressions[0])
        return f"CAST(JSON_EXTRACT({sql}, %s) AS TEXT)", (*params, self.sqlite_path())

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **_context: Any) -> Any:
        """See JsonNumber."""
        sql, params = compiler.compile(self.source_expressions[0])
        return f"({sql} #>> %s)", (*params, list(self.path))
