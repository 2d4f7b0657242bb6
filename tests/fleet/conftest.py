"""Fixtures of the fleet's tests."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fleet.cluster import Cluster


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, static_home: Path) -> Iterator[Cluster]:
    """A fleet of two nodes, shared. Under CI=true Ray must be there; elsewhere its tests are skipped without it."""
    if find_spec("ray") is None and os.environ.get("CI") != "true":
        pytest.skip("Ray is not installed: bin/setup --extras ray")
    with Cluster(tmp_path_factory.mktemp("fleet"), tiny_model, static_home) as running:
        yield running
