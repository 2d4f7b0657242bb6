"""Fixtures of the agent's tests: a home, an agent in this process, and simulated GPUs."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitoring.agent import Agent
from monitoring.nvml import NvmlGate
from tests.fakes.gpus import FakeGpus, build_nvml
from tests.monitoring.factories import COMMANDS, kill_all


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of its own for one test."""
    return tmp_path / "home"


@pytest.fixture
def agent(home: Path) -> Iterator[Agent]:
    """An agent in this process; what it has started ends with the test."""
    agent = Agent(home, commands=COMMANDS)
    yield agent
    kill_all(agent)
    agent.shutdown()


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled stand-in for NVIDIA's library."""
    return build_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def gpus(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """Simulated GPUs for gates of this process; without this fixture the stand-in says that it has no driver."""
    ctypes.CDLL(str(nvml_library))  # pynvml's own look-up by name finds a library that is loaded already
    fake = FakeGpus(tmp_path / "nvml.txt")
    monkeypatch.setenv("FAKE_NVML", str(fake.path))
    return fake


@pytest.fixture
def gate() -> Iterator[NvmlGate]:
    """A gate with a short deadline."""
    gate = NvmlGate(deadline_seconds=0.3)
    yield gate
    gate.close(5.0)  # a call that has hung acts on the file of this test, not of the next
