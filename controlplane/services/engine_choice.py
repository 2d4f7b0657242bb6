"""Which engine a model is best served by on the hosts that there are, and why. Runs in the web process.

It is a suggestion: what is set on the model decides. Whether an engine is installed is known of this machine alone.
"""

import importlib.util
from dataclasses import dataclass

from controlplane.models import LanguageModel
from controlplane.models.exports import ExportKind
from controlplane.models.language_models import EngineName
from controlplane.services import exports, hosts

SERVED_BY_VLLM = ("", "plain")
"""Profiles that vLLM can serve: those that do nothing to the logits."""


@dataclass(frozen=True)
class Suggestion:
    """An engine, the export for llama_cpp ("" else), and a sentence that says why."""

    engine: str
    gguf: str
    why: str


def suggest(model: LanguageModel) -> Suggestion | None:
    """What to serve a model by; None while no host is there to serve it."""
    online = [host for host in hosts.list_hosts() if host.is_online]
    if not online:
        return None
    if any(hosts.gpus_of(host) for host in online):
        return _on_gpu(model)
    return _on_processor(model)


def _on_gpu(model: LanguageModel) -> Suggestion:
    if model.profile.get("name", "") in SERVED_BY_VLLM and is_installed("vllm"):
        why = "A GPU is here and vLLM is installed: it serves many clients at once fastest."
        return Suggestion(EngineName.VLLM, "", why)
    why = "A GPU is here: transformers serves every model with its profile and adapters there."
    return Suggestion(EngineName.TRANSFORMERS, "", why)


def _on_processor(model: LanguageModel) -> Suggestion:
    ready = exports.ready_kinds(model)
    if not exports.can_export(model):
        why = "There is no GPU here, and this model can't be exported to GGUF: transformers serves it."
        return Suggestion(EngineName.TRANSFORMERS, "", why)
    faster = "llama_cpp is several times faster for one client"
    if ready and is_installed("llama_cpp"):
        why = f"There is no GPU here, and a GGUF export ({ready[0]}) exists: {faster}."
        return Suggestion(EngineName.LLAMA_CPP, ready[0], why)
    steps = [] if ready else [f"export the model to {ExportKind.Q4_K_M}"]
    if not is_installed("llama_cpp"):
        steps.append("install llama_cpp (bin/up --extras llama_cpp)")
    why = f"There is no GPU here: {faster}. For that, {' and '.join(steps)}."
    return Suggestion(EngineName.TRANSFORMERS, "", why)


def is_installed(package: str) -> bool:
    """Whether this machine has the package of an engine; it is not imported."""
    return importlib.util.find_spec(package) is not None
