"""The name that a home folder has for good: `home_id`, made at its first use. Runs in the agent and in fleet commands.

With the machine's name it says which host an agent is, whatever its address, its Ray node or its data base row. A home
that two machines share (one file system) has one id: nothing need be copied between them.
"""

import os
import uuid
from pathlib import Path

from monitoring.files import sync_folder

HOME_ID_FILE = "home_id"


def home_id(home: Path) -> str:
    """The id of a home, 32 hexadecimal digits. Two that ask at once get the same; a file that isn't one is replaced."""
    path = home / HOME_ID_FILE
    if (found := _read(path)) is not None:
        return found
    home.mkdir(parents=True, exist_ok=True)
    temporary = home / f".{HOME_ID_FILE}.{os.getpid()}.{uuid.uuid4().hex}"
    temporary.write_text(f"{uuid.uuid4().hex}\n")
    try:
        if path.exists():  # what is in it is no id: a disk was full, or somebody wrote into it
            temporary.replace(path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        pass  # another one was faster
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(home)
    found = _read(path)
    if found is None:
        raise OSError(f"{path} can't be read: delete it.")
    return found


def _read(path: Path) -> str | None:
    try:
        return uuid.UUID(hex=path.read_text().strip()).hex
    except (FileNotFoundError, ValueError):
        return None
