"""Whether the servers of a larger house answer: PostgreSQL, Redis, the web processes. In commands and the web process.

A house on SQLite without Redis has none of them, and no line of these.
"""

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connection
from django.db.utils import DatabaseError

from controlplane.databases import OLDEST_POSTGRES, several
from controlplane.services import leases, neighbours
from controlplane.services.checks.finding import Check, Finding

SECONDS = 10.0
FACTS = (
    "SELECT current_setting('server_version_num')::int, getdatabaseencoding(), "
    "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
)
IN_MEMORY = "InMemoryChannelLayer"


def check() -> Check:
    """The servers that this installation is told of."""
    return Check("servers", SECONDS, _look)


def _look() -> list[Finding]:
    has_redis = not settings.CHANNEL_LAYERS["default"]["BACKEND"].endswith(IN_MEMORY)
    found = [_live()] if has_redis else []
    if not several():
        return found
    try:
        return [_postgres(), *found, _processes(has_redis)]
    except DatabaseError:
        return found  # the check of the data base says why


def _postgres() -> Finding:
    with connection.cursor() as cursor:
        cursor.execute(FACTS)
        version, encoding, most = cursor.fetchone()
    name, major = "data base server", version // 10_000
    wanted = settings.DATABASES["default"]["OPTIONS"]["pool"]["max_size"]
    if major < OLDEST_POSTGRES:
        fix = f"Upgrade it to PostgreSQL {OLDEST_POSTGRES} or newer."
        return Finding(name, "fail", f"It is PostgreSQL {major}.", fix)
    if encoding != "UTF8":
        return Finding(name, "fail", f"Its texts are {encoding}.", "Move to a data base made with ENCODING 'UTF8'.")
    facts = f"PostgreSQL {major}, {encoding}; a process takes up to {wanted} of its {most} connections."
    processes = max(1, neighbours.present().count())
    if processes * wanted > most:
        fix = "Raise max_connections there, or lower DATABASE_CONNECTIONS."
        return Finding(name, "warn", f"{facts} {processes} processes may want more than there are.", fix)
    return Finding(name, "ok", facts)


def _live() -> Finding:
    """Sends a word to a group in which nobody is."""
    try:
        async_to_sync(_say_nothing)()
    except Exception as error:  # whatever the channel layer's client raises
        fix = "Look at REDIS_URL and at that server. Pages work without it; what is new comes when they are loaded."
        return Finding("live messages", "fail", f"Redis doesn't answer: {error}.", fix)
    return Finding("live messages", "ok", "Redis answers.")


async def _say_nothing() -> None:
    layer = get_channel_layer()
    assert layer is not None  # noqa: S101 - settings name one
    await layer.group_send("live.doctor", {"type": "live.message", "message": {}})


def _processes(has_redis: bool) -> Finding:
    count, dispatching = neighbours.present().count(), leases.holder()
    name = "web processes"
    if not count:
        return Finding(name, "ok", "None runs now.")
    if dispatching is None:
        fix = "It should last seconds: another takes the place. Start one without --no-dispatch, or manage.py dispatch."
        return Finding(name, "warn", f"{count} at work, and none of them dispatches.", fix)
    if count > 1 and not has_redis:
        fix = "Set REDIS_URL for all of them."
        return Finding(name, "warn", f"{count} run without Redis: a page misses what happens in the others.", fix)
    return Finding(name, "ok", f"{count} at work; {dispatching} dispatches.")
