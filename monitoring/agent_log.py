"""The agent's log, which doesn't grow for ever. Runs in the agent; standard library only."""

from logging.handlers import RotatingFileHandler
from pathlib import Path

from monitoring.streams import point_standard_streams_at

MAX_BYTES = 8 << 20
KEPT_FILES = 2
"""agent.log.1 and agent.log.2 beside agent.log: 24 MiB in all."""


def rotating(path: Path) -> RotatingFileHandler:
    """Logs to a file beside the standard streams; opened at the first line."""
    return RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True)


class AgentLog(RotatingFileHandler):
    """The detached agent's: the standard streams append to its file as well, and are taken along to the next one."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=KEPT_FILES, encoding="utf-8")
        point_standard_streams_at(path)

    def doRollover(self) -> None:  # noqa: N802 - logging's own name
        """Goes on in a new file, and so does whatever prints."""
        super().doRollover()
        point_standard_streams_at(Path(self.baseFilename))
