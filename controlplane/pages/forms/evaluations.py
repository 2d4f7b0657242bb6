"""The form that begins an evaluation. Runs in the web process."""

from collections.abc import Iterable
from typing import Any

from django import forms

from controlplane.models import Dataset, LanguageModel
from controlplane.models.evaluations import RowChoice
from controlplane.pages.forms.base import PageForm
from controlplane.services.evaluations import MAX_SAMPLES, MAX_TOKENS, METRICS

METRIC_WORDS = {
    "accuracy": "accuracy: the same text but for case, spaces and closing marks",
    "exact_match": "exact match: the same text, character by character",
    "contains": "contains: the expected text stands within the answer",
    "regex": "pattern: the answer matches a regular expression",
    "rouge_l": "ROUGE-L: the longest common sequence of words",
    "bleu": "BLEU: common runs of up to four words",
    "profile_check": "profile check: the answer keeps the contract of the model's profile",
    "loss": "loss: how likely the model finds the right answers",
    "perplexity": "perplexity: the same as a factor",
}
ROWS = [
    ("", "held out, else all"),
    (RowChoice.HELD_OUT, "held out by training"),
    (RowChoice.ALL, "all"),
]


class EvaluationForm(PageForm):
    """Which model is asked which rows, and what is measured."""

    model = forms.ChoiceField(label="Model")
    dataset = forms.ChoiceField(label="Dataset")
    rows = forms.ChoiceField(label="Rows", choices=ROWS, required=False)
    max_samples = forms.IntegerField(
        label="At most", initial=1000, min_value=MAX_SAMPLES[0], max_value=MAX_SAMPLES[1],
        help_text="Rows; the same ones for every model.",
    )  # fmt: skip
    max_tokens = forms.IntegerField(
        label="Longest answer", initial=256, min_value=MAX_TOKENS[0], max_value=MAX_TOKENS[1], help_text="Tokens."
    )
    name = forms.CharField(
        label="Name", max_length=200, required=False, help_text="Empty: the model and the dataset.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )  # fmt: skip
    metrics = forms.MultipleChoiceField(
        label="Metrics", choices=[(metric, METRIC_WORDS[metric]) for metric in METRICS],
        initial=["accuracy", "exact_match", "loss"], widget=forms.CheckboxSelectMultiple,
    )  # fmt: skip
    pattern = forms.CharField(
        label="Pattern", max_length=500, required=False, help_text="What the metric pattern looks for in each answer.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "placeholder": r"^\d+$"}),
    )  # fmt: skip
    keep_texts = forms.BooleanField(label="Keep questions and answers, not only scores", initial=True, required=False)

    def __init__(self, models: Iterable[LanguageModel], datasets: Iterable[Dataset], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offer("model", [(row.name, row.name) for row in models])
        self.offer("dataset", [(str(row.pk), f"{row} · {row.examples:,} examples") for row in datasets])

    def subject(self) -> list[Any]:
        """The fields of who is asked what."""
        return [self[name] for name in ("model", "dataset", "rows", "max_samples", "max_tokens", "name")]
