"""The design, alive: every colour, control and block as pages have them. docs/design.md says the rest. Web process."""

from datetime import timedelta

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from controlplane.pages.forms.base import PageForm
from controlplane.pages.tags import TONES

COLOURS = {
    "Grounds": ("paper", "surface", "raised", "sunken"),
    "Words": ("ink", "muted"),
    "Lines": ("line", "line-strong", "edge"),
    "What can be done": ("accent", "accent-strong", "accent-soft", "on-accent"),
    "What it means": ("ok", "ok-soft", "warn", "warn-soft", "bad", "bad-soft", "idle"),
    "Lines of charts": ("series-1", "series-2", "series-3", "series-4"),
}
SIZES = (12, 13, 14, 15, 16, 20, 26, 44)
"""The type scale, in pixels: notes, controls, text, names, leads, titles, figures, errors."""

STEPS = (2, 4, 6, 8, 12, 16, 24, 32)
"""The rhythm of space, in pixels."""

PARTS = {
    "colours": "Colours", "type": "Type", "controls": "Buttons", "fields": "Fields", "states": "States",
    "waiting": "Waiting", "charts": "Charts", "said": "Messages",
}  # fmt: skip
BUTTONS = (("", "Plain"), ("primary", "Primary"), ("bad", "Takes away"), ("solid-bad", "Ends it"), ("tiny", "In a row"))
STATES = (("", "rest"), ("is-hover", "hover"), ("is-focus", "focus"), ("is-pressed", "pressed"))


class ExampleForm(PageForm):
    """Fields as every form has them."""

    name = forms.CharField(label="Name", help_text="As it will stand in lists.", initial="harbour talk")
    rate = forms.FloatField(label="Learning rate", max_value=1, help_text="How far each step goes.", initial=0.0002)
    method = forms.ChoiceField(label="Method", choices=[("lora", "LoRA"), ("full", "Full weights")])
    notes = forms.CharField(label="Notes", required=False, widget=forms.Textarea(attrs={"rows": 2}))
    packing = forms.BooleanField(label="Pack short rows together", required=False, initial=True)


def styleguide(request: HttpRequest) -> HttpResponse:
    """For everybody who is logged in."""
    now = timezone.now()
    tones: dict[str, list[str]] = {}
    for state, tone in TONES.items():
        tones.setdefault(tone, []).append(state)
    refused = ExampleForm({"refused-name": "", "refused-rate": "3", "refused-method": "lora"}, prefix="refused")
    refused.is_valid()
    context = {
        "colours": COLOURS, "sizes": SIZES, "steps": STEPS, "buttons": BUTTONS, "states": STATES, "tones": tones,
        "form": ExampleForm(prefix="rest"), "refused": refused, "parts": PARTS,
        "times": [now, now - timedelta(minutes=3), now - timedelta(hours=5), now - timedelta(days=40)],
    }  # fmt: skip
    return render(request, "styleguide/page.html", context)
