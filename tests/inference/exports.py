"""Models as GGUF files, and as llama.cpp has them."""

from dataclasses import replace
from pathlib import Path

from inference.engine.llama_library import LlamaLibrary, Shape
from inference.engine.loading import LoadedModel
from monitoring.events import Artefact, EventWriter, Inputs, JobSpec
from monitoring.files import EXPORTS_FOLDER
from training.fetch.gguf_export import export_model


def export(folder: Path, kind: str, base: Path | None = None) -> Path:
    """Exports a model as the job does, in this process; returns the file."""
    inputs = Inputs(model=Artefact("taught", str(folder)), base=Artefact("base", str(base)) if base else None)
    out = folder / EXPORTS_FOLDER
    spec = JobSpec(1, 1, "fetch", "fetch", "here", str(out), inputs=inputs, config={"export": kind})
    with EventWriter(folder.with_name(f"{folder.name}-events.jsonl")) as events:
        result = export_model(spec, events)
    return out / str(result["file"])


def reloaded(loaded: LoadedModel, rows: int, *, cells: int | None = None) -> LoadedModel:
    """The same model once more, for an engine of its own."""
    library = loaded.model
    assert isinstance(library, LlamaLibrary)
    room = cells or rows * loaded.max_model_length
    shape = Shape(room, library.token_bytes, sequences=2 * rows, piece=512)
    return replace(
        loaded,
        model=LlamaLibrary(library.file, shape, on_gpu=False, cache_dtype="float32", threads=1),
    )
