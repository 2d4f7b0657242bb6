"""What an attempt of a job has left in its folder, for the verbs that work through rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring.events import EVENTS_FILE, Error, Event, Result, decode_event


@dataclass(frozen=True)
class Attempt:
    """The attempt's folder and the exit code of its process."""

    folder: Path
    code: int

    @property
    def events(self) -> list[Event]:
        return [decode_event(line) for line in (self.folder / EVENTS_FILE).read_bytes().splitlines()]

    def bodies(self, kind: str) -> list[Any]:
        """What the events of a kind say."""
        return [event.body for event in self.events if event.body.kind == kind]

    @property
    def result(self) -> dict[str, Any]:
        body = self.events[-1].body
        assert isinstance(body, Result)
        return body.values

    @property
    def error(self) -> Error:
        """What it ended with."""
        body = self.events[-1].body
        assert isinstance(body, Error)
        return body
