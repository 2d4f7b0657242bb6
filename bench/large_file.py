"""What training on a large file holds: `python -m bench.large_file [--megabytes 287] [--rows 100000] [--steps 3]`.

The same run of a few steps on the large file and on its first 200 rows, each in the training process itself
(`bench.measured_run`). Printed: the most memory that was resident until the last step, and the seconds of the whole.
What the large file costs is the difference; its size must not show in it.
"""

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from bench.machine import described
from bench.measured_run import measured
from bench.upload import write_rows
from monitoring.events import Artefact
from tests.tiny import build_tiny_model
from tests.training.trainjobs import TrainJob

FEW_ROWS = 200


def run(folder: Path, model: Path, steps: int) -> tuple[int, float]:
    """Bytes resident at most, and seconds."""
    config: dict[str, dict[str, Any]] = {
        "hyperparams": {"max_steps": steps, "per_device_train_batch_size": 4, "max_length": 512},
        "model": {"method": "full"},
        "monitoring": {"eval_steps": steps, "eval_samples": 8},
        "environment": {"cpu_threads": 1, "nice": 0},
    }
    job = TrainJob(folder, config, Artefact(id="tiny", path=str(model), sha256="a" * 64))
    began = time.perf_counter()
    figures = measured(job)
    return max(figures["loaded"], figures["trained"]), time.perf_counter() - began


def main() -> None:
    """Writes the file, trains on it and on a few of its rows, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=287)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    print(described())
    with tempfile.TemporaryDirectory(prefix="large-file-") as scratch:
        folder = Path(scratch)
        model = build_tiny_model(folder / "model")
        large, few = (folder / name / "dataset" / "rows.jsonl" for name in ("large", "few"))
        for path in (large, few):
            path.parent.mkdir(parents=True)
        write_rows(large, given.megabytes, given.rows)
        with large.open(encoding="utf-8") as source:
            few.write_text("".join(islice(source, FEW_ROWS)), encoding="utf-8")
        small_bytes, small_seconds = run(folder / "few", model, given.steps)
        large_bytes, large_seconds = run(folder / "large", model, given.steps)
    print(f"{FEW_ROWS} rows: at most {small_bytes / 1e6:.0f} MB, {small_seconds:.1f} s")
    print(f"{given.megabytes} MB, {given.rows:,} rows: at most {large_bytes / 1e6:.0f} MB, {large_seconds:.1f} s")
    print(f"the large file costs {(large_bytes - small_bytes) / 1e6:+.0f} MB")


if __name__ == "__main__":
    main()
