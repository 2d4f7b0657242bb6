"""What is wrong with a run's configuration or its profile, as the API and the forms tell it. Runs in the web process.

`training.config` and `training.profiles` raise errors of their own, since they run in jobs too; here they become
refusals whose faults are named as the API names its fields (`config.hyperparams.seed`).
"""

from collections.abc import Mapping
from typing import Any

from controlplane.errors import FieldFault, InvalidInputError
from training.config.loader import ConfigError, parse_config
from training.config.schema import TrainerConfig
from training.profiles.base import BrokenProfileError, Profile, UnknownProfileError, load_profile


def refusal(error: ConfigError, beginning: str = "") -> InvalidInputError:
    """A configuration's faults; `beginning` is a sentence that comes before them."""
    faults = tuple(FieldFault(f"config.{fault.path}", fault.message) for fault in error.faults)
    return InvalidInputError(f"{beginning} {error}".strip(), faults)


def parsed(config: Mapping[str, Any]) -> TrainerConfig:
    """Reads a configuration, any part of it. Raises InvalidInputError."""
    try:
        return parse_config(config)
    except ConfigError as error:
        raise refusal(error) from error


def profile_of(
    name: str, *, system_prompt: str = "", options: Mapping[str, Any] | None = None,
    path: str = "profile", options_path: str = "config.profile.options",
) -> Profile:  # fmt: skip
    """The profile of that name, set up. Raises InvalidInputError, with the path where its name or its options stand."""
    try:
        return load_profile(name, system_prompt=system_prompt, options=options)
    except UnknownProfileError as error:
        raise InvalidInputError(str(error), (FieldFault(path, str(error)),)) from error
    except BrokenProfileError as error:
        raise InvalidInputError(str(error), (FieldFault(options_path, str(error)),)) from error
