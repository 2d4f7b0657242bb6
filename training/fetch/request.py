"""What a source of models is asked for, and what it answers. Runs in the `fetch` job."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from monitoring.attempt import JobFaultError
from monitoring.events import Artefact, EventWriter

SourceName = Literal["smollm2", "hub", "directory", "checkpoint"]


@dataclass(frozen=True)
class FetchConfig:
    """The job's `config`: where the model comes from. `path` is for `directory` and `checkpoint`."""

    source: SourceName
    hub_id: str = ""
    revision: str = ""
    path: str = ""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises JobFaultError `bad_config` when the source is unknown or lacks what it needs."""
        source: Any = value.get("source")
        if source not in get_args(SourceName):
            known = ", ".join(get_args(SourceName))
            raise JobFaultError("bad_config", f"There is no source {source!r} of models.", f"Use one of {known}.")
        config = cls(source, *(str(value.get(name) or "") for name in ("hub_id", "revision", "path")))
        needed = {"hub": "hub_id", "directory": "path", "checkpoint": "path"}.get(source)
        if needed and not getattr(config, needed):
            raise JobFaultError("bad_config", f"The source {source!r} needs {needed}.", f"Give {needed}.")
        return config


@dataclass(frozen=True)
class FetchRequest:
    """`folder` is empty or holds what an earlier attempt has fetched; `scratch` is empty and is removed afterwards."""

    config: FetchConfig
    folder: Path
    scratch: Path
    events: EventWriter
    hub_token: str | None = field(default=None, repr=False)
    base: Artefact | None = None
    """Of an adapter: the registered model that it belongs to."""


@dataclass(frozen=True)
class Fetched:
    """Where the model came from, for `pilothouse.json`, and what it said when it was asked (None: not asked)."""

    source: dict[str, str]
    answer: str | None = None
    base: dict[str, str] | None = None
    """Of an adapter: id and hash of the registered model that it belongs to."""

    profile: dict[str, str] | None = None
    """Of a checkpoint: name and version of the profile that it was trained with, where it says so."""


Fetch = Callable[[FetchRequest], Fetched]
"""Fills `request.folder` with a model. Raises JobFaultError."""
