"""The settings of a serve job: `config` of its spec, read and checked.

Runs in the inference process.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from monitoring.attempt import JobFaultError

ENGINES = ("transformers",)


@dataclass(frozen=True)
class ProfileOptions:
    """Which profile answers are given in, as the model was trained."""

    name: str = "plain"
    system_prompt: str = ""
    version: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServeOptions:
    """`max_batch` rows decode at once, `max_queue` requests wait. `max_model_length` 0: the model's own context,
    `cpu_threads` 0: as torch has it. `drain_seconds`: how long requests in flight may take after a stop."""

    model_name: str
    engine: str = "transformers"
    dtype: str = "auto"
    device: str = "auto"
    max_batch: int = 8
    max_queue: int = 64
    max_model_length: int = 0
    cpu_threads: int = 0
    drain_seconds: float = 60.0
    profile: ProfileOptions = ProfileOptions()

    @classmethod
    def from_config(cls, config: dict[str, Any], default_name: str) -> Self:
        """Reads a spec's `config`. Raises JobFaultError for a setting that is unknown or out of range."""
        values = {"model_name": default_name, **config}
        profile = values.pop("profile", None) or {}
        _refuse_unknown("config", values, cls)
        _refuse_unknown("config.profile", profile, ProfileOptions)
        options = cls(**values, profile=ProfileOptions(**profile))
        if options.engine not in ENGINES:
            raise JobFaultError(
                "engine_unknown", f"There is no engine {options.engine!r}.", f"Take one of: {', '.join(ENGINES)}."
            )
        least = {"max_batch": 1, "max_queue": 1, "max_model_length": 0, "cpu_threads": 0, "drain_seconds": 0}
        for name, low in least.items():
            value = getattr(options, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value < low:
                raise JobFaultError("bad_setting", f"{name} is {value!r}.", f"Give a number from {low} on.")
        return options


def _refuse_unknown(where: str, values: dict[str, Any], kind: type[Any]) -> None:
    known = {entry.name for entry in dataclasses.fields(kind)}
    for name in sorted(set(values) - known):
        raise JobFaultError("bad_setting", f"{where} has no setting {name!r}.", f"Known: {', '.join(sorted(known))}.")
