"""Power buttons on a host with (simulated) GPUs: what is shown is what was read back, or who refused and the fix."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.fakes.gpus import FAKES, FakeGpus, build_nvml
from tests.product import Product, wait_for


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> FakeGpus:
    """Two cards that call themselves simulated."""
    fake = FakeGpus(tmp_path_factory.mktemp("gpus") / "gpus.txt")
    fake.set(count=2)
    return fake


@pytest.fixture(scope="module")
def product(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, static_home: Path, gpus: FakeGpus
) -> Iterator[Product]:
    """A product whose agent finds the stand-in for NVML; sudo and nvidia-smi are stand-ins too."""
    folder = tmp_path_factory.mktemp("power")
    running = Product(folder, tiny_model, static_home)
    library = build_nvml(folder)
    running.environment |= {
        "LD_LIBRARY_PATH": str(library.parent),
        "FAKE_NVML": str(gpus.path),
        "PATH": f"{FAKES}{os.pathsep}{os.environ['PATH']}",
    }
    with running:
        with running.client("read") as client:
            wait_for("the GPUs", lambda: len(client.get("/api/gpu").json()["gpus"]) == 2)
        yield running


def test_a_button_sets_the_limit_and_shows_what_was_read_back(product: Product, open_page: OpenPage) -> None:
    page = open_page("admin").page
    page.goto("/")
    card = page.get_by_label("GPU 0, Simulated RTX 3090")
    card.get_by_role("button", name=re.compile("Quiet")).click()
    expect(card.get_by_role("status")).to_contain_text("set and read back")
    expect(card.get_by_role("button", name=re.compile("Quiet"))).to_have_attribute("aria-pressed", "true")
    expect(card.locator('[data-figure="power_limit_watts"]')).to_have_text("220")
    with product.client("read") as client:
        shown = client.get("/api/settings/power_profile").json()["gpus"]
    assert (shown[0]["power_limit_w"], shown[0]["profile"]) == (220.0, "quiet")


@pytest.fixture
def refusing(gpus: FakeGpus) -> Iterator[None]:
    """The driver wants root, and so does sudo a password."""
    gpus.set(refuse="permission")
    yield
    gpus.set(refuse="nothing")


@pytest.mark.usefixtures("refusing")
def test_a_refusal_names_who_refused_and_the_fix(product: Product, open_page: OpenPage) -> None:
    page = open_page("admin").page
    page.goto("/")
    card = page.get_by_label("GPU 1, Simulated RTX 3090")
    card.get_by_role("button", name=re.compile("Normal")).click()
    expect(card.get_by_role("status")).to_contain_text("refused")
    expect(card).to_contain_text("What mends it")
    expect(card).to_contain_text("sudoers")
    with product.client("admin") as client:
        answer = client.post("/api/settings/power_profile?profile=normal")
    assert answer.status_code == 207
    assert [row["set"] for row in answer.json()["gpus"]] == [False, False]


def test_who_may_not_set_power_sees_why(product: Product, open_page: OpenPage) -> None:
    page = open_page("use").page
    page.goto("/")
    button = page.get_by_label("GPU 0, Simulated RTX 3090").get_by_role("button", name=re.compile("Max"))
    expect(button).to_be_disabled()
    expect(button).to_have_attribute("title", re.compile("needs the role admin"))
    with product.client("use") as client:
        assert client.post("/api/settings/power_profile?profile=max").status_code == 403
