"""A model from a folder of this host that an admin has named: checked, then copied. Runs in the `fetch` job."""

from pathlib import Path

from monitoring.attempt import JobFaultError
from training.fetch.copying import copy_files
from training.fetch.inspect import PICKLE_SUFFIXES, refuse_pickles
from training.fetch.layout import wanted_names
from training.fetch.request import Fetched, FetchRequest


def fetch_directory(request: FetchRequest) -> Fetched:
    """Copies the model files of `config.path`. Raises JobFaultError: `no_directory`, `escaping_link`, and faults of
    training.fetch.inspect."""
    folder = Path(request.config.path)
    if not folder.is_absolute() or not folder.is_dir():
        raise JobFaultError(
            "no_directory", f"{folder} is not a folder on this host.", "Give the absolute path of a model's folder."
        )
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    files = {name: _inside(folder, folder / name) for name in wanted_names(names)}
    if not any(name.endswith(".safetensors") for name in files):
        refuse_pickles(folder)
    left_out = sorted(name for name in names if Path(name).suffix.lower() in PICKLE_SUFFIXES)
    if left_out:
        request.events.log(f"Not taken, since they may run code when opened: {', '.join(left_out)}", "warning")
    copy_files(files, request.folder, request.events)
    return Fetched(source={"kind": "directory", "path": str(folder)})


def _inside(folder: Path, file: Path) -> Path:
    """Where a file really lies. Raises JobFaultError `escaping_link` when that is outside of `folder`."""
    real = file.resolve(strict=True)
    if not real.is_relative_to(folder.resolve(strict=True)):
        raise JobFaultError(
            "escaping_link",
            f"{file.name} is a link to a file outside of {folder}.",
            "Copy the folder with its links resolved (cp -rL) and give the copy.",
        )
    return real
