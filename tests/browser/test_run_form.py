"""The form that starts a run, on simulated cards: examples under the profile, whether it fits, what was changed."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.fakes.gpus import FakeGpus
from tests.product import Product, wait_for
from tests.tiny import write_style_dataset

CARD_BYTES, USED_BYTES = 25_757_220_864, 1 << 30
"""What the simulated cards have, and what of it is used where nothing else is said."""

THINKING = "🤔💭🧠💡🎯🔍🤨🧐⚡✨"


@pytest.fixture(scope="module")
def product(simulated_product: Product) -> Product:
    """The one with GPUs."""
    return simulated_product


@pytest.fixture(scope="module")
def dataset(product: Product, tmp_path_factory: pytest.TempPathFactory) -> int:
    """The id of a small dataset."""
    path = write_style_dataset(tmp_path_factory.mktemp("form") / "form.jsonl", rows=30, seed=4)
    return int(product.upload(path, "for the form")["id"])


def set_free(gpus: FakeGpus, free_bytes: float) -> None:
    """So much is free on each card."""
    for index in (0, 1):
        gpus.set_gpu(index, memory_used=CARD_BYTES - round(free_bytes))


@pytest.fixture
def memory(gpus: FakeGpus) -> Iterator[FakeGpus]:
    """The cards, given back as they were."""
    yield gpus
    set_free(gpus, CARD_BYTES - USED_BYTES)


def test_three_examples_are_shown_before_and_after_the_profile(open_page: OpenPage, dataset: int) -> None:
    page = open_page("use").page
    page.goto(f"/runs/new?dataset={dataset}&model=tiny")
    shown = page.locator("#run-preview")
    expect(shown.get_by_text("example 3")).to_be_visible()
    page.select_option("[name=profile]", "emoji_think")
    expect(shown).to_contain_text("emoji_think, version")
    expect(shown.get_by_text("before", exact=True)).to_have_count(3)
    expect(shown.get_by_text("after", exact=True)).to_have_count(3)
    before, after = shown.locator(".conversation").all()[:2]
    expect(before.locator("mark")).to_have_count(0)
    expect(after.locator(".turn.assistant mark").first).to_have_text(re.compile(f"^[{THINKING}]{{2,8}}$"))


def test_whether_it_fits_is_said_as_memory_comes_and_goes(
    product: Product, open_page: OpenPage, dataset: int, memory: FakeGpus
) -> None:
    watched = open_page("use")
    page = watched.page
    with product.client("use") as client:

        def verdict() -> tuple[str, int]:
            asked = client.post("/api/runs/estimate", json={"dataset": dataset, "model": "tiny"})
            found = asked.raise_for_status().json()
            return found["verdict"], found["memory"]["peak"]

        _, peak = verdict()
        page.goto(f"/runs/new?dataset={dataset}&model=tiny")
        for share, word in ((3, "fits"), (1.1, "tight"), (0.5, "does not fit")):
            set_free(memory, share * peak)
            wait_for(f"the verdict {word}", lambda word=word: verdict()[0] == word)  # type: ignore[misc]
            page.fill("[name=name]", f"it {word}")
            expect(page.locator("#run-estimate [data-verdict]")).to_have_text(word)
            expect(page.locator("#run-estimate")).to_contain_text("are free on GPU")
    asked = {line.partition("/runs/new/")[2] for line in watched.watch.requests if line.startswith("POST")}
    assert asked == {"beside", "preview"}, "the plan and the estimate come by one request"


def test_a_run_again_tells_what_is_changed(product: Product, open_page: OpenPage, dataset: int) -> None:
    with product.client("admin") as client:
        client.post("/api/queue/pause", json={}).raise_for_status()  # so that nothing is trained
        run = product.create_run("the first", dataset, {"hyperparams": {"learning_rate": 3e-4}}, role="admin")
        try:
            page = open_page("admin").page
            page.goto(f"/runs/{run['id']}/")
            page.get_by_role("link", name="Run again with changes").click()
            told = page.locator("#run-differences")
            expect(told).to_contain_text(f"Differs from run {run['id']}")
            expect(told).to_contain_text("Nothing.")
            page.fill('[name="hyperparams.learning_rate"]', "1e-4")
            row = told.locator("tr[data-path]")
            expect(row).to_have_count(1)
            expect(row).to_have_attribute("data-path", "hyperparams.learning_rate")
            expect(row.locator("td").nth(1)).to_have_text("0.0003")
            expect(row.locator("td").nth(2)).to_have_text("0.0001")
        finally:
            client.post(f"/api/runs/{run['id']}/stop", json={"mode": "now"}).raise_for_status()
            client.post("/api/queue/resume").raise_for_status()
