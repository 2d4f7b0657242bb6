"""The form of a split: two models and how the requests are shared. Runs in the web process."""

from collections.abc import Iterable
from typing import Any

from django import forms

from controlplane.pages.forms.base import PageForm


class SplitForm(PageForm):
    """A name, two models, and the share of the second one. More models: through the API."""

    name = forms.CharField(
        label="Name", max_length=200, help_text="What clients ask for.",
        widget=forms.TextInput(attrs={"placeholder": "assistant", "autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip
    first = forms.ChoiceField(label="Model A")
    second = forms.ChoiceField(label="Model B")
    percent = forms.FloatField(
        label="Share of B", min_value=0, max_value=100, initial=10, help_text="Per cent of the requests."
    )

    def __init__(self, names: Iterable[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = list(names)
        for field in ("first", "second"):
            self.offer(field, [(name, name) for name in known])
        self.fields["second"].initial = known[1] if len(known) > 1 else None

    def parts(self) -> list[dict[str, Any]]:
        """What was typed, as the service takes it."""
        typed = self.cleaned_data
        return [
            {"model": typed["first"], "weight": 100 - typed["percent"]},
            {"model": typed["second"], "weight": typed["percent"]},
        ]
