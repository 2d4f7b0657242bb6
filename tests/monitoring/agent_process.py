"""An agent in a process of its own that runs the tests' commands: `python -m tests.monitoring.agent_process HOME`."""

import os
import sys
from pathlib import Path

from monitoring.agent import Agent
from monitoring.server import serve, sole_agent
from tests.monitoring.factories import COMMANDS


def say_ready() -> None:
    """Tells the test, which reads the pipe."""
    os.write(1, b"ready\n")


def main(home: Path) -> None:
    """Serves until it is told to stop; prints `ready` once it listens."""
    with sole_agent(home):
        serve(Agent(home, commands=COMMANDS), say_ready)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
