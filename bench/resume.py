"""What going on from a checkpoint costs: `python -m bench.resume [--pairs 3] [--layers 6] [--hidden 384]`.

Interleaved pairs of real job processes on the same model and data: one begins, one goes on from the checkpoint of a run
that was told to pause. Taken is the time from the start of the process until its first step is told; both load the
model, so the difference is what the resume costs: finding and verifying the checkpoint, loading weights, optimizer and
random numbers, and skipping to the place in the data. Goal: at most 3 s.
"""

import argparse
import shutil
import signal
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.machine import described
from bench.train_overhead import build_model
from monitoring.events import Artefact, Metrics
from tests.training.trainjobs import TrainJob, make_job
from training import checkpoints

GOAL_SECONDS = 3.0
SETTINGS: dict[str, Any] = {
    "hyperparams": {"max_steps": 400, "per_device_train_batch_size": 4},
    "output": {"save_steps": 5, "save_total_limit": 1},
    "data": {"eval_fraction": 0.0},
}


def seconds_to_first_step(job: TrainJob) -> float:
    """Starts the job, waits for the first step that it tells of, and pauses it."""
    started = time.monotonic()
    job.start()
    job.wait_until(lambda job: bool(job.bodies(Metrics)))
    seconds = time.monotonic() - started
    job.tell(signal.SIGTERM)
    job.wait()
    return seconds


def pair(template: TrainJob, first: TrainJob, folder: Path) -> tuple[float, float]:
    """Seconds until the first step of a fresh job, and of one that goes on from a copy of `first`'s checkpoint."""
    fresh = replace(template, root=folder / "fresh")
    resumed = replace(first, root=folder / "resumed", attempt=2)
    for job in (fresh, resumed):
        shutil.copytree(template.root / "dataset", job.root / "dataset")
    shutil.copytree(first.checkpoints, resumed.checkpoints)
    return seconds_to_first_step(fresh), seconds_to_first_step(resumed)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    arguments = parser.parse_args()
    print(described())
    with tempfile.TemporaryDirectory(prefix="bench-resume-") as scratch:
        root = Path(scratch)
        model = build_model(root / "model", arguments.layers, arguments.hidden)
        template = make_job(root / "template", rows=2000, **SETTINGS)
        template.model = Artefact(id="bench", path=str(model), sha256="a" * 64)
        first = replace(template, root=root / "first")
        shutil.copytree(template.root / "dataset", first.root / "dataset")
        first.start()
        first.wait_until(lambda job: max(job.curve("loss"), default=0) >= 5)
        first.tell(signal.SIGTERM)
        first.wait()
        last = checkpoints.latest(first.checkpoints)
        assert last is not None
        megabytes = checkpoints.read_manifest(last).size_bytes / 1e6
        pairs = [pair(template, first, root / f"pair-{number}") for number in range(arguments.pairs)]
    for fresh, resumed in pairs:
        print(f"fresh {fresh:.2f} s, resumed {resumed:.2f} s until the first step")
    cost = statistics.median(resumed - fresh for fresh, resumed in pairs)
    verdict = "met" if cost <= GOAL_SECONDS else "MISSED"
    print(f"resume costs {cost:+.2f} s (median of {len(pairs)}; checkpoint of {megabytes:.0f} MB): {verdict}")


if __name__ == "__main__":
    main()
