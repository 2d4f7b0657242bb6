"""What a training run can be told: `TrainerConfig`, whose eight sections have a file each (`training.config.sections`).

Runs in every process; imports neither torch nor transformers. The web form, the API schema and `python -m training
config` are generated from these fields (`training.config.fields`), so each one carries its range, its unit and a
description in plain words. Names are transformers' own where it has them. Values are strict: a text is not a number.
"""

from pydantic import Field
from pydantic.dataclasses import dataclass

from training.config.sections.about import SETTINGS
from training.config.sections.data import Data
from training.config.sections.environment import Environment
from training.config.sections.hyperparams import Hyperparams
from training.config.sections.locked import Locked
from training.config.sections.model import Model
from training.config.sections.monitoring import Monitoring
from training.config.sections.output import Output
from training.config.sections.profile import Profile


@dataclass(frozen=True, config=SETTINGS)
class TrainerConfig:
    """All settings of a run."""

    hyperparams: Hyperparams = Field(default_factory=Hyperparams)
    profile: Profile = Field(default_factory=Profile)
    monitoring: Monitoring = Field(default_factory=Monitoring)
    locked: Locked = Field(default_factory=Locked)
    data: Data = Field(default_factory=Data)
    model: Model = Field(default_factory=Model)
    output: Output = Field(default_factory=Output)
    environment: Environment = Field(default_factory=Environment)
