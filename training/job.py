"""The verb `train`: the thin edge between a job's spec and the engine. Runs as one job process.

Torch is imported only after the process has said that it is there, has read its configuration and has found the
checkpoint it goes on from: what is wrong with these is told within a tenth of a second.
"""

import os
import sys
from pathlib import Path
from typing import Any

from monitoring.attempt import JobFaultError, run_attempt
from monitoring.events import CheckpointGone, EventWriter, JobSpec, Phase, Resumed
from training import checkpoints
from training.config.loader import ConfigError, parse_config
from training.config.schema import TrainerConfig
from training.distributed.launch import launch, process_count
from training.packages import require_packages
from training.wishes import Wishes


def main(spec_path: Path, wishes: Wishes | None = None) -> int:
    """Runs the attempt that `spec_path` describes; returns the exit code of the process."""
    wishes = wishes or Wishes()

    def work(spec: JobSpec, events: EventWriter, spec_path: Path) -> dict[str, Any]:
        return train(spec, spec_path, events, wishes)

    with wishes.listening():
        return run_attempt(spec_path, work)


def train(spec: JobSpec, spec_path: Path, events: EventWriter, wishes: Wishes) -> dict[str, Any]:
    """Trains as the spec says; returns the values of the `result` event."""
    config = _config(spec)
    require_packages(config)
    folder = Path(spec.output_dir) / checkpoints.FOLDER
    resume = find_resume(spec, folder, events) if _leads(spec) else _given(spec)
    events.emit(Phase(name="launching"))
    prepare_process(spec, config)
    if (count := process_count(spec, config)) > 1 or spec.meeting:
        return launch(spec_path, resume, count, events=events, wishes=wishes)
    if config.environment.distributed != "none":
        events.log(f"environment.distributed is {config.environment.distributed}, but there is one GPU: one process.")

    from training.engine import TrainerEngine

    return TrainerEngine(spec, events, wishes, resume).run_job(config).to_values()


def _config(spec: JobSpec) -> TrainerConfig:
    try:
        return parse_config(spec.config)
    except ConfigError as error:
        allowed = "; ".join(f"{fault.path}: {fault.allowed}" for fault in error.faults if fault.allowed)
        raise JobFaultError("config_invalid", str(error), f"Allowed: {allowed}.") from error


def find_resume(spec: JobSpec, folder: Path, events: EventWriter) -> Path | None:
    """The checkpoint to go on from, verified; tells of it first of all. None: the run starts at the beginning.

    A named one is taken, or, when it is damaged, the last whole one of the run before it. Without a name a second
    attempt takes the last whole one. Checkpoints beyond it belong to a course that is given up, and are removed, unless
    they are marked as ones that stay. Raises DamagedCheckpointError.
    """
    checkpoints.clear_leftovers(folder)
    named = spec.inputs.resume_from
    if named is None and spec.attempt <= 1:
        return None
    path = _whole(Path(named.path), folder, events) if named is not None else checkpoints.latest(folder)
    step = checkpoints.read_manifest(path).step if path is not None else 0
    events.emit(Resumed(step=step))
    for later in [held for held in checkpoints.steps(folder) if held > step]:
        if checkpoints.release(checkpoints.path_of(folder, later)):
            events.emit(CheckpointGone(step=later))
        else:
            events.log(f"The checkpoint of step {later} is kept, though the run goes on from before it.", "warning")
    return path


def _leads(spec: JobSpec) -> bool:
    """Whether this host's part of the run is the one that writes checkpoints and takes them away."""
    return spec.meeting is None or spec.meeting.number == 0


def _given(spec: JobSpec) -> Path | None:
    """What a host that doesn't lead was given to go on from; its processes ask the first one whether that is it."""
    named = spec.inputs.resume_from
    return Path(named.path) if named is not None and Path(named.path).is_dir() else None


def _whole(named: Path, folder: Path, events: EventWriter) -> Path:
    try:
        checkpoints.verify(named)
        return named
    except checkpoints.DamagedCheckpointError as damage:
        before = checkpoints.latest(folder)
        if before is None:
            raise
        events.log(f"{damage.message} The run goes on from {before.name} instead.", "warning")
        return before


def prepare_process(spec: JobSpec, config: TrainerConfig) -> None:
    """Sets what must be set before torch is imported: GPUs, threads, niceness, and that nothing is fetched."""
    if spec.gpus:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(spec.gpus))
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if config.environment.cpu_threads:
        os.environ["OMP_NUM_THREADS"] = str(config.environment.cpu_threads)
    missing = config.environment.nice - os.nice(0)
    if missing > 0:
        os.nice(missing)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
