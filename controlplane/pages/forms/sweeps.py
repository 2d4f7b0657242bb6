"""The form that starts a power sweep. Runs in the web process."""

from collections.abc import Iterable
from typing import Any

from django import forms

from controlplane.models import Deployment, Gpu
from controlplane.pages.forms.base import PageForm
from controlplane.services.power_profiles import label
from controlplane.services.sweeps import CONCURRENCY, MAX_TOKENS, SECONDS


class SweepForm(PageForm):
    """A served model, and how long and how hard it is measured."""

    model = forms.ChoiceField(label="Model", help_text="Models that are being served on a GPU whose host answers.")
    seconds_per_profile = forms.IntegerField(
        label="Seconds a profile", min_value=SECONDS[0], max_value=SECONDS[1], initial=30,
        help_text="Three profiles are measured, each after a short warm-up.",
    )  # fmt: skip
    concurrency = forms.IntegerField(
        label="Requests at once", min_value=CONCURRENCY[0], max_value=CONCURRENCY[1], initial=4,
        help_text="As many as you expect in earnest: it decides how busy the card is.",
    )  # fmt: skip
    max_tokens = forms.IntegerField(
        label="Tokens a request", min_value=MAX_TOKENS[0], max_value=MAX_TOKENS[1], initial=128
    )

    def __init__(self, engines: Iterable[tuple[Deployment, Gpu]], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offer("model", [(row.model.name, f"{row.model.name} · {label(card)}") for row, card in engines])
