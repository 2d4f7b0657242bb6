"""Fixtures that every test may use."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product import CHECKOUT, Product
from tests.tiny import build_tiny_model


def pytest_configure() -> None:
    """SIGTERM ends the tests as Ctrl-C does: with every fixture's clean-up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


ASKED_FOR_BY_MARK = ("systemd", "peer", "fleet")
SLOWEST_FIRST = ("smollm2", "browser", "slow")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what has to be asked for by its mark; where tests are shared out, the slowest files begin first."""
    unasked = [mark for mark in ASKED_FOR_BY_MARK if mark not in config.option.markexpr]
    unasked += ["sqlite"] * (os.environ.get("PILOTHOUSE_TEST_POSTGRES") == "yes")
    left_out = [item for item in items if any(item.get_closest_marker(mark) for mark in unasked)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    if not hasattr(config, "workerinput"):
        return

    def urgency(item: pytest.Item) -> int:
        marks = {mark.name for mark in item.iter_markers()}
        return next((rank for rank, name in enumerate(SLOWEST_FIRST) if name in marks), len(SLOWEST_FIRST))

    first: dict[Path, int] = {}
    for item in items:
        first[item.path] = min(first.get(item.path, len(SLOWEST_FIRST)), urgency(item))
    items.sort(key=lambda item: first[item.path])


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen3's folder; not to be changed."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


COLLECT = """
import django, pathlib, sys
django.setup()
from controlplane.collecting import collect_if_changed
collect_if_changed(pathlib.Path(sys.argv[1]))
"""


@pytest.fixture(scope="session")
def static_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with nothing but collected static files."""
    home = tmp_path_factory.mktemp("static")
    environment = {**os.environ, "PILOTHOUSE_HOME": str(home), "DJANGO_SETTINGS_MODULE": "controlplane.settings"}
    subprocess.run([sys.executable, "-c", COLLECT, str(home)], cwd=CHECKOUT, env=environment, check=True, timeout=180)
    return home


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, static_home: Path) -> Iterator[Product]:
    """The running product, shared: give what you create names of its own, and kill nothing."""
    with Product(tmp_path_factory.mktemp("product"), tiny_model, static_home) as running:
        yield running


@pytest.fixture
def own_product(tmp_path: Path, tiny_model: Path, static_home: Path) -> Iterator[Product]:
    """A running product of the test's own: kill what you like."""
    with Product(tmp_path, tiny_model, static_home) as running:
        yield running
