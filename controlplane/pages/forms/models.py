"""The forms that add a model and that say how it is served. Runs in the web process."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.forms import BoundField

from controlplane.models.access import Role
from controlplane.models.language_models import EngineName
from controlplane.pages.forms.base import PageForm, dress
from controlplane.pages.forms.edits import EditForm
from controlplane.pages.forms.runs import SettingField, shown
from controlplane.services.models import STARTER
from inference.settings import Setting, settings
from training.config.fields import FieldInfo

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


ENGINE_WORDS = {EngineName.TRANSFORMERS: "transformers", EngineName.LLAMA_CPP: "llama.cpp", EngineName.VLLM: "vLLM"}


class ServingForm(EditForm):
    """What serves a model with which settings, and when its engine is loaded and unloaded by itself. `kinds`: its
    exports that are there; `options`: the settings that were chosen before.

    The choice of llama_cpp is one for each export: `llama_cpp:Q8_0`.
    """

    engine = forms.ChoiceField(label="Engine", required=False)
    load_on_demand = forms.BooleanField(label="Start an engine when a request names the model", required=False)
    idle_unload_minutes = forms.FloatField(
        label="End its engine after", min_value=0, max_value=10_080, required=False,
        help_text="Minutes without a request. Empty: never. The active one stays.",
        error_messages=dict.fromkeys(("invalid", "min_value", "max_value"), "Give minutes from 0 (never) to 10,080."),
    )  # fmt: skip

    def __init__(self, kinds: list[str], *args: Any, options: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        words = ENGINE_WORDS
        exported = [(f"{EngineName.LLAMA_CPP}:{kind}", f"llama.cpp, from the export {kind}") for kind in kinds]
        others = [(str(name), words[name]) for name in (EngineName.TRANSFORMERS, EngineName.VLLM)]
        self.offer("engine", [others[0], *exported, others[1]])
        for one in settings():
            field = _setting_field(one)
            dress(field.widget)
            self.fields[one.name] = field
            if one.name in (options or {}):
                self.initial[one.name] = shown(field.info, (options or {})[one.name])

    @property
    def essential(self) -> list[BoundField]:
        """The fields that everyone sees."""
        return [field for field in self if not isinstance(field.field, SettingField)]

    @property
    def engine_settings(self) -> list[BoundField]:
        """The fields of the engine's settings, which are folded."""
        return [field for field in self if isinstance(field.field, SettingField)]

    @property
    def is_open(self) -> bool:
        """Whether the fold is open: something in it was chosen, or has a fault."""
        return any(field.name in self.initial or field.errors for field in self.engine_settings)

    def engine_and_gguf(self) -> tuple[str | None, str | None]:
        """What was chosen, in two words; None where nothing was."""
        engine, _, gguf = str(self.cleaned_data["engine"]).partition(":")
        return (engine, gguf) if engine else (None, None)

    def engine_options(self) -> dict[str, Any]:
        """The settings as they were typed; what was left empty has its default."""
        return {one.name: self.cleaned_data[one.name] for one in settings()}


def _setting_field(one: Setting) -> SettingField:
    """A setting as a field: its default stands in it as a placeholder."""
    about = one.about
    unknown = " and ".join(ENGINE_WORDS[EngineName(name)] for name in about.unknown)
    info = FieldInfo(
        section="engine_options", name=one.name, path=f"engine_options.{one.name}", kind=one.kind, default=one.default,
        title=about.title, description=f"{about.description} Not for {unknown}." if unknown else about.description,
        unit=about.unit, choices=one.choices, minimum=about.minimum if about.maximum else None,
        maximum=about.maximum or None,
    )  # fmt: skip
    field = SettingField(info)
    if one.kind in ("integer", "number"):
        field.initial = None
        field.widget.attrs["placeholder"] = shown(info, one.default)
    return field
