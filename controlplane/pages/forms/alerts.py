"""The form of a route of alerts. Runs in the web process."""

from typing import Any

from django import forms

from controlplane.models.alerts import Severity
from controlplane.pages.forms.edits import EditForm
from controlplane.services import alert_rules
from controlplane.services.alert_routes import RouteWish

SEVERITY_WORDS = {
    Severity.INFO.value: "info: everything, good news too",
    Severity.WARNING.value: "warning: what wants a look",
    Severity.CRITICAL.value: "critical: what wants somebody now",
}


class RouteForm(EditForm):
    """Where alerts go. With `is_new` false an empty address leaves the stored one as it is."""

    name = forms.CharField(
        label="Name", max_length=100,
        widget=forms.TextInput(attrs={"placeholder": "my phone", "autocomplete": "off"}),
    )  # fmt: skip
    url = forms.CharField(
        label="Address", required=False, max_length=4000, strip=True,
        widget=forms.TextInput(
            attrs={"placeholder": "ntfys://ntfy.sh/a-topic", "autocomplete": "off", "spellcheck": "false"}
        ),
    )  # fmt: skip
    minimum_severity = forms.ChoiceField(
        label="What", choices=list(SEVERITY_WORDS.items()), initial=Severity.WARNING.value
    )
    quiet_from = forms.TimeField(
        label="Quiet from", required=False, widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M"),
        help_text="Local time. In quiet hours only what is critical goes out; the rest comes together afterwards.",
    )  # fmt: skip
    quiet_until = forms.TimeField(
        label="Quiet until", required=False, widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M")
    )
    rules = forms.MultipleChoiceField(
        label="Only these rules", required=False, choices=[(rule.key, rule.title) for rule in alert_rules.RULES],
        widget=forms.CheckboxSelectMultiple,
    )  # fmt: skip

    def __init__(self, *args: Any, is_new: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["rules"].widget.attrs["class"] = "form-check-input"
        self.fields["url"].required = is_new
        self.fields["url"].help_text = (
            "Apprise's form: mailto://, ntfy://, slack://, discord://, tgram://, jsons:// for a web hook, and more. It "
            "holds secrets, so it is never shown again."
            if is_new
            else "Leave it empty to keep the present one."
        )

    def wish(self, is_enabled: bool = True) -> RouteWish:
        """What was typed, as the service takes it."""
        typed = self.cleaned_data
        return RouteWish(
            name=typed["name"], url=typed["url"], minimum_severity=typed["minimum_severity"],
            rules=tuple(typed["rules"]), quiet_from=typed["quiet_from"], quiet_until=typed["quiet_until"],
            is_enabled=is_enabled,
        )  # fmt: skip
