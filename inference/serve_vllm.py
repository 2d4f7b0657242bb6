"""The verb `serve` where vLLM is the engine: starts it, says when it is ready, watches it, drains it, ends it.

Runs in the inference process, as its main thread.
"""

import threading
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from inference.engine.vllm import VllmCommand, VllmServer
from inference.options import AdapterOptions, ServeOptions
from inference.processors import load_processors
from inference.settings import BY_TRANSFORMERS
from inference.startup import open_profile
from inference.stop_signals import StoppedWhileLoadingError, StopSignals
from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter, JobSpec, Phase, Ready
from training import quantization

TEMPLATE_FILE = "chat_template.jinja"
IGNORED = ("device",)


@dataclass(frozen=True)
class Stage:
    """Where an attempt plays: its events, its stop signals, its own folder."""

    events: EventWriter
    signals: StopSignals
    folder: Path


def serve_by_vllm(spec: JobSpec, options: ServeOptions, token: str, stage: Stage) -> dict[str, Any]:
    """Serves until it is told to stop; returns {"requests", "tokens"}, without those that are not known. Raises
    JobFaultError."""
    events, signals = stage.events, stage.signals
    figures: dict[str, int] = {}
    server: VllmServer | None = None
    try:
        _refuse_ignored(options)
        if options.bits:
            quantization.require(f"load_in_{options.bits}bit")
        command = VllmCommand.of(spec, options, _template(options, stage))
        server = VllmServer(command, options, token)
        server.wait_until_ready()
        signals.is_loading = False
        stop = threading.Event()
        signals.on_stop = stop.set
        events.emit(Phase(name="active"))
        events.emit(Ready(port=server.port, runs_with=options.told()))
        if not signals.is_asked:
            server.serve_until(stop.wait)
        events.emit(Phase(name="stopping"))
        server.drain(options.drain_seconds)
        figures = server.figures()
    except StoppedWhileLoadingError:
        events.log("stopped while loading")
    finally:
        if server is not None:
            server.stop()
    return figures


def _refuse_ignored(options: ServeOptions) -> None:
    """What the list of settings doesn't have: vLLM computes on the GPUs that it sees."""
    for name in IGNORED:
        if getattr(options, name) != getattr(ServeOptions, name):
            what = f"The engine {options.engine} does not know the setting {name}."
            raise JobFaultError("bad_setting", what, BY_TRANSFORMERS)


def _template(options: ServeOptions, stage: Stage) -> str:
    """The file of the profiles' chat template, "" where they have none. A profile that does more isn't served half, and
    vLLM has one template for all names."""
    templates: set[str] = set()
    all_served: list[ServeOptions | AdapterOptions] = [options, *options.adapters]
    for served in all_served:
        profile = open_profile(served, stage.events)
        if load_processors(profile.processors) or profile.system_prompt(date.today()):
            raise JobFaultError(
                "profile_unsupported",
                f"vLLM does not do what the profile {profile.name} does beyond its chat template.",
                "Serve the model with the engine transformers.",
            )
        templates.add(profile.chat_template or "")
    if len(templates) > 1:
        raise JobFaultError(
            "profile_unsupported",
            "vLLM writes all prompts by one chat template, and the profiles of model and adapters differ in it.",
            "Serve them with the engine transformers, or each as a model of its own.",
        )
    template = templates.pop()
    if not template:
        return ""
    (stage.folder / TEMPLATE_FILE).write_text(template)
    return str(stage.folder / TEMPLATE_FILE)
