"""The name that a home folder has for good: `home_id`, made at its first use. Runs in the agent and in fleet commands.

With the machine's name it says which host an agent is, whatever its address, its Ray node or its data base row. A home
that two machines share (one file system) has one id: nothing need be copied between them.
"""

import fcntl
import os
import uuid
from pathlib import Path

from monitoring.files import write_bytes

HOME_ID_FILE = "home_id"


def home_id(home: Path) -> str:
    """The id of a home, 32 hexadecimal digits. Two that ask at once get the same; a file that isn't one is replaced."""
    path = home / HOME_ID_FILE
    if (found := _read(path)) is not None:
        return found
    home.mkdir(parents=True, exist_ok=True)
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # let go of when the folder is closed, however this ends
        found = _read(path)  # another one was faster
        if found is None:  # nothing is there, or what is no id: a disk was full, or somebody wrote into it
            found = uuid.uuid4().hex
            write_bytes(path, f"{found}\n".encode())
    finally:
        os.close(folder)
    return found


def _read(path: Path) -> str | None:
    try:
        return uuid.UUID(hex=path.read_text().strip()).hex
    except (FileNotFoundError, ValueError):
        return None
