"""The process that benchmarks measure: a run as `python -m training train SPEC` makes it, and what it held.

Prints one JSON line: `baseline` (bytes resident with everything imported), `trained` (the most until the last step),
`whole` (the most until the end, publishing included); on a GPU what its allocator held at most.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.training.trainjobs import TrainJob

CHECKOUT = Path(__file__).resolve().parent.parent


def measured(job: "TrainJob") -> dict[str, int]:
    """Runs the job in such a process, on one thread; returns its figures. Ends the benchmark where the run fails."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.measured_run", str(job.write_spec())], cwd=CHECKOUT, capture_output=True,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"The run in {job.root} failed.\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures


def resident(name: str) -> int:
    """A figure of /proc/self/status in bytes: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def main(spec_path: Path) -> int:
    """Runs the job; the figures go to stdout as its last line."""
    import torch
    from transformers import TrainerCallback

    from training import engine
    from training.job import main as train

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Reads the peak at each step's end."""

        def __init__(self) -> None:
            self.trained = 0
            self.began = 0

        def on_train_begin(self, *_arguments: Any, **_more: Any) -> None:
            # What loading took is told apart: the kernel's mark is set back.
            self.loaded = resident("VmHWM")
            Path("/proc/self/clear_refs").write_text("5")
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()

        def on_step_end(self, *_arguments: Any, **_more: Any) -> None:
            self.trained = resident("VmHWM")
            if torch.cuda.is_available():
                self.trained = torch.cuda.max_memory_allocated()

    watch = Watch()
    baseline = resident("VmRSS")
    plugins: Any = engine
    plain = plugins.load_callbacks
    plugins.load_callbacks = lambda: [*plain(), watch]
    code = train(spec_path)
    figures = {"baseline": baseline, "loaded": watch.loaded, "trained": watch.trained, "whole": resident("VmHWM")}
    sys.stdout.write("\n" + json.dumps(figures) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
