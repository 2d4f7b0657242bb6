"""The detached agent's log: a file that doesn't grow for ever, with what is printed in it too."""

import subprocess
import sys
from pathlib import Path

from tests.monitoring.factories import CHECKOUT

PROGRAM = """
import logging, sys
from pathlib import Path
from monitoring.agent_log import AgentLog
logging.basicConfig(level="INFO", format="%(message)s", handlers=[AgentLog(Path(sys.argv[1]), 1000)])
for number in range(100):
    logging.info("line %03d %s", number, "x" * 40)
print("printed", flush=True)
sys.stderr.write("said\\n")
"""


def test_a_log_is_cut_and_takes_the_standard_streams_along(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    subprocess.run([sys.executable, "-c", PROGRAM, str(log)], cwd=CHECKOUT, check=True, timeout=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.log", "agent.log.1", "agent.log.2"]
    assert all(path.stat().st_size <= 1100 for path in tmp_path.iterdir())
    lines = log.read_text().splitlines()
    assert lines[-2:] == ["printed", "said"]
    kept = [*(tmp_path / "agent.log.1").read_text().splitlines(), *lines[:-2]]
    assert [line[5:8] for line in kept] == [f"{number:03d}" for number in range(100 - len(kept), 100)]
