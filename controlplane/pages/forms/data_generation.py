"""The forms that begin a generation of data and end its review. Runs in the web process."""

from collections.abc import Iterable
from typing import Any

from django import forms

from controlplane.models import Dataset, LanguageModel
from controlplane.models.generated import Strategy
from controlplane.pages.forms.base import PageForm
from controlplane.services.data_generation import (
    DEFAULTS,
    LONGEST_DOMAIN,
    MAX_TOKENS,
    NUM_EXAMPLES,
    SEED,
    TEMPERATURE,
    THRESHOLD,
    TOP_P,
)
from controlplane.services.data_generation_dataset import EVAL_FRACTION

STRATEGIES = [
    (Strategy.SELF_INSTRUCT, "self-instruct: new questions in the manner of the seeds, and the model's answers"),
    (Strategy.ANSWER, "answer: the seeds' questions, answered anew by the model"),
    (Strategy.PARAPHRASE, "paraphrase: the seeds' questions in other words, with the seeds' answers"),
    (Strategy.REGIME3, "regime3: exact examples of symbolic reasoning, by rule; needs neither model nor seeds"),
]
PATHS = {
    "model_id": "model", "config.dataset_ref": "seeds", "config.output_dir": "name",
    **{f"config.{name}": name for name in DEFAULTS},
}  # fmt: skip
"""What the service calls a field, and what the form does."""

TYPED = forms.TextInput(attrs={"autocomplete": "off"})


class GenerationForm(PageForm):
    """Who makes how many examples of what."""

    strategy = forms.ChoiceField(
        label="Strategy", choices=STRATEGIES, initial=Strategy.SELF_INSTRUCT, widget=forms.RadioSelect
    )
    model = forms.ChoiceField(label="Model", required=False, help_text="It writes the new text.")
    seeds = forms.ChoiceField(label="Seeds", required=False, help_text="The dataset whose rows it starts from.")
    num_examples = forms.IntegerField(
        label="Examples", initial=DEFAULTS["num_examples"], min_value=NUM_EXAMPLES[0], max_value=NUM_EXAMPLES[1],
        help_text="So many, unless too many are dropped on the way.",
    )  # fmt: skip
    name = forms.CharField(
        label="Name of the dataset", max_length=200, required=False, widget=TYPED,
        help_text="Empty: the seeds' name and the strategy.",
    )  # fmt: skip
    domain = forms.CharField(
        label="Subject", max_length=LONGEST_DOMAIN, required=False, widget=TYPED,
        help_text="What new questions keep to, such as: repairs on a sailing boat.",
    )  # fmt: skip
    temperature = forms.FloatField(
        label="Temperature", initial=DEFAULTS["temperature"], min_value=TEMPERATURE[0], max_value=TEMPERATURE[1]
    )
    top_p = forms.FloatField(label="Top p", initial=DEFAULTS["top_p"], min_value=TOP_P[0], max_value=TOP_P[1])
    max_tokens = forms.IntegerField(
        label="Longest answer", initial=DEFAULTS["max_tokens"], min_value=MAX_TOKENS[0], max_value=MAX_TOKENS[1],
        help_text="Tokens.",
    )  # fmt: skip
    similarity_threshold = forms.FloatField(
        label="Too alike from", initial=DEFAULTS["similarity_threshold"], min_value=THRESHOLD[0],
        max_value=THRESHOLD[1], help_text="0 to 1. A new question at least so alike to a known one is dropped.",
    )  # fmt: skip
    seed = forms.IntegerField(
        label="Random seed", initial=DEFAULTS["seed"], min_value=SEED[0], max_value=SEED[1],
        help_text="The same one draws the same seeds.",
    )  # fmt: skip
    check = forms.BooleanField(label="Keep only what passes the profile's check", initial=True, required=False)
    review = forms.BooleanField(
        label="Review before it is a dataset", initial=True, required=False,
        help_text="Off: all that is made becomes a dataset at once.",
    )  # fmt: skip

    def __init__(self, models: Iterable[LanguageModel], datasets: Iterable[Dataset], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offer("model", [("", "none"), *((row.name, row.name) for row in models)])
        choices = [(str(row.pk), f"{row} · {row.examples:,} examples") for row in datasets]
        self.offer("seeds", [("", "none"), *choices])

    def subject(self) -> list[Any]:
        """The fields of who makes what."""
        return [self[name] for name in ("model", "seeds", "num_examples", "domain", "name")]

    def details(self) -> list[Any]:
        """The fields of how."""
        return [self[name] for name in ("temperature", "top_p", "max_tokens", "similarity_threshold", "seed")]

    def options(self) -> dict[str, Any]:
        """What `data_generation.create` takes as options."""
        return {name: self.cleaned_data[name] for name in DEFAULTS}


class DatasetForm(PageForm):
    """What the dataset of the accepted rows is called."""

    name = forms.CharField(label="Name", max_length=200, widget=TYPED)
    eval_fraction = forms.FloatField(
        label="Held out for evaluation", initial=EVAL_FRACTION, min_value=0, max_value=0.5,
        help_text="The share of rows that is never trained on (0 to 0.5).",
    )  # fmt: skip
