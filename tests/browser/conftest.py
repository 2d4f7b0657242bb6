"""Fixtures of the browser tests. Each test here is marked `browser`, and skipped where no browser is (never in CI)."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.server import WatchedPage, chromium_path, launched, opened
from tests.fakes.gpus import FAKES, FakeGpus, build_nvml
from tests.product import Product, wait_for

OpenPage = Callable[..., WatchedPage]
SHOWN_WITHIN_SECONDS = 45
"""What duties do every five seconds is shown after two of them and a poll; a busy machine takes its time, too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what lies in this folder."""
    for item in items:
        if "tests/browser/" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for one module: Playwright's loop, while it runs, keeps Django's ORM out of this thread."""
    path = chromium_path()
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium or Chrome was found, and CI needs one")
        pytest.skip("no Chromium or Chrome was found: install one, or name it in PILOTHOUSE_CHROMIUM")
    expect.set_options(timeout=1000 * SHOWN_WITHIN_SECONDS)
    with sync_playwright() as playwright, launched(playwright, path) as running:
        yield running


@pytest.fixture(scope="session")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> FakeGpus:
    """Two cards that call themselves simulated."""
    fake = FakeGpus(tmp_path_factory.mktemp("gpus") / "gpus.txt")
    fake.set(count=2)
    return fake


@contextmanager
def on_simulated_gpus(running: Product, gpus: FakeGpus, *, count: int) -> Iterator[Product]:
    """Runs a product whose agent finds the stand-in for NVML, once it shows `count` cards.

    sudo and nvidia-smi are stand-ins too.
    """
    library = build_nvml(gpus.path.parent)
    running.environment |= {
        "LD_LIBRARY_PATH": str(library.parent),
        "FAKE_NVML": str(gpus.path),
        "PATH": f"{FAKES}{os.pathsep}{os.environ['PATH']}",
    }
    with running:
        with running.client("read") as client:
            wait_for("the GPUs", lambda: len(client.get("/api/gpu").json()["gpus"]) == count)
        yield running


@pytest.fixture(scope="session")
def simulated_product(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, static_home: Path, gpus: FakeGpus
) -> Iterator[Product]:
    """A product on simulated GPUs, shared. Leave the cards without faults and with both there."""
    product = Product(tmp_path_factory.mktemp("simulated"), tiny_model, static_home)
    with on_simulated_gpus(product, gpus, count=2) as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, product: Product) -> Iterator[OpenPage]:
    """Opens pages: `open_page("use", viewport={...})`, also of another product: `open_page(of=own_product)`.

    A test that takes both names `own_product` first, so that pages are closed before their product is.
    """
    with ExitStack() as stack:

        def open_one(role: str | None = "admin", *, of: Product | None = None, **options: Any) -> WatchedPage:
            return stack.enter_context(opened(browser, of or product, role, **options))

        yield open_one


@pytest.fixture
def admin_page(open_page: OpenPage) -> WatchedPage:
    """A page of an admin's."""
    return open_page("admin")


@pytest.fixture
def use_page(open_page: OpenPage) -> WatchedPage:
    """A page of somebody's who may use the product."""
    return open_page("use")


@pytest.fixture
def anonymous_page(open_page: OpenPage) -> WatchedPage:
    """A page of nobody's."""
    return open_page(None)
