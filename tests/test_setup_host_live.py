"""deploy/setup-host under a real systemd: what it installs starts, starts again by itself at boot, and jobs outlive it.

Deselected unless asked for: `bin/test -m systemd`. It takes half a minute, and needs a machine that may have another
inside it (tests/systemd_machine.py says what for); elsewhere it is skipped and says why.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.product import wait_for
from tests.systemd_machine import SystemdMachine, interpreter_folders, why_not

CHECKOUT = Path(__file__).resolve().parent.parent
PYTHON = str(CHECKOUT / ".venv" / "bin" / "python")
HOME = "/var/lib/pilothouse"
UNITS = ("pilothouse-agent.service", "pilothouse-web.service")
SPEC = {
    "spec_version": 1, "job_id": 900, "attempt": 1, "kind": "validate", "verb": "validate", "host": "here",
    "output_dir": "datasets/fifo", "config": {}, "gpus": [], "inputs": {"dataset": {"id": "d", "path": f"{HOME}/fifo"}},
}  # fmt: skip
"""A job that runs until it is told to end: nobody ever writes into the pipe that it reads."""

pytestmark = pytest.mark.systemd


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SystemdMachine]:
    """A machine that has just booted, with this checkout and nothing of Pilothouse installed."""
    if reason := why_not():
        pytest.skip(f"no machine with a systemd of its own can be had here: {reason}")
    with SystemdMachine(tmp_path, [CHECKOUT, *interpreter_folders()]) as made:
        made.boot()
        yield made


def setup_host(machine: SystemdMachine, *options: str) -> str:
    return machine.run(str(CHECKOUT / "deploy" / "setup-host"), *options)


def health(machine: SystemdMachine) -> str:
    """What /api/health says; empty while nobody answers."""
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/api/health', timeout=5).read().decode())"
    said = machine.run(PYTHON, "-c", ask, check=False)
    return str(json.loads(said.strip().splitlines()[-1])["status"]) if '"status"' in said else ""


def as_service(machine: SystemdMachine, program: str) -> Any:
    """What a program that the service's user runs prints, as JSON."""
    command = f'cd {CHECKOUT} && exec runuser -u pilothouse -- {PYTHON} -B -c "$1"'
    return json.loads(machine.run("sh", "-c", command, "sh", program).strip().splitlines()[-1])


def ask_agent(machine: SystemdMachine, call: str, **args: Any) -> Any:
    program = (
        "import json; from pathlib import Path; from monitoring.server import ask; "
        f"print(json.dumps(ask(Path({HOME!r}), {call!r}, json.loads({json.dumps(args)!r}), 20.0)))"
    )
    return as_service(machine, program)


def live(machine: SystemdMachine) -> list[list[int]]:
    found: list[list[int]] = ask_agent(machine, "poll", cursors=[], wait_seconds=0.0)["live"]
    return found


def main_pid(machine: SystemdMachine, unit: str) -> int:
    return int(machine.run("systemctl", "show", "--property", "MainPID", "--value", unit))


def command_of(machine: SystemdMachine, pid: int) -> str:
    return machine.run("cat", f"/proc/{pid}/cmdline", check=False).replace("\0", " ")


def job_pid(machine: SystemdMachine) -> int:
    return int(json.loads(machine.run("cat", f"{HOME}/jobs/900/attempts/1/process.json"))["pid"])


@pytest.mark.timeout(600)
def test_a_host_is_set_up_and_comes_back_after_a_reboot(machine: SystemdMachine) -> None:
    said = setup_host(machine)
    assert re.search(r"^ok +health +http://127.0.0.1:8080/api/health answers, and the services run$", said, re.M), said
    assert health(machine) == "ok"
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend").strip() == ""
    again = setup_host(machine)
    assert "Nothing had to be changed." in again, f"{said}\n{again}"

    machine.run(
        "runuser", "-u", "pilothouse", "--", "sh", "-c", f"mkdir {HOME}/fifo && mkfifo {HOME}/fifo/source.jsonl"
    )
    ask_agent(machine, "launch", spec=SPEC, secrets={})
    assert [900, 1] in live(machine)
    wait_for("the job", lambda: "-m training validate" in command_of(machine, job_pid(machine)))
    before = {unit: main_pid(machine, unit) for unit in UNITS}
    job = job_pid(machine)
    machine.run("systemctl", "restart", *UNITS)
    assert all(main_pid(machine, unit) not in (0, before[unit]) for unit in UNITS)
    wait_for("/api/health after the restart", lambda: health(machine) == "ok")
    assert [900, 1] in live(machine)  # the new agent has adopted it
    assert job_pid(machine) == job and "-m training validate" in command_of(machine, job)

    machine.power_off()
    machine.boot()  # nobody does anything from here on
    wait_for("/api/health after the reboot", lambda: health(machine) == "ok")
    for unit in UNITS:
        assert machine.run("systemctl", "is-active", unit).strip() == "active"
    assert [900, 1] not in live(machine)  # it went with the machine, and isn't taken for another that has its number

    said = setup_host(machine, "--remove")
    assert machine.run("systemctl", "list-unit-files", "pilothouse-*", "--no-legend", check=False).strip() == "", said
    assert machine.run("test", "-d", HOME) == ""
