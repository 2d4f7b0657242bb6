"""The standard streams of a process that goes on without its starter.

Runs in the agent and in supervisors; standard library only.
"""

import os
from pathlib import Path


def point_standard_streams_at(log: Path) -> None:
    """Reads nothing from now on, and appends all that is printed to `log`. Raises OSError where it can't be opened."""
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(output)
