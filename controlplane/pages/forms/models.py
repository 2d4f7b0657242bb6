"""The form that adds a model. Runs in the web process."""

from typing import Any

from django import forms

from controlplane.models.access import Role
from controlplane.pages.forms.base import PageForm
from controlplane.services.models import STARTER

SOURCES = {
    "hub": "From the Hugging Face hub",
    "directory": "From a folder on this host",
    "smollm2": "The small starter model (SmolLM2-135M-Instruct)",
}


class ModelForm(PageForm):
    """Where a model comes from and what it is to be called."""

    source = forms.ChoiceField(label="Source", choices=list(SOURCES.items()), initial="hub")
    hub_id = forms.CharField(
        label="Hub id", required=False, max_length=200, help_text="OWNER/NAME, such as Qwen/Qwen3-0.6B.",
        widget=forms.TextInput(attrs={"placeholder": "Qwen/Qwen3-0.6B", "autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip
    revision = forms.CharField(
        label="Revision", required=False, max_length=128, help_text="A branch, tag or commit. Empty: the newest."
    )
    path = forms.CharField(
        label="Folder", required=False, max_length=1000,
        help_text="The absolute path of a folder with config.json, tokenizer and *.safetensors.",
        widget=forms.TextInput(attrs={"placeholder": "/data/models/my-model", "autocomplete": "off"}),
    )  # fmt: skip
    name = forms.CharField(
        label="Id here", required=False, max_length=200, help_text="What it is called in Pilothouse. Empty: as it is."
    )

    def __init__(self, role: Role, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if role < Role.ADMIN:
            self.offer("source", [(key, word) for key, word in SOURCES.items() if key != "directory"])
            self.fields["source"].help_text = "An admin can also register a folder on this host."

    def clean(self) -> dict[str, Any]:
        """Wants what the source needs, and takes a name from it where none was typed."""
        cleaned = super().clean() or {}
        source = cleaned.get("source")
        if source == "hub" and not cleaned.get("hub_id"):
            self.add_error("hub_id", "Give the id of a model on the hub.")
        if source == "directory" and not cleaned.get("path"):
            self.add_error("path", "Give the folder's absolute path.")
        if not cleaned.get("name"):
            folder = str(cleaned.get("path", "")).rstrip("/").rpartition("/")[2]
            cleaned["name"] = {"hub": cleaned.get("hub_id", ""), "directory": folder, "smollm2": STARTER}.get(
                str(source), ""
            )
        return cleaned
