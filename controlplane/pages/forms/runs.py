"""The form that starts a run, made from the fields of `training.config`. Runs in the web process.

What was typed is kept as typed: every field is text until `clean` turns it into the schema's kind.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.forms import BoundField

from controlplane.models import Dataset, LanguageModel
from controlplane.pages.forms.base import PageForm, dress
from controlplane.pages.forms.edits import EditForm
from controlplane.pages.numbers import short
from training.config.fields import FieldInfo, sections
from training.config.fields import fields as config_fields
from training.profiles.base import profile_names

CHOSEN_ABOVE = frozenset({"data.train_dataset", "model.model", "profile.name", "output.output_dir"})
"""Settings that the form asks in its own words, or that are no choice."""

CHAIN = "model.chain"
"""It stands beside the model: a chain that is there knows what its next run starts from."""

OF_CHAIN = ("", "the current model of the chain")

EVAL_FRACTION = "data.eval_fraction"
"""The dataset has its own share; it holds unless another is typed here."""

PRIORITIES = [("normal", "normal"), ("high", "high: before the others"), ("low", "low: when nothing else waits")]
SPECIAL = {
    "hyperparams": "How it learns", "profile": "Profile", "monitoring": "What is measured", "data": "Data",
    "model": "Weights", "output": "What it leaves behind", "environment": "Machine",
}  # fmt: skip


class SettingField(forms.CharField):
    """One setting of TrainerConfig: a text that must become the setting's kind within its range."""

    def __init__(self, info: FieldInfo) -> None:
        widget, initial = _widget(info)
        super().__init__(
            label=info.title, required=False, help_text=info.description, initial=initial, widget=widget, strip=False
        )
        self.info = info
        self.unit = info.unit
        self.allowed = _range_words(info)

    def clean(self, value: Any) -> Any:
        """The value in the setting's kind; the default where nothing was typed. Raises ValidationError."""
        info = self.info
        if info.kind == "boolean":
            return bool(value) and str(value).lower() not in ("false", "0", "off")
        text = str(value or "")
        if not text.strip() and info.kind != "text":
            return info.default
        try:
            return _read(info, text)
        except ValueError:
            raise forms.ValidationError(f"Give {info.allowed}.") from None


def _widget(info: FieldInfo) -> tuple[forms.Widget, Any]:
    """How a setting is asked, and what stands there at first."""
    widget: forms.Widget
    initial = info.default
    match info.kind:
        case "boolean":
            widget = forms.CheckboxInput()
        case "choice":
            widget = forms.Select(choices=[(choice, choice) for choice in info.choices])
        case "list":
            widget = forms.Textarea(attrs={"rows": 3, "placeholder": "one a line"})
            initial = shown(info, info.default)
        case "object":
            widget = forms.Textarea(attrs={"rows": 3, "spellcheck": "false"})
            initial = shown(info, info.default)
        case "integer" | "number":
            mode = "numeric" if info.kind == "integer" else "decimal"
            widget = forms.TextInput(attrs={"inputmode": mode, "autocomplete": "off"})
            initial = shown(info, info.default)
        case _ if info.name == "system_prompt":
            widget = forms.Textarea(attrs={"rows": 3})
        case _ if info.path == CHAIN:
            widget = forms.TextInput(attrs={"autocomplete": "off", "list": "known-chains", "placeholder": "none"})
        case _:
            widget = forms.TextInput(attrs={"autocomplete": "off"})
    if info.path == EVAL_FRACTION:
        widget.attrs["placeholder"] = "the dataset's own share"
        initial = ""
    return widget, initial


def _range_words(info: FieldInfo) -> str:
    """The range in few words: "1 to 4,096", "above 0, up to 1"."""
    low, high = info.minimum, info.maximum
    if low is None or high is None:
        return ""
    upper = f"{'below' if info.maximum_exclusive else 'up to'} {high:,g}"
    if info.minimum_exclusive:
        return f"above {low:,g}, {upper}"
    return f"{low:,g}, {upper}" if info.maximum_exclusive else f"{low:,g} to {high:,.12g}"


def _read(info: FieldInfo, text: str) -> Any:
    """The text as the setting's kind. Raises ValueError outside of its range too."""
    match info.kind:
        case "integer":
            return _within(info, int(text.replace(",", "").replace("_", "").strip()))
        case "number":
            return _within(info, float(text.strip()))
        case "list":
            return [line.strip() for line in text.splitlines() if line.strip()]
        case "object":
            value = json.loads(text)
            if not isinstance(value, dict):
                raise ValueError("not an object")
            return value
        case "choice":
            if text not in info.choices:
                raise ValueError("not a choice")
    return text


def _within(info: FieldInfo, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("not finite")
    low, high = info.minimum, info.maximum
    if low is not None and (value < low or (info.minimum_exclusive and value == low)):
        raise ValueError("too small")
    if high is not None and (value > high or (info.maximum_exclusive and value == high)):
        raise ValueError("too large")
    return value


def shown(info: FieldInfo, value: Any) -> Any:
    """A setting's value as it stands in its field: a text, or a bool for a box that is ticked."""
    match info.kind:
        case "boolean":
            return bool(value)
        case "list":
            return "\n".join(value or ())
        case "object":
            return json.dumps(value or {}, ensure_ascii=False)
        case "number" if isinstance(value, (int, float)):
            return short(value) if float(short(value)) == value else repr(value)
    return str(value)


def initial_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration (any part of it, nested by section) as the form's initial values, by path."""
    found = {}
    for info in config_fields():
        section = config.get(info.section)
        if isinstance(section, Mapping) and info.name in section:
            found[info.path] = shown(info, section[info.name])
    return found


@dataclass(frozen=True)
class Section:
    """A card of the form: its fields that everyone sees, and those behind a fold (open when one has a fault)."""

    name: str
    title: str
    description: str
    essential: list[BoundField]
    advanced: list[BoundField]
    is_open: bool


class RunForm(PageForm):
    """A run: what it is called, what it learns from, and every setting."""

    needs_start = True
    """Whether a model or a chain must be chosen."""

    name = forms.CharField(
        label="Name", max_length=200, help_text="What you will look for in the list.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "sea-style on SmolLM2"}),
    )  # fmt: skip
    dataset = forms.ChoiceField(label="Dataset")
    model = forms.ChoiceField(
        label="Model to start from", required=False,
        help_text="To go on with a chain choose the last entry; a new chain begins at the model chosen here.",
    )  # fmt: skip
    profile = forms.ChoiceField(label="Profile", help_text="How each example is shaped: see below.")
    priority = forms.ChoiceField(label="Place in the queue", choices=PRIORITIES)
    based_on = forms.IntegerField(required=False, widget=forms.HiddenInput())
    template = forms.IntegerField(required=False, widget=forms.HiddenInput())

    def __init__(self, datasets: Iterable[Dataset], models: Iterable[LanguageModel], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._choices: dict[str, list[tuple[str, str]]] = {}
        self._choose("dataset", [(str(row.pk), f"{row} · {row.examples:,} examples") for row in datasets])
        self._choose("model", [*((row.name, row.name) for row in models), OF_CHAIN])
        self._choose("profile", [(name, name) for name in profile_names()])
        self.initial.setdefault("model", self._choices["model"][0][0])
        self.initial.setdefault("profile", "plain")
        for section in sections():
            for info in section.fields:
                if info.section != "locked" and info.path not in CHOSEN_ABOVE:
                    field = SettingField(info)
                    self.fields[info.path] = field
                    dress(field.widget)

    def _choose(self, name: str, choices: list[tuple[str, str]]) -> None:
        self._choices[name] = choices
        self.offer(name, choices)

    def clean(self) -> dict[str, Any]:
        """A run starts from a model, or goes on with a chain."""
        data = self.cleaned_data
        if self.needs_start and "model" in data and not data["model"] and not str(data.get(CHAIN) or "").strip():
            self.add_error("model", "Choose a model, or name the chain whose current model is meant.")
        return data

    def head(self) -> list[BoundField]:
        """What a run is made of."""
        return [self[name] for name in ("name", "dataset", "model", CHAIN, "profile", "priority")]

    def cards(self) -> list[Section]:
        """The settings, section by section."""
        found = []
        for section in sections():
            infos = [info for info in section.fields if info.path in self.fields and info.path != CHAIN]
            if infos:
                essential = [self[info.path] for info in infos if not info.advanced]
                advanced = [self[info.path] for info in infos if info.advanced]
                is_open = any(field.errors for field in advanced)
                title = SPECIAL.get(section.name, section.title)
                found.append(Section(section.name, title, section.description, essential, advanced, is_open))
        return found

    def config(self) -> dict[str, dict[str, Any]]:
        """What differs from the defaults, nested by section, as `services.runs.create` takes it."""
        config: dict[str, dict[str, Any]] = {}
        for path, field in self.fields.items():
            if isinstance(field, SettingField):
                value = self.cleaned_data[path]
                if path == EVAL_FRACTION and not str(self.data.get(path, "")).strip():
                    continue
                if value != _plain(field.info.default) or path == EVAL_FRACTION:
                    config.setdefault(field.info.section, {})[field.info.name] = value
        return config

    def choices(self, name: str) -> list[tuple[str, str]]:
        """What may be chosen in `dataset`, `model` or `profile`, as (value, words)."""
        return [choice for choice in self._choices.get(name, []) if choice[0]]

    def choice(self) -> dict[str, Any]:
        """`dataset`, `model`, `profile` and `config` for the services. Of a form without faults."""
        data = self.cleaned_data
        return {
            "dataset": int(data["dataset"]), "model": data["model"], "profile": data["profile"],
            "config": self.config(),
        }  # fmt: skip

    def whole(self) -> dict[str, dict[str, Any]]:
        """The configuration with the profile that was chosen, as a template keeps it."""
        config = self.config()
        config.setdefault("profile", {})["name"] = self.cleaned_data["profile"]
        return config

    def typed(self) -> dict[str, Any]:
        """What stands in every field as it came, for a form that is drawn anew with more in it."""
        boxes = {name for name, field in self.fields.items() if isinstance(field.widget, forms.CheckboxInput)}
        return {name: name in self.data if name in boxes else self.data.get(name, "") for name in self.fields}

    def setting_faults(self) -> dict[str, str]:
        """The titles of settings that can't be taken as typed, with the reason."""
        faults = {}
        for path, found in self.errors.items():
            if path in self.fields and isinstance(self.fields[path], SettingField):
                faults[str(self.fields[path].label)] = " ".join(str(fault) for fault in found)
        return faults

    def paths(self) -> dict[str, str]:
        """The service's names of the fields, to put its refusals beside them."""
        return {f"config.{path}": path for path in self.fields}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class TemplateForm(EditForm, RunForm):
    """A template's name and settings; dataset and model may be left open."""

    needs_start = False

    name = forms.CharField(label="Name", max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    description = forms.CharField(
        label="What it is for", max_length=500, required=False, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )

    def __init__(self, datasets: Iterable[Dataset], models: Iterable[LanguageModel], *args: Any, **kwargs: Any) -> None:
        super().__init__(datasets, models, *args, **kwargs)
        del self.fields["priority"]  # a run's own
        for name, words in (("dataset", "chosen for each run"), ("model", "chosen for each run")):
            self._choose(name, [("", words), *self.choices(name)])
            self.fields[name].required = False

    def head(self) -> list[BoundField]:
        """What a template is called and stands on."""
        return [self[name] for name in ("name", "description", "dataset", "model", CHAIN, "profile")]
