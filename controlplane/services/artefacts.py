"""Which files a job's spec names, and under which path its host has them. Runs in the web process.

The control plane's home is the library: it holds everything. A host that reads the same folder, or sees it through a
file system that both share, needs nothing brought. Any other is *apart*: what a job reads is copied into its home, and
what a job makes comes home.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings

from controlplane.fleet.files import home_id, item_at
from controlplane.fleet.protocol import Item
from controlplane.models import Dataset, Host, LanguageModel
from controlplane.models.language_models import EngineName
from monitoring.events import Artefact, Inputs, JobSpec


@dataclass(frozen=True)
class Need:
    """An item that a job reads, and what a person calls it."""

    item: Item
    title: str


def home() -> Path:
    """The library."""
    return Path(settings.HOME)


def is_library(host: Host) -> bool:
    """Whether the host's home is the library itself. An agent that tells no id is one from before there were any."""
    told = host.facts.get("home_id")
    return not told or told == _id_of(home())


@cache
def _id_of(place: Path) -> str:
    """The id of a home; it never changes, and placement asks for it again and again."""
    return home_id(place)


def library_on(host: Host) -> str | None:
    """Under which path the host sees the library, or None: it is apart."""
    if is_library(host):
        return str(home())
    shared = host.shared_files or {}
    here, there = shared.get("here", ""), shared.get("there", "")
    if here and there and home().is_relative_to(here):
        return str(Path(there) / home().relative_to(here))
    return None


def is_apart(host: Host) -> bool:
    """Whether files must be copied to it and from it."""
    return library_on(host) is None


def needs(spec: JobSpec) -> list[Need]:
    """The items that a spec names, each once."""
    found = {item: title for path, title in _read_paths(spec) if (item := _item(path)) is not None}
    return [Need(item, title) for item, title in found.items()]


def for_host(spec: JobSpec, host: Host) -> JobSpec:
    """The same spec with the paths that the host has: those of the library as it sees it, or of its own home."""
    root = library_on(host) or str(host.facts["home"])
    own = str(home())

    def there(path: str) -> str:
        return root + path[len(own) :] if path == own or path.startswith(f"{own}/") else path

    inputs = {name: _moved(getattr(spec.inputs, name), there) for name in ("dataset", "model", "base", "resume_from")}
    return replace(
        spec, inputs=Inputs(**inputs), output_dir=there(spec.output_dir), model_dir=there(spec.model_dir),
        config=_moved_config(spec.config, there),
    )  # fmt: skip


def _moved(artefact: Artefact | None, there: Callable[[str], str]) -> Artefact | None:
    return None if artefact is None else replace(artefact, path=there(artefact.path))


def _moved_config(config: dict[str, Any], there: Callable[[str], str]) -> dict[str, Any]:
    """Of a config, the few places that are paths: an engine's adapters, and where a run writes."""
    moved = dict(config)
    if "adapters" in moved:
        moved["adapters"] = [{**one, "path": there(one["path"])} for one in moved["adapters"]]
    if isinstance(output := moved.get("output"), dict) and "output_dir" in output:
        moved["output"] = {**output, "output_dir": there(output["output_dir"])}
    return moved


def _read_paths(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Every path that the job reads, with a name for it."""
    inputs = spec.inputs
    if inputs.dataset is not None:
        yield inputs.dataset.path, _dataset_title(Path(inputs.dataset.path).name)
        if held := spec.config.get("data", {}).get("eval_dataset"):
            yield str(Path(inputs.dataset.path).parent / held), _dataset_title(held)
    for model in (inputs.model, inputs.base):
        if model is not None:
            yield model.path, model.id
    if inputs.model is not None and spec.config.get("engine") == EngineName.LLAMA_CPP:
        yield f"{inputs.model.path}/gguf", f"{inputs.model.id} as GGUF"
    if inputs.resume_from is not None:
        yield inputs.resume_from.path, "checkpoint {1} of run {0}".format(*inputs.resume_from.id.split("/"))
    for adapter in spec.config.get("adapters", ()):
        yield adapter["path"], adapter["name"]


def _dataset_title(sha256: str) -> str:
    row = Dataset.objects.filter(sha256=sha256).first()
    return str(row) if row is not None else sha256[:12]


def _item(path: str) -> Item | None:
    folder = Path(path)
    if not folder.is_relative_to(home()):
        return None
    place = folder.relative_to(home())
    if len(place.parts) == 3 and (place.parts[0], place.parts[2]) == ("models", "gguf"):
        return Item("exports", place.parts[1])
    return item_at(place.as_posix())


def model_need(model: LanguageModel) -> Need:
    """A model as what travels."""
    return Need(Item("model", str(model.uuid)), model.name)


def results_need(job_id: int, title: str) -> Need:
    """What a job has written that isn't a model: rows of an evaluation, generated shards."""
    return Need(Item("results", str(job_id)), title)


def checkpoint_need(run_id: int, step: int) -> Need:
    """A checkpoint as what travels."""
    return Need(Item("checkpoint", f"{run_id}/{step}"), f"checkpoint {step} of run {run_id}")
