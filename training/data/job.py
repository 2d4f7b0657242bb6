"""The verb `validate`: checks a dataset and writes `rows.jsonl`, `report.json` and `lineage.json` beside it.

That is the level `standard`. `quick` looks at a sample of rows, `deep` at what only the whole shows; neither writes.
Runs as one job process without torch and transformers. The files appear whole or not at all; a rejected dataset has
no rows.
"""

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from monitoring.attempt import JobFaultError, run_attempt
from monitoring.events import Artefact, EventWriter, JobSpec, Phase
from monitoring.files import replacing, write_json
from training.data.records import UnreadableSourceError
from training.data.rows import ROWS_FILE
from training.data.sampling import quick_report
from training.data.sources import UNPACKED_PREFIX, opened, recognise
from training.data.statistics import TokenStatistics, rows_to_count, token_statistics
from training.data.tokens import NoTokenizerError, TokenCounter
from training.data.unpacking import Limits
from training.data.validation import Findings, choose_spec, validate
from training.interruption import interruptible
from training.pacing import PacedProgress
from training.profiles.base import BrokenProfileError, Profile, UnknownProfileError, load_profile

REPORT_FILE = "report.json"
LINEAGE_FILE = "lineage.json"


@dataclass(frozen=True)
class ValidationConfig:
    """The job's `config`: the fraction of faulty rows that rejects a dataset, how many rows are tokenized, to how many
    bytes a packed file may unpack, and how its owner calls it; `examples` and below are for the level deep."""

    max_fault_fraction: float = 0.01
    full_token_rows: int = 20_000
    token_sample_rows: int = 5_000
    max_unpacked_bytes: int = 64 << 30
    filename: str = ""
    lineage: dict[str, Any] = field(default_factory=dict)
    level: str = "standard"
    examples: int = 0
    eval_fraction: float = 0.05
    eval_folder: str = ""
    profile: str = ""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises JobFaultError `bad_config` for a figure that can't be."""
        known = {field.name for field in fields(cls)}
        config = cls(**{key: item for key, item in value.items() if key in known})
        if not 0 <= config.max_fault_fraction <= 1 or config.full_token_rows < 0 or config.token_sample_rows < 1:
            raise JobFaultError(
                "bad_config", f"The validation settings {value} are out of range.", "Set a fraction between 0 and 1."
            )
        return config


class _RejectedError(Exception):
    """Keeps the rows of a rejected dataset from being published."""


def main(spec_path: Path) -> int:
    """Runs the attempt that `spec_path` describes; returns the exit code of the process."""
    return run_attempt(spec_path, _work)


def _work(spec: JobSpec, events: EventWriter, spec_path: Path) -> dict[str, Any]:
    with interruptible():
        events.emit(Phase(name="active"))
        return validate_dataset(spec, events)


def validate_dataset(spec: JobSpec, events: EventWriter) -> dict[str, Any]:
    """Validates `spec.inputs.dataset` at the level that is asked for; returns the values of the `result` event."""
    config = ValidationConfig.from_json(spec.config)
    if spec.inputs.dataset is None:
        raise JobFaultError("no_dataset", "The job names no dataset.", "Start the validation from the dataset's page.")
    folder = Path(spec.inputs.dataset.path)
    source = _source_of(folder)
    if config.level == "quick":
        return _quick(source, config, events)
    if config.level == "deep":
        return _deep(folder, config, events)
    _clear_leftovers(folder)

    findings, reason, format_name = _check_rows(source, config, events)
    tokens, tokens_reason = None, "The dataset was rejected, so its tokens were not counted."
    if reason is None:
        tokens, tokens_reason = _count_tokens(folder, findings, spec.inputs.model, config, events)
    report = {
        **findings.to_report(),
        "tokens": tokens,
        "tokens_reason": tokens_reason,
        "status": "ready" if reason is None else "rejected",
        "reason": reason or "",
        "source": {"name": config.filename or source.name, "bytes": source.stat().st_size, "format": format_name},
    }
    write_json(folder / REPORT_FILE, report)
    write_json(folder / LINEAGE_FILE, _lineage(config, findings, format_name))
    _tell(findings, reason, events)
    return {
        "level": "standard",
        "status": report["status"],
        "accepted": findings.accepted,
        "faulty": findings.faulty,
        "examples": findings.accepted,
        "report": report,
        "reason": report["reason"],
    }


def _lineage(config: ValidationConfig, findings: Findings, format_name: str | None) -> dict[str, Any]:
    """Where the dataset comes from, as its owner says, and what was made of it here."""
    return {
        **config.lineage, "format": format_name, "spec": findings.spec, "rows_accepted": findings.accepted,
        "rows_rejected": findings.faulty, "validated_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _quick(path: Path, config: ValidationConfig, events: EventWriter) -> dict[str, Any]:
    """Looks at a sample of the file; writes nothing."""
    name, limits = config.filename or path.name, Limits(config.max_unpacked_bytes)
    try:
        report = quick_report(recognise(path, name, limits), limits, config.max_fault_fraction)
    except UnreadableSourceError as error:
        report = {"passed": False, "reason": str(error)}
    events.log(
        f"{report['rows']} rows looked at." if report["passed"] else f"Not passed: {report['reason']}",
        "info" if report["passed"] else "error",
    )
    return {"level": "quick", "report": report}


def _deep(folder: Path, config: ValidationConfig, events: EventWriter) -> dict[str, Any]:
    """Looks for what makes a model seem better than it is, in the accepted rows."""
    from training.data.deep import deep_report  # datasketch and scipy take 50 MB and a second, for this level alone

    rows = folder / ROWS_FILE
    eval_rows = Path(config.eval_folder) / ROWS_FILE if config.eval_folder else None
    for path in (rows, *([eval_rows] if eval_rows else [])):
        if not path.is_file():
            raise JobFaultError("no_rows", f"There is no {path}.", "Validate that dataset at the level standard first.")
    progress = PacedProgress(events, "rows", config.examples)
    report = deep_report(
        rows, config.examples, eval_fraction=config.eval_fraction, eval_rows=eval_rows, profile=_profile(config),
        on_rows=lambda done: progress.update(done, "Looking for leaks and doubles"),
    )  # fmt: skip
    progress.finish(config.examples, "Looked for leaks and doubles")
    return {"level": "deep", "report": report}


def _profile(config: ValidationConfig) -> Profile | None:
    try:
        return load_profile(config.profile) if config.profile else None
    except (UnknownProfileError, BrokenProfileError) as error:
        raise JobFaultError("bad_profile", str(error), "Choose another profile.") from error


def _source_of(folder: Path) -> Path:
    """The one `source.*` of a dataset folder."""
    sources = sorted(folder.glob("source.*"))
    if len(sources) != 1:
        raise JobFaultError(
            "no_source",
            f"{folder} holds {len(sources)} files named source.*, where there must be one.",
            "Upload the dataset again.",
        )
    return sources[0]


def _clear_leftovers(folder: Path) -> None:
    """Removes what an attempt that was killed has left: it may be as large as the dataset."""
    for prefix in (f".{ROWS_FILE}.", f".{REPORT_FILE}.", f".{LINEAGE_FILE}.", UNPACKED_PREFIX):
        for leftover in folder.glob(f"{prefix}*"):
            leftover.unlink()


def _check_rows(path: Path, config: ValidationConfig, events: EventWriter) -> tuple[Findings, str | None, str | None]:
    """Writes `rows.jsonl` where the dataset can be used; returns what was found, why it can't be used, its format."""
    rows, name, size = path.with_name(ROWS_FILE), config.filename or path.name, path.stat().st_size
    limits = Limits(config.max_unpacked_bytes)
    progress = PacedProgress(events, "bytes", size)
    findings, format_name = Findings(), None
    try:
        source = recognise(path, name, limits)
        format_name = source.format_name
        with opened(source, limits) as reader:
            spec = choose_spec(reader)
        with replacing(rows) as stream, opened(source, limits) as reader:
            findings = validate(reader, spec, stream, lambda done: progress.update(done, "Checking rows"), limits)
            progress.finish(size, "Checked rows")
            if (reason := findings.rejection(name, config.max_fault_fraction)) is not None:
                raise _RejectedError(reason)
    except (UnreadableSourceError, _RejectedError) as error:
        rows.unlink(missing_ok=True)  # of an earlier validation by other settings
        return findings, str(error), format_name
    return findings, None, format_name


def _count_tokens(
    folder: Path, findings: Findings, model: Artefact | None, config: ValidationConfig, events: EventWriter
) -> tuple[TokenStatistics | None, str]:
    """The token statistics, or None and a sentence that says why there are none."""
    if model is None:
        return None, "No model was named, so there is no tokenizer to count with."
    try:
        counter = TokenCounter(Path(model.path))
    except NoTokenizerError as error:
        events.log(f"No token statistics: {error}", "warning")
        return None, str(error)
    chosen = rows_to_count(
        findings.accepted, findings.characters, full_rows=config.full_token_rows, sample_rows=config.token_sample_rows
    )
    progress = PacedProgress(events, "rows", chosen)
    statistics = token_statistics(
        folder / ROWS_FILE,
        findings.accepted,
        chosen,
        counter,
        model=model.id,
        on_rows=lambda done: progress.update(done, "Counting tokens"),
    )
    progress.finish(chosen, "Counted tokens")
    return statistics, ""


def _tell(findings: Findings, reason: str | None, events: EventWriter) -> None:
    if reason is not None:
        events.log(f"Rejected: {reason}", "error")
    elif findings.faulty:
        events.log(
            f"{findings.accepted} rows accepted; {findings.faulty} faulty rows skipped (the report has their lines).",
            "warning",
        )
    else:
        events.log(f"{findings.accepted} rows accepted.")
