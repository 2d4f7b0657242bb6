"""The job that the agent's tests run: it does what its spec's config says, and little else.

`points`: metric events to write first. `environment`: print the environment to the log. `children`: start that many
processes that would live on. `deaf_until`: install signal handlers only once that file exists. `until`: go on
until that file exists. `kill_self`: die of that signal. `code`: exit code at the end.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path.cwd()))

from monitoring.events import EVENTS_FILE, EXIT_PAUSED, Checkpoint, EventWriter, Metrics, Result, Started

wishes: list[int] = []


def note(number: int, frame: FrameType | None) -> None:
    """Remembers a signal; the loop acts on it."""
    wishes.append(number)


def wait_for_file(path: str) -> None:
    """Until the file exists or a signal came."""
    while not Path(path).exists() and not wishes:
        time.sleep(0.005)


def main(spec_path: Path) -> int:
    """Runs the job; returns its exit code."""
    config: dict[str, Any] = json.loads(spec_path.read_text())["config"]
    events = EventWriter(spec_path.parent / EVENTS_FILE)
    if "environment" in config:
        json.dump({"environment": dict(os.environ), "cwd": str(Path.cwd()), "nice": os.nice(0)}, sys.stdout)
        sys.stdout.flush()
    for _ in range(config.get("children", 0)):
        subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], close_fds=False)
    events.emit(Started(pid=os.getpid()))
    if "deaf_until" in config:
        wait_for_file(config["deaf_until"])
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, note)
    for step in range(config.get("points", 0)):
        events.emit(Metrics(step=step, values={"loss": 1.0 / (step + 1)}))
    if "kill_self" in config:
        os.kill(os.getpid(), config["kill_self"])
    if "until" in config:
        wait_for_file(config["until"])
    if signal.SIGTERM in wishes:
        events.emit(Checkpoint(step=1, path="checkpoints/step-1", bytes=1))
        return EXIT_PAUSED
    events.emit(Result(values={"stopped": signal.SIGUSR1 in wishes}))
    return int(config.get("code", 0))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
