"""A data base server that doesn't answer, in words. Runs in the web process.

SQLite has no server: what goes wrong there is a fault, and is told as one.
"""

from django.db.utils import InterfaceError, OperationalError

from controlplane.databases import several
from controlplane.errors import UnavailableError

RETRY_SECONDS = 5
AWAY = (
    "The data base doesn't answer. Running jobs go on and lose nothing; ask again when the server that DATABASE_URL "
    "names is back."
)


def away(error: BaseException | None) -> UnavailableError | None:
    """What to say where `error` means that the server is away; None of any other error."""
    if several() and isinstance(error, OperationalError | InterfaceError):
        return UnavailableError(AWAY, RETRY_SECONDS)
    return None
