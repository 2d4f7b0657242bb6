"""Whether an engine has room beside those that run. Runs in the web process.

What the agents saw last decides. What isn't known is no obstacle: the engine itself says when it finds no memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane import gpu_room
from controlplane.models import Deployment, Host, LanguageModel
from controlplane.models.language_models import EngineName
from controlplane.services import exports, hosts
from inference.settings import SettingsError, checked
from training.estimate.memory import INT8_BYTES, NF4_BYTES
from training.estimate.shape import UnknownShapeError, read_shape

SPARE = 1.15
"""What an engine takes for each byte of its weights: caches and activations come on top."""

PROCESS_BYTES = 600_000_000
"""What the process takes by itself: a CUDA context on a card, Python and torch in a host's memory."""

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Room:
    """What an engine needs on a host, what is free there (None: unknown), and what those it replaces give back."""

    host_name: str
    needed_bytes: int
    free_bytes: int | None
    freed_bytes: int

    @property
    def fits(self) -> bool:
        """Whether both can run at once, as far as anybody knows."""
        return self.free_bytes is None or self.needed_bytes <= self.free_bytes

    @property
    def sentence(self) -> str:
        """What doesn't fit, in words; empty where it does."""
        if self.free_bytes is None or self.fits:
            return ""
        text = f"It needs about {_gb(self.needed_bytes)}, and {_gb(self.free_bytes)} are free on {self.host_name}"
        missing = self.needed_bytes - self.free_bytes - self.freed_bytes
        if missing > 0:
            return f"{text}; even when the present engine has ended, {_gb(missing)} are missing."
        return f"{text}: not enough for two engines at once."


def room_for(model: LanguageModel, host: Host | None, replaced: Sequence[Deployment]) -> Room | None:
    """The room on `host`, or where there is most of it; None while no host is there."""
    found = [_room_on(model, one, replaced) for one in ([host] if host else hosts.list_hosts()) if one.is_online]
    return max(found, key=lambda room: room.free_bytes or 0, default=None)


def _room_on(model: LanguageModel, host: Host, replaced: Sequence[Deployment]) -> Room:
    mine = [row for row in replaced if row.host_id == host.pk]
    cards = hosts.gpus_of(host)
    if not cards:
        total, used = host.reading.get("memory_total_bytes"), host.reading.get("memory_used_bytes")
        free = None if total is None or used is None else int(total - used)
        return Room(host.name, needed_bytes(model), free, sum(_held_bytes(row) for row in mine))
    known = {card.uuid: free for card in cards if (free := gpu_room.free_bytes(card)) is not None}
    if len(known) < len(cards):
        return Room(host.name, needed_bytes(model), None, 0)
    jobs = {row.job_id for row in mine}
    held = {
        card.uuid: sum(
            process["memory_used_bytes"] or 0
            for process in card.reading.get("processes") or []
            if process["job_id"] in jobs
        )
        for card in cards
    }
    best = max(known, key=lambda uuid: known[uuid])
    return Room(host.name, needed_bytes(model), known[best], max(held.values(), default=0))


def fitting_bits(model: LanguageModel, room: Room) -> int | None:
    """With how many bits a weight it would have the room that it lacks as it is set; None where with none that its
    engine knows."""
    for bits in (8, 4):
        name = f"load_in_{bits}bit"
        try:
            checked(model.engine, {name: True})
        except SettingsError:
            continue
        if room.free_bytes is not None and needed_bytes(model, {name: True}) <= room.free_bytes:
            return bits
    return None


def needed_bytes(model: LanguageModel, options: Mapping[str, Any] | None = None) -> int:
    """What an engine of the model takes at least: its weights (those of an adapter's base as well) with some to spare,
    or the export that it is served from. By the settings that are set, or with `options` in their place."""
    return _needed_bytes(model, model.engine, model.gguf, model.engine_options if options is None else options)


def _held_bytes(row: Deployment) -> int:
    """What an engine that runs gives back, by what it told of itself: its model may be set otherwise by now."""
    told = row.runs_with
    if not told:
        return needed_bytes(row.model)
    model = row.model
    return _needed_bytes(
        model, told.get("engine", model.engine), told.get("gguf", model.gguf), told.get("chosen", model.engine_options)
    )


def _needed_bytes(model: LanguageModel, engine: str, gguf: str, options: Mapping[str, Any]) -> int:
    if engine == EngineName.LLAMA_CPP and (export := exports.served(model, gguf)) is not None:
        return int((export.size_bytes or 0) * SPARE) + PROCESS_BYTES
    whole, beside = (model.base, model.size_bytes or 0) if model.kind == "adapter" and model.base else (model, 0)
    return int((_weight_bytes(whole, options) + beside) * SPARE) + PROCESS_BYTES


def _weight_bytes(model: LanguageModel, options: Mapping[str, Any]) -> int:
    """The weights of a whole model in an engine with these settings. Those of its layers alone take fewer bits."""
    if not model.parameters:
        return model.size_bytes or 0
    width = DTYPE_BYTES.get(options.get("dtype", "auto"))
    few = NF4_BYTES if options.get("load_in_4bit") else INT8_BYTES if options.get("load_in_8bit") else None
    if few is None:
        return (model.size_bytes or 0) if width is None else model.parameters * width
    try:
        shape = read_shape(model.folder)
    except UnknownShapeError:
        return round(model.parameters * few)
    return round(shape.linear_parameters * few) + shape.embedding_parameters * (width or shape.dtype_bytes)


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
