"""What the check of a large dataset costs: `python -m bench.validation [--megabytes 287] [--rows 100000]`.

A bare `json.loads` pass over the file, the level standard, quick and deep, each in a process of its own as the job runs
it. Goals: standard at most 10 times the bare pass and under 400 MB, quick under a second.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import described
from bench.upload import write_rows
from monitoring.events import Artefact, Inputs
from tests.tiny import build_tiny_model
from tests.training.attempts import Attempt, make_attempt

BARE = """
import json, sys, time
began = time.perf_counter()
with open(sys.argv[1], "rb") as stream:
    for line in stream:
        json.loads(line)
print(time.perf_counter() - began)
"""
CHECK = (
    "import re,sys,time; from pathlib import Path; from training.data.job import main; b=time.perf_counter(); "
    "assert main(Path(sys.argv[1])) == 0; took=time.perf_counter()-b; "
    "print(took, re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
)


def timed(code: str, argument: Path) -> list[float]:
    """The figures that a process prints last: seconds, and for a check the kB that it held at most."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(argument)], env=os.environ, capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def attempt_of(folder: Path, model: Path, level: str, rows: int) -> Attempt:
    """A validation at that level."""
    inputs = Inputs(dataset=Artefact("d", str(folder / "dataset")), model=Artefact("tiny", str(model)))
    config = {"level": level, "examples": rows, "filename": "large.jsonl"}
    return make_attempt(folder / level, "validate", config=config, inputs=inputs)


def main() -> None:
    """Writes the file, checks it, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=287)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--levels", default="quick,standard,deep")
    given = parser.parse_args()
    print(described())
    with tempfile.TemporaryDirectory(prefix="validation-") as scratch:
        folder = Path(scratch)
        (folder / "dataset").mkdir()
        source = folder / "dataset" / "source.jsonl"
        write_rows(source, given.megabytes, given.rows)
        model = build_tiny_model(folder / "model")
        bare = min(timed(BARE, source)[0] for _ in range(2))
        print(f"{source.stat().st_size / 1e6:.0f} MB, {given.rows:,} rows: json.loads alone {bare:.2f} s")
        for level in given.levels.split(","):
            attempt = attempt_of(folder, model, level, given.rows)
            began = time.perf_counter()
            seconds, peak = timed(CHECK, attempt.folder / "spec.json")
            started = time.perf_counter() - began - seconds
            inner = attempt.result()["report"].get("seconds")
            note = f", of which the sample {inner:.2f} s" if inner else ""
            print(
                f"{level}: {seconds:.2f} s = {seconds / bare:.1f} times{note}; at most {peak / 1e3:.0f} MB "
                f"(start {started:.1f} s more)"
            )
    print("goals: standard at most 10 times and under 400 MB, quick under a second")


if __name__ == "__main__":
    main()
