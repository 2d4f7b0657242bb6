"""Fixtures of the control plane's tests."""

from pathlib import Path

import pytest
from pytest_django import Settings


@pytest.fixture
def home(tmp_path: Path, settings: Settings) -> Path:
    """A home folder of the test's own."""
    folder = tmp_path / "home"
    for name in ("tmp", "logs"):
        (folder / name).mkdir(parents=True)
    settings.HOME = folder
    return folder
