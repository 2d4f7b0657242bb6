"""What the calls about run templates and a run's settings take and answer."""

from typing import Any

from ninja import Field, Schema
from pydantic import ConfigDict

from controlplane.api.schemas.runs import CreateRun, RunDataset


class SaveTemplate(Schema):
    """`config`: any part of TrainerConfig, nested by section; or `run`: an existing run whose settings are taken.

    `dataset` (an id, or a name for its newest version) and `model` may stay open.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    dataset: int | str | None = None
    model: str | None = None
    run: int | None = None


class ChangeTemplate(Schema):
    """What is to be changed; `config` as a whole, and null opens dataset or model."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    description: str | None = None
    config: dict[str, Any] | None = None
    dataset: int | str | None = None
    model: str | None = None


class Template(Schema):
    """A run template. `config` is what differs from the defaults."""

    id: int
    name: str
    description: str
    config: dict[str, Any]
    dataset: RunDataset | None
    model: str | None
    created_by: str
    created_at: str
    updated_at: str


class TemplateList(Schema):
    """All templates, by name."""

    templates: list[Template]


class SettingDifference(Schema):
    """One setting that differs. A source is "default" or "set"."""

    path: str
    title: str
    unit: str
    old: Any
    new: Any
    old_source: str
    new_source: str


class RunDiff(Schema):
    """What differs in the settings of `run` from those of `with`: old is the latter's."""

    run: int
    with_run: int = Field(serialization_alias="with")
    differences: list[SettingDifference]


class PreviewRun(CreateRun):
    """As for `POST /api/runs`, where a name isn't needed; nothing is started. An empty profile is the template's."""

    name: str = ""
    profile: str = ""


class RateCurve(Schema):
    """The learning rate when so many steps are done; equally long."""

    step: list[int]
    value: list[float]


class RunPlan(Schema):
    """A run's examples and steps. `is_exact` false: the run itself finds how many rows a token filter leaves."""

    train_examples: int
    eval_examples: int
    effective_batch: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    epochs: float
    is_exact: bool
    learning_rate: RateCurve


class RunPreview(Schema):
    """The whole configuration that a run would have, its plan, and what differs from `based_on`, or the defaults."""

    config: dict[str, Any]
    plan: RunPlan | None
    differences: list[SettingDifference]


class ExplainedSetting(Schema):
    """A setting, its value and where that came from; `key` is a flat file's own."""

    path: str
    value: Any
    source: str
    key: str


class KeyLeftOut(Schema):
    """A key of a flat file that has no place now."""

    key: str
    reason: str


class ReadConfig(Schema):
    """`config` for `POST /api/runs` or a template, every setting with its source, and keys that have no place."""

    config: dict[str, Any]
    explained: list[ExplainedSetting]
    left_out: list[KeyLeftOut]
