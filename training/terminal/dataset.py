"""A file of any supported kind as the dataset of a run in a terminal. Runs in `python -m training train --dataset …`.

It is checked by the same rules as an uploaded one (`training.data.job`), and its rows are kept in the run's folder: a
run that is resumed meets what it began with, whatever has become of the file.
"""

from pathlib import Path
from typing import Any

from monitoring.attempt import JobFaultError
from monitoring.events import EVENTS_FILE, Artefact, EventWriter, Inputs, JobSpec
from monitoring.files import sha256_of
from training.data.job import REPORT_FILE, validate_dataset
from training.data.rows import ROWS_FILE

FAULTS_SHOWN = 10


def make_dataset(source: Path, folder: Path) -> tuple[Artefact, list[str]]:
    """Checks `source` and writes its rows to `folder`; returns the dataset and sentences worth reading.

    A folder that holds `rows.jsonl` is a dataset already and is taken as it is. Raises JobFaultError:
    `dataset_missing`, `dataset_rejected`.
    """
    if source.is_dir():
        return _ready(source), []
    if not source.is_file():
        raise JobFaultError("dataset_missing", f"There is no file {source}.", "Name a dataset file after --dataset.")
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "source.file"
    link.unlink(missing_ok=True)
    link.symlink_to(source.resolve())
    spec = JobSpec(
        job_id=0, attempt=1, kind="validate", verb="validate", host="", output_dir=str(folder),
        inputs=Inputs(dataset=Artefact(id=source.name, path=str(folder))), config={"filename": source.name},
    )  # fmt: skip
    with EventWriter(folder / EVENTS_FILE) as events:
        report = validate_dataset(spec, events)["report"]
    faults = _faults(report, source)
    if report["status"] != "ready":
        said = "\n".join([report["reason"], *faults])
        raise JobFaultError("dataset_rejected", said, "Mend these rows, then start again.")
    told = [f"{report['accepted']:,} rows of {source.name} ({report['source']['format']}, {report['spec']})."]
    if faults:
        told += [f"{report['faulty']:,} faulty rows are left out:", *faults]
    return Artefact(id=source.name, path=str(folder), sha256=sha256_of(source)), told


def _ready(folder: Path) -> Artefact:
    rows = folder / ROWS_FILE
    if not rows.is_file():
        raise JobFaultError(
            "dataset_missing",
            f"There is no {ROWS_FILE} in {folder}.",
            "Name a dataset file, or the folder of a dataset that was checked.",
        )
    return Artefact(id=folder.name, path=str(folder.resolve()), sha256=sha256_of(rows))


def _faults(report: dict[str, Any], source: Path) -> list[str]:
    """The first faults with their place in the file, and how many more there are."""
    shown = [
        f"  {source.name}, {report['place']} {fault['line']}: {fault['message']}"
        for fault in report["faults"][:FAULTS_SHOWN]
    ]
    more = report["faulty"] - len(shown)
    if more > 0:
        shown.append(f"  and {more:,} more: {source.name}'s {REPORT_FILE} has them.")
    return shown
