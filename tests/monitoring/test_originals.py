"""What GPUs were before the agent changed them: remembered across its death, put back at its end when so asked."""

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitoring.agent import Agent
from monitoring.nvml import NvmlGate
from monitoring.originals import FILE, Originals
from monitoring.processes import boot_id
from tests.fakes.gpus import FakeGpus
from tests.monitoring.factories import COMMANDS, agent_process, call


@pytest.fixture
def other_gate(gpus: FakeGpus) -> Iterator[NvmlGate]:
    """Looks at the cards after the agent has let go of its own gate."""
    gate = NvmlGate()
    yield gate
    gate.close()


def agent_of(home: Path) -> Agent:
    return Agent(home, commands=COMMANDS)


def limit(gate: NvmlGate, uuid: str) -> float | None:
    return gate.power_limits(uuid).current


def test_the_limit_before_the_first_change_is_put_back(gpus: FakeGpus, home: Path, other_gate: NvmlGate) -> None:
    gpus.set(count=2)
    gpus.set_gpu(0, limit=300000)
    agent = agent_of(home)
    for watts in (280.0, 220.0):
        agent.set_power(gpus.uuid(0), watts, restore_at_stop=True)
    agent.set_power(gpus.uuid(1), 220.0)
    agent.shutdown()
    assert (limit(other_gate, gpus.uuid(0)), limit(other_gate, gpus.uuid(1))) == (300.0, 220.0)


def test_the_last_wish_counts_and_so_does_the_first_limit(gpus: FakeGpus, home: Path, other_gate: NvmlGate) -> None:
    agent = agent_of(home)
    agent.set_power(gpus.uuid(0), 280.0, restore_at_stop=False)
    agent.set_power(gpus.uuid(0), 220.0, restore_at_stop=True)
    agent.shutdown()
    assert limit(other_gate, gpus.uuid(0)) == 350.0
    assert not (home / FILE).exists()
    second = agent_of(home)
    second.set_power(gpus.uuid(0), 220.0, restore_at_stop=True)
    second.set_power(gpus.uuid(0), 220.0, restore_at_stop=False)
    second.shutdown()
    assert limit(other_gate, gpus.uuid(0)) == 220.0


def test_persistence_mode_is_put_back(gpus: FakeGpus, home: Path, other_gate: NvmlGate) -> None:
    agent = agent_of(home)
    assert agent.set_persistence(gpus.uuid(0), True, restore_at_stop=True)["enabled"] is True
    assert agent.poll([], 0.0)["reading"]["gpus"][0]["persistence_mode"] is True  # seen at once
    agent.shutdown()
    assert other_gate.persistence_mode(gpus.uuid(0)) is False


def test_an_agent_that_was_killed_is_followed_by_one_that_still_knows(
    nvml_library: Path, home: Path, tmp_path: Path
) -> None:
    gpus = FakeGpus(tmp_path / "nvml.txt")
    environment = {"LD_LIBRARY_PATH": str(nvml_library.parent), "FAKE_NVML": str(gpus.path)}
    with agent_process(home, **environment) as first:
        call(home, "set_power", gpu_uuid=gpus.uuid(0), watts=220.0, restore_at_stop=True)
        call(home, "set_persistence", gpu_uuid=gpus.uuid(0), enabled=True, restore_at_stop=True)
        first.send_signal(signal.SIGKILL)
        first.wait()
    with agent_process(home, **environment) as second:
        gpu = call(home, "poll", cursors=[], wait_seconds=0)["reading"]["gpus"][0]
        assert (gpu["power_limit_watts"], gpu["persistence_mode"]) == (220.0, True)
        call(home, "set_power", gpu_uuid=gpus.uuid(0), watts=280.0, restore_at_stop=True)
        call(home, "shutdown")
        assert second.wait(15) == 0
    lines = gpus.path.read_text().splitlines()
    assert [line for line in lines if line.startswith("0.limit=")][-1] == "0.limit=350000"
    assert [line for line in lines if line.startswith("0.persistence=")][-1] == "0.persistence=0"
    assert not (home / FILE).exists()


def test_what_cannot_be_put_back_is_said_and_left_to_the_next_agent(
    gpus: FakeGpus, home: Path, other_gate: NvmlGate, caplog: pytest.LogCaptureFixture
) -> None:
    agent = agent_of(home)
    agent.set_power(gpus.uuid(0), 220.0, restore_at_stop=True)
    gpus.lose(0)
    agent.shutdown()
    assert f"power_limit_watts of {gpus.uuid(0)} can't be put back to 350.0: GPU 0" in caplog.text
    gpus.lose(0, lost=False)
    agent_of(home).shutdown()
    assert limit(other_gate, gpus.uuid(0)) == 350.0


def test_no_time_is_spent_on_more_cards_than_the_end_has_time_for(
    gpus: FakeGpus, home: Path, gate: NvmlGate, caplog: pytest.LogCaptureFixture
) -> None:
    home.mkdir()
    originals = Originals(home, gate)
    originals.remember(gpus.uuid(0), "power_limit_watts", restore=True)
    gate.set_power_limit(gpus.uuid(0), 220.0)
    moments = iter([0.0, 1000.0])
    originals.restore(lambda: next(moments))
    assert "no time is left" in caplog.text
    assert limit(gate, gpus.uuid(0)) == 220.0
    assert (home / FILE).exists()


def test_the_file_speaks_for_one_boot(gpus: FakeGpus, home: Path, gate: NvmlGate) -> None:
    home.mkdir()
    originals = Originals(home, gate)
    originals.remember(gpus.uuid(0), "power_limit_watts", restore=True)
    kept = json.loads((home / FILE).read_text())
    assert kept == {
        "boot_id": boot_id(),
        "cards": {gpus.uuid(0): {"power_limit_watts": {"value": 350.0, "restore": True}}},
    }
    (home / FILE).write_text(json.dumps({**kept, "boot_id": "before"}))
    gate.set_power_limit(gpus.uuid(0), 220.0)
    Originals(home, gate).restore()
    assert limit(gate, gpus.uuid(0)) == 220.0


@pytest.mark.parametrize("text", ["{", "[]", '{"boot_id": 1}'])
def test_a_damaged_file_is_said_and_counts_for_nothing(
    gpus: FakeGpus, home: Path, gate: NvmlGate, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    home.mkdir()
    (home / FILE).write_text(text)
    Originals(home, gate).restore()
    assert "can't be read" in caplog.text


def test_a_disk_that_takes_no_file_keeps_nobody_from_setting_power(
    gpus: FakeGpus, home: Path, other_gate: NvmlGate, caplog: pytest.LogCaptureFixture
) -> None:
    agent = agent_of(home)
    (home / FILE).mkdir()
    with caplog.at_level(logging.WARNING):
        assert agent.set_power(gpus.uuid(0), 220.0, restore_at_stop=True)["set"]
    assert "can't be written" in caplog.text
    agent.shutdown()
    assert limit(other_gate, gpus.uuid(0)) == 350.0


def test_nothing_is_remembered_of_a_gpu_that_is_not_there(gpus: FakeGpus, home: Path, gate: NvmlGate) -> None:
    home.mkdir()
    Originals(home, gate).remember("GPU-7", "power_limit_watts", restore=True)
    assert not (home / FILE).exists()
