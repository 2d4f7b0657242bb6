"""The token that lets a machine into a fleet: a file of mode 600 in its home. Runs in the web process and in commands.

Ray asks for it on each connection (RAY_AUTH_MODE). It is never an argument: those are for everybody to read.
"""

import os
import secrets
from pathlib import Path

from monitoring.files import write_bytes

TOKEN_FILE = "fleet_token"  # noqa: S105 - a file's name
LEAST_CHARACTERS = 32


class BadTokenError(Exception):
    """What was given is no fleet's token."""


def make_token(home: Path) -> Path:
    """The file with this home's token, made where there is none."""
    path = home / TOKEN_FILE
    if not path.exists():
        write_bytes(path, secrets.token_hex(32).encode(), mode=0o600)
    return path


def keep_token(home: Path, text: str) -> Path:
    """Writes down a token that was handed over. Raises BadTokenError."""
    token = text.strip()
    if len(token) < LEAST_CHARACTERS or not token.isascii() or not token.isalnum():
        raise BadTokenError(
            f"That is no fleet's token: one is a line of at least {LEAST_CHARACTERS} letters and digits. "
            f"It lies in the head's home folder as {TOKEN_FILE}."
        )
    path = home / TOKEN_FILE
    write_bytes(path, token.encode(), mode=0o600)
    return path


def environment_of(home: Path) -> dict[str, str]:
    """What Ray's processes of this home need in their environment. No usage is reported to anybody."""
    found = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token")}
    path = home / TOKEN_FILE
    if path.exists() and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        found["RAY_AUTH_TOKEN_PATH"] = str(path)
    return found
