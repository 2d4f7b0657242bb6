"""Which data profile shapes the examples: the section `profile`. Runs in every process."""

from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from training.config.sections.about import SETTINGS, about


@dataclass(frozen=True, config=SETTINGS)
class Profile:
    """Which data profile shapes the examples before training."""

    name: Annotated[str, about("The data profile: how each example is changed before it is trained on.")] = "plain"
    version: Annotated[
        str, about("The version of the profile that is asked for. Empty: the installed one.", advanced=True)
    ] = ""
    system_prompt: Annotated[
        str, about("Put before every conversation that has no system message. Empty: nothing is put there.")
    ] = ""
    options: Annotated[dict[str, Any], about("Settings of the profile's own, as JSON.", advanced=True)] = Field(
        default_factory=dict
    )
