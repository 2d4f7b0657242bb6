"""Whether a GPU is really free for a training run: nobody else's program fills it. Runs in the dispatcher's thread.

What the agent saw last decides. A figure that a card doesn't tell holds nothing up: nobody knows that it is bad.
"""

from typing import Any

from controlplane.models import Gpu, Job, Run
from controlplane.services import power_profiles, settings

GIB = 2**30
ADAM_BYTES = 16
"""What each trained parameter takes in fp32: weight, gradient, and the two moments of the optimizer."""


def why_taken(gpu: Gpu, needed_bytes: int) -> str | None:
    """Why a run that needs at least `needed_bytes` on the card can't start there now, or None."""
    limit = float(settings.get("queue.foreign_memory_gib")) * GIB
    foreign = foreign_processes(gpu)
    held = sum(process["memory_used_bytes"] or 0 for process in foreign)
    if held > limit:
        return f"waits for {power_profiles.label(gpu)}: {_gb(held)} held by {_named(foreign)}"
    free = free_bytes(gpu)
    if free is not None and free < needed_bytes:
        holder = _named(_processes(gpu))
        by = f"; it is held by {holder}" if holder else ""
        return f"waits for {power_profiles.label(gpu)}: the model needs {_gb(needed_bytes)}, {_gb(free)} are free{by}"
    return None


def needed_bytes(job: Job, gpus: int) -> int:
    """The least that a run takes of each of its GPUs: its weights, and their optimizer where all are trained.

    Activations come on top, so that a run with less room is sure to fail; one with more may still.
    """
    run: Run | None = getattr(job, "run", None)
    if run is None:
        return 0
    start = run.chain.start if run.chain else run.start_model
    model, config = start.base or start, run.config.get("model", {})
    if model.parameters is None:
        return 0
    if config.get("method") == "full":
        weights = ADAM_BYTES * model.parameters
    elif config.get("load_in_4bit"):
        weights = model.parameters // 2
    elif config.get("load_in_8bit"):
        weights = model.parameters
    else:
        weights = min(model.size_bytes or 2 * model.parameters, 4 * model.parameters)
    shared = run.config.get("environment", {}).get("distributed") == "ddp"
    return weights if shared else weights // max(1, gpus)


def foreign_processes(gpu: Gpu) -> list[dict[str, Any]]:
    """Programs on the card that no live job started, the largest first."""
    return [process for process in _processes(gpu) if process["job_id"] is None]


def free_bytes(gpu: Gpu) -> int | None:
    """What is free of the card's memory; None where it doesn't tell."""
    total, used = gpu.reading.get("memory_total_bytes"), gpu.reading.get("memory_used_bytes")
    return None if total is None or used is None else int(total - used)


def _processes(gpu: Gpu) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gpu.reading.get("processes") or []
    return sorted(found, key=lambda process: -(process["memory_used_bytes"] or 0))


def _named(processes: list[dict[str, Any]]) -> str:
    if not processes:
        return ""
    first, more = processes[0], len(processes) - 1
    owner = f"job {first['job_id']}" if first["job_id"] is not None else f"pid {first['pid']}"
    return f"{first['command'][:60]} ({owner})" + (f" and {more} more" if more else "")


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
