"""Forms of the page Power and heat: schedules, the thermal guard, what profiles bind. Runs in the web process."""

from typing import Any

from django import forms

from controlplane.pages.forms.base import PageForm, dress
from controlplane.pages.forms.edits import EditForm
from controlplane.services import power_profiles, schedules, settings

PROFILE_CHOICES = [(name, name) for name in power_profiles.PROFILES]
GUARD_KEYS = (
    "thermal.power_step_celsius", "thermal.hold_jobs_celsius", "thermal.pause_jobs_celsius",
    "thermal.hysteresis_celsius", "thermal.step_every_seconds",
)  # fmt: skip
GUARD_LABELS = {
    "thermal.power_step_celsius": "Power steps down from", "thermal.hold_jobs_celsius": "New jobs wait from",
    "thermal.pause_jobs_celsius": "Runs are paused from", "thermal.hysteresis_celsius": "Cool again when below by",
    "thermal.step_every_seconds": "Time between two steps",
}  # fmt: skip


class ClockInput(forms.TimeInput):
    """A time of day, without seconds."""

    input_type = "time"

    def __init__(self) -> None:
        super().__init__(format="%H:%M")


class ScheduleForm(PageForm):
    """A new schedule. `where` is empty (every GPU), "HOST/" or "HOST/INDEX"."""

    profile = forms.ChoiceField(label="Profile", choices=PROFILE_CHOICES, initial="quiet")
    begins = forms.TimeField(label="From", initial="22:00", widget=ClockInput())
    until = forms.TimeField(label="Until", initial="07:00", widget=ClockInput())
    profile_after = forms.ChoiceField(label="Then", choices=PROFILE_CHOICES, initial="normal")
    days = forms.TypedMultipleChoiceField(
        label="Begins on", choices=list(enumerate(schedules.DAYS)), coerce=int, initial=list(range(7)),
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one day."},
    )  # fmt: skip

    def __init__(self, *args: Any, places: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["where"] = forms.ChoiceField(label="On", required=False, choices=places)
        dress(self.fields["where"].widget)
        self.order_fields(["profile", "begins", "until", "profile_after", "where", "days"])

    def values(self) -> dict[str, Any]:
        """What `schedules.create` takes."""
        cleaned = {name: value for name, value in self.cleaned_data.items() if name != "where"}
        host, _, index = self.cleaned_data["where"].rpartition("/")
        return {**cleaned, "host": host or None, "gpu": int(index) if index else None}


class GuardForm(EditForm):
    """The thermal guard's settings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["thermal.enabled"] = forms.BooleanField(
            label="The guard acts on hot GPUs", required=False, initial=settings.get("thermal.enabled")
        )
        for key in GUARD_KEYS:
            self.fields[key] = number_field(key, GUARD_LABELS[key])
        for field in self.fields.values():
            dress(field.widget)


class RulesForm(EditForm):
    """How many runs each profile takes, and what happens to limits that others change."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in power_profiles.PROFILES:
            key = f"power.{name}_max_concurrent_jobs"
            self.fields[key] = number_field(key, f"Runs at once, {name}")
        self.fields["power.reconcile_set_again"] = forms.BooleanField(
            label="Set again what something else has changed", required=False,
            initial=settings.get("power.reconcile_set_again"),
        )  # fmt: skip
        self.fields["power.restore_at_stop"] = forms.BooleanField(
            label="Put back what was found when the agent stops", required=False,
            initial=settings.get("power.restore_at_stop"),
        )  # fmt: skip
        for field in self.fields.values():
            dress(field.widget)

    def counts(self) -> list[forms.BoundField]:
        """The figures."""
        return [field for field in self if not isinstance(field.field, forms.BooleanField)]

    def switches(self) -> list[forms.BoundField]:
        """The rest."""
        return [field for field in self if isinstance(field.field, forms.BooleanField)]


def number_field(key: str, label: str) -> forms.IntegerField:
    """The field of a whole-number setting, with its bounds, unit and present value."""
    definition = settings.DEFAULTS[key]
    low, high = int(definition.minimum or 0), int(definition.maximum or 0)
    field = forms.IntegerField(label=label, min_value=low, max_value=high, initial=settings.get(key))
    field.widget.attrs["inputmode"] = "numeric"
    field.unit = definition.unit  # type: ignore[attr-defined] # shown by fragments/field.html
    return field
