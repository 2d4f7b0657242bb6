"""The settings of a serve job: `config` of its spec, read and checked.

Runs in the inference process.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from inference.settings import ENGINES, EngineSettings, SettingsError, checked, settings
from monitoring.attempt import JobFaultError


@dataclass(frozen=True)
class ProfileOptions:
    """Which profile answers are given in, as the model was trained."""

    name: str = "plain"
    system_prompt: str = ""
    version: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AdapterOptions:
    """An adapter beside the model: the name that it is asked for by, its folder, and its own profile."""

    name: str
    path: str
    profile: ProfileOptions = ProfileOptions()


@dataclass(frozen=True, kw_only=True)
class ServeOptions(EngineSettings):
    """What is served, and how. `gguf`: which of the model's exports llama_cpp serves ("": the smallest there is).

    `listen_address`: where the control plane reaches it.
    """

    model_name: str
    engine: str = "transformers"
    gguf: str = ""
    device: str = "auto"
    listen_address: str = "127.0.0.1"
    profile: ProfileOptions = ProfileOptions()
    adapters: tuple[AdapterOptions, ...] = ()

    @classmethod
    def from_config(cls, config: dict[str, Any], default_name: str) -> Self:
        """Reads a spec's `config`. Raises JobFaultError for a setting that is unknown or out of range."""
        values = {"model_name": default_name, **config}
        profile = _profile("config.profile", values.pop("profile", None))
        adapters = tuple(_adapter(entry) for entry in values.pop("adapters", None) or ())
        _refuse_unknown("config", values, cls)
        engine = values.get("engine", cls.engine)
        if engine not in ENGINES:
            raise JobFaultError(
                "engine_unknown", f"There is no engine {engine!r}.", f"Take one of: {', '.join(ENGINES)}."
            )
        given = {one.name: values.pop(one.name) for one in settings() if one.name in values}
        try:
            chosen = checked(engine, given)
        except SettingsError as error:
            first = error.faults[0]
            raise JobFaultError("bad_setting", first.message, first.fix) from error
        return cls(**values, **chosen, profile=profile, adapters=adapters)

    def told(self, **found: Any) -> dict[str, Any]:
        """What an engine says that it runs with: the settings that it knows, `found` in place of what was left to it,
        and `chosen`, what was asked of it."""
        values = {one.name: getattr(self, one.name) for one in settings() if self.engine not in one.about.unknown}
        asked = {"engine": self.engine, "gguf": self.gguf, "bits": self.bits or None, "chosen": self.chosen}
        return {**values, **asked, **found}


def _profile(where: str, given: dict[str, Any] | None) -> ProfileOptions:
    _refuse_unknown(where, given or {}, ProfileOptions)
    return ProfileOptions(**(given or {}))


def _adapter(given: dict[str, Any]) -> AdapterOptions:
    values = dict(given)
    profile = _profile("config.adapters.profile", values.pop("profile", None))
    _refuse_unknown("config.adapters", values, AdapterOptions)
    return AdapterOptions(**values, profile=profile)


def _refuse_unknown(where: str, values: dict[str, Any], kind: type[Any]) -> None:
    known = {entry.name for entry in dataclasses.fields(kind)}
    for name in sorted(set(values) - known):
        raise JobFaultError("bad_setting", f"{where} has no setting {name!r}.", f"Known: {', '.join(sorted(known))}.")
