"""The form that begins a sweep of training runs, and its rows of settings. Runs in the web process."""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.http import QueryDict

from controlplane.models import Dataset, LanguageModel, Run, RunSweep, RunTemplate
from controlplane.models.run_sweeps import SweepMethod, SweepMetric
from controlplane.pages.forms.base import PageForm
from controlplane.services.run_sweeps import MAX_PARALLEL, MAX_SEED, MAX_TRIALS
from controlplane.services.sweep_space import SAID_ONCE, read_value
from training.config.fields import by_path, sections
from training.profiles.base import profile_names

METHODS = [
    (SweepMethod.TPE, "TPE: learns from the runs before"),
    (SweepMethod.RANDOM, "random: draws each time anew"),
    (SweepMethod.GRID, "grid: every combination once"),
]
METRICS = [(SweepMetric.EVAL_LOSS, "eval loss"), (SweepMetric.LOSS, "training loss")]
METRIC_WORDS = {str(metric): words for metric, words in METRICS}
EXAMPLE = '{"hyperparams": {"max_steps": 200}}'
PARTS = ("field", "values", "low", "high", "step", "scale")


@dataclass(frozen=True)
class SpaceRow:
    """One setting that is varied, as it was typed; `fault` says what is wrong with it."""

    key: str
    field: str = ""
    values: str = ""
    low: str = ""
    high: str = ""
    step: str = ""
    scale: str = ""
    fault: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was typed at all."""
        return not any((self.field, self.values, self.low, self.high, self.step))

    def item(self) -> dict[str, Any]:
        """What the service is given."""
        field = by_path().get(self.field)
        item: dict[str, Any] = {"field": self.field, "log": self.scale == "log"}
        if self.values.strip():
            item["values"] = [read_value(field, text) for text in self.values.split(",") if text.strip()]
        ends = {"low": self.low, "high": self.high, "step": self.step}
        return item | {name: read_value(field, text) for name, text in ends.items() if text.strip()}


def metric_words(sweep: RunSweep) -> str:
    """What a sweep makes small, as people call it."""
    return METRIC_WORDS[sweep.metric]


def new_row(field: str = "") -> SpaceRow:
    """An empty row with a key of its own."""
    return SpaceRow(secrets.token_hex(4), field)


def rows_of(data: QueryDict, faults: Mapping[int, str] | None = None) -> list[SpaceRow]:
    """The rows that were sent, without empty ones; `faults` are by their place."""
    columns = [data.getlist(f"space-{part}") for part in PARTS]
    rows = [SpaceRow(secrets.token_hex(4), *texts) for texts in zip(*columns, strict=False)]
    kept = [row for row in rows if not row.is_empty]
    told = faults or {}
    return [SpaceRow(**{**vars(row), "fault": told.get(place, "")}) for place, row in enumerate(kept)]


def choices() -> list[tuple[str, list[tuple[str, str]]]]:
    """The settings that may be varied, by section: (section, [(path, title with what is allowed)])."""
    found = []
    for section in sections():
        fields = [
            (field.path, f"{field.title} ({field.name})")
            for field in section.fields
            if not field.locked and field.path not in SAID_ONCE and field.kind not in ("list", "object")
        ]
        if fields:
            found.append((section.title, fields))
    return found


class RunSweepForm(PageForm):
    """What all runs of a sweep share, and how values are chosen."""

    name = forms.CharField(
        label="Name", max_length=150, help_text="Its runs are called by it and a number.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "rates for sea-style"}),
    )  # fmt: skip
    dataset = forms.ChoiceField(label="Dataset")
    model = forms.ChoiceField(label="Model to start from")
    profile = forms.ChoiceField(label="Profile", required=False)
    start = forms.ChoiceField(
        label="All other settings", required=False, help_text="Those of a saved template, or of a run."
    )
    config = forms.CharField(
        label="Settings over these", required=False,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "placeholder": EXAMPLE}),
        help_text="JSON, nested by section, as the API takes it. A short run (max_steps) is often enough to compare.",
    )  # fmt: skip
    method = forms.ChoiceField(label="Method", choices=METHODS)
    metric = forms.ChoiceField(label="Make small", choices=METRICS)
    max_trials = forms.IntegerField(
        label="Runs in all", required=False, min_value=MAX_TRIALS[0], max_value=MAX_TRIALS[1],
        help_text="Empty: the whole grid, or 20.",
    )  # fmt: skip
    max_parallel = forms.IntegerField(
        label="At a time", initial=1, min_value=MAX_PARALLEL[0], max_value=MAX_PARALLEL[1],
        help_text="So many are in the queue; how many of them run, the hosts decide.",
    )  # fmt: skip
    seed = forms.IntegerField(
        label="Seed", initial=42, min_value=0, max_value=MAX_SEED, help_text="The same seed chooses the same values."
    )

    def __init__(
        self, datasets: Iterable[Dataset], models: Iterable[LanguageModel], templates: Iterable[RunTemplate],
        runs: Iterable[Run], *args: Any, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **kwargs)
        self.offer("dataset", [(str(row.pk), f"{row} · {row.examples:,} examples") for row in datasets])
        self.offer("model", [(row.name, row.name) for row in models])
        self.offer("profile", [("", "that of the settings, or plain"), *((name, name) for name in profile_names())])
        starts: list[tuple[str, Any]] = [("", "the defaults")]
        starts += [(f"template:{row.pk}", f"template {row.name}") for row in templates]
        starts += [(f"run:{row.pk}", f"run {row}") for row in runs]
        self.offer("start", starts)

    def clean_config(self) -> dict[str, Any]:
        """The typed JSON as an object of objects. Raises ValidationError."""
        text = self.cleaned_data["config"].strip()
        try:
            value = json.loads(text) if text else {}
        except ValueError as error:
            raise forms.ValidationError(f"It is not JSON: {error}.") from None
        if not isinstance(value, dict) or not all(isinstance(section, dict) for section in value.values()):
            raise forms.ValidationError('Give an object of sections, such as {"hyperparams": {"max_steps": 200}}.')
        return value

    def shared(self) -> list[Any]:
        """The fields of what is trained on what."""
        return [self[name] for name in ("name", "dataset", "model", "profile", "start", "config")]

    def choosing(self) -> list[Any]:
        """The fields of how values are chosen."""
        return [self[name] for name in ("method", "metric", "max_trials", "max_parallel", "seed")]
