"""Where snapshots go: a folder or an address of fsspec's, which may hold no secret. Runs in the web process."""

import re
from urllib.parse import urlsplit

from controlplane.errors import FieldFault, InvalidInputError

KEY = "snapshots.address"
TIME_KEY = "snapshots.at"
TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


def check_address(value: str) -> None:
    """Raises InvalidInputError for an address with a user, password, query or chain: who may write there is fsspec's
    own configuration or the environment to say. The address itself is not repeated."""
    try:
        parts = urlsplit(value)
        has_user = bool(parts.username or parts.password or "@" in parts.netloc)
    except ValueError:
        _refuse("This is no address. Give a folder or an address like s3://bucket/folder.")
    if has_user or parts.query or parts.fragment or "::" in value:
        _refuse(
            f"{KEY} may hold no user, password or parameters: it is shown to everybody. Put them into the environment "
            "or into fsspec's configuration file."
        )
    if value and not parts.scheme and not value.startswith("/"):
        _refuse("A folder for snapshots must begin with /.")


def check_time(value: str) -> None:
    """Raises InvalidInputError for what is neither empty nor a time of day."""
    if value and not TIME.fullmatch(value):
        raise InvalidInputError(
            f"{TIME_KEY} must be a time of day like 03:30, or empty.", (FieldFault(TIME_KEY, "like 03:30, or empty"),)
        )


def _refuse(message: str) -> None:
    raise InvalidInputError(message, (FieldFault(KEY, message),))
