"""Times that a query names, as ones that can be reckoned with. Runs in the web process."""

from datetime import datetime

from django.utils import timezone

from controlplane.errors import FieldFault, InvalidInputError

FIRST_YEAR, LAST_YEAR = 1970, 9998
"""Far inside of what a datetime holds, whatever the time zone and the days that are reckoned on from it."""


def moment(path: str, asked: datetime) -> datetime:
    """The time with its zone: local where it has none. Raises InvalidInputError for one that can't be meant."""
    if not FIRST_YEAR <= asked.year <= LAST_YEAR:
        message = f"{path} must lie between the years {FIRST_YEAR} and {LAST_YEAR}, not in {asked.year}."
        raise InvalidInputError(message, (FieldFault(path, f"between {FIRST_YEAR} and {LAST_YEAR}"),))
    return asked if timezone.is_aware(asked) else timezone.make_aware(asked)
