"""What a run's settings come to before it starts, and how those of two runs differ. Runs in the web process.

The page that starts a run and the API's `/api/runs/preview`, `/api/runs/config` and `/api/runs/ID/diff` ask here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from controlplane.errors import InvalidInputError
from controlplane.models import Dataset, Run, RunTemplate
from controlplane.services import config_faults, datasets, run_templates, runs
from training.config import schedule
from training.config.difference import Difference, chosen, differences
from training.config.flat import LeftOut
from training.config.loader import ConfigError, Loaded, explain, load, to_dict, value_at
from training.config.schema import TrainerConfig

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class FileSettings:
    """A configuration from a file: `config` what it asks for beyond the defaults, nested by section; `left_out` keys
    that have no place; `explained` every setting as (path, value, source, the file's key).
    """

    config: dict[str, dict[str, Any]]
    left_out: tuple[LeftOut, ...]
    explained: list[tuple[str, Any, str, str]]


def read_file(content: str | bytes | Mapping[str, Any]) -> FileSettings:
    """Reads a configuration file: nested by section, or the replaced system's flat `config.json`.

    Raises InvalidInputError with every fault's path.
    """
    value = content if isinstance(content, Mapping) else _parsed(content)
    try:
        loaded = load(value)
    except ConfigError as error:
        raise config_faults.refusal(error) from error
    return FileSettings(_asked(loaded), loaded.left_out, _explained(loaded))


def _parsed(content: str | bytes) -> dict[str, Any]:
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInputError(f"The file is larger than {MAX_FILE_BYTES:,} bytes, which no configuration is.")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"The configuration is no JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InvalidInputError("The configuration must be an object of settings, not a list or a single value.")
    return value


def _asked(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """What differs from the defaults; and what a run decides otherwise, where the file names it: the evaluation share
    (a dataset may have another) and the id of the result.
    """
    config = chosen(to_dict(loaded.config))
    for path in ("data.eval_fraction", "output.register_as"):
        if loaded.sources[path] == "json":
            section, name = path.split(".")
            config.setdefault(section, {})[name] = value_at(loaded.config, path)
    return config


def _explained(loaded: Loaded) -> list[tuple[str, Any, str, str]]:
    return [(path, value, source, loaded.keys.get(path, "")) for path, value, source in explain(loaded)]


# --- Before it starts -------------------------------------------------------------------------------------------------


def planned(dataset: Dataset, config: TrainerConfig | Mapping[str, Any]) -> dict[str, Any] | None:
    """The examples and steps of a run, and its learning rate by step; None where the dataset's rows aren't counted.

    `learning_rate` has `step` (steps done, from 0) and `value`, each up to schedule.MAX_POINTS + 1 long.
    """
    if not dataset.examples:
        return None
    if not isinstance(config, TrainerConfig):
        config = config_faults.parsed(config)
    plan = schedule.plan(config, dataset.examples, duplicates=_duplicates(dataset), eval_rows=_eval_rows(config))
    steps, rates = schedule.curve(config, plan.total_steps)
    return {**asdict(plan), "learning_rate": {"step": steps, "value": rates}}


def _duplicates(dataset: Dataset) -> int:
    """Rows that are equal to an earlier one, as the report has them; 0 where nobody has counted."""
    report = dataset.report or {}
    found = report.get("duplicates")
    count = found.get("count") if isinstance(found, dict) else found
    return count if isinstance(count, int) else 0


def _eval_rows(config: TrainerConfig) -> int | None:
    return datasets.get(config.data.eval_dataset).examples if config.data.eval_dataset else None


def previewed(
    *, template: RunTemplate | None = None, dataset: int | str | None = None, model: str = "", profile: str = "",
    config: Mapping[str, Any] | None = None, based_on: Run | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a run would be: its whole `config`, its `plan` (or None), and `differences` from the run that it is based
    on, else from the template, else from the defaults. Starts nothing; raises as `runs.create` does.
    """
    if based_on is not None:
        based_on.require_settings()
    choices: dict[str, Any]
    if template is not None:
        choices = run_templates.filled(template, dataset=dataset, model=model, profile=profile, config=config)
    else:
        choices = {"dataset": dataset or "", "model": model, "profile": profile or "plain"}
        choices["config"] = dict(config or {})
    return examined(choices, based_on=based_on, template=template)


def examined(
    choices: Mapping[str, Any], *, based_on: Run | None = None, template: RunTemplate | None = None
) -> dict[str, Any]:
    """As `previewed`, of whole choices (`dataset`, `model`, `profile`, `config`) that are only compared."""
    whole = runs.check(**choices)
    data = datasets.get(whole["data"]["train_dataset"])
    before = based_on.config if based_on is not None else _before(template, whole, data)
    found = differences(before, whole)
    return {"config": whole, "plan": planned(data, whole), "differences": told(found), "found": found}


def _before(template: RunTemplate | None, whole: Mapping[str, Any], data: Dataset) -> dict[str, dict[str, Any]]:
    """A template's settings, or the defaults, with the dataset and model of the run where those stay open."""
    config = run_templates.apply(template) if template is not None else {}
    of_data, of_model = config.setdefault("data", {}), config.setdefault("model", {})
    of_data.setdefault("eval_fraction", data.eval_fraction)
    of_data["train_dataset"], of_model["model"] = whole["data"]["train_dataset"], whole["model"]["model"]
    if template is not None and template.dataset_id:
        of_data["train_dataset"] = str(template.dataset_id)
    if template is not None and template.model is not None:
        of_model["model"] = template.model.name
    return config


# --- What differs -----------------------------------------------------------------------------------------------------


def run_differences(old: Run, new: Run) -> list[Difference]:
    """What differs in the settings of `new` from those of `old`, defaults resolved."""
    for run in (old, new):
        run.require_settings()
    return differences(old.config, new.config)


def told(found: list[Difference]) -> list[dict[str, Any]]:
    """Differences as the API tells them."""
    return [asdict(item) for item in found]
