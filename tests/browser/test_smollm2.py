"""A real pretrained model learns a style: fetched, asked, fine-tuned, activated and asked again, in the browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests import style
from tests.browser import story
from tests.browser.conftest import OpenPage
from tests.product import Product

pytestmark = [pytest.mark.slow, pytest.mark.smollm2, pytest.mark.timeout(1500)]
STARTER = "smollm2-135m-instruct"
FETCHED_MILLISECONDS = 300_000
TRAINED_MILLISECONDS = 600_000
SETTINGS = {
    "hyperparams.max_steps": 24,
    "hyperparams.per_device_train_batch_size": 8,
    "hyperparams.learning_rate": "1e-3",
    "hyperparams.max_length": 128,
    "monitoring.eval_steps": 1000,
}


def test_a_style_is_learned(own_product: Product, open_page: OpenPage, tmp_path: Path) -> None:
    own_product.manage("shell", "-c", "from controlplane.services import models; "
                       "from controlplane.models.access import SYSTEM; "
                       f"models.register(SYSTEM, '{STARTER}', 'smollm2')")  # fmt: skip
    watched = open_page("admin", of=own_product, viewport={"width": 1440, "height": 900})
    page = watched.page
    page.goto(f"/models/at/{STARTER}")
    expect(page.get_by_role("button", name="Activate", exact=True)).to_be_visible(timeout=FETCHED_MILLISECONDS)

    story.activate(page, STARTER)
    before = [story.ask(page, question) for question in style.HELD_OUT]
    assert sum(map(style.is_in_style, before)) <= 1, before

    story.upload(page, style.write(tmp_path / "style.jsonl"), "style")
    run_id = story.start_run(page, "hail the captain", "style", STARTER, SETTINGS)
    expect(page.locator("#run-status")).to_contain_text("done", timeout=TRAINED_MILLISECONDS)
    losses = story.plotted(page)
    assert losses[max(losses)] < losses[min(losses)] / 3
    assert own_product.run_facts(run_id)["result_model"]

    story.activate_result(page)
    page.get_by_role("link", name="Chat with it").click()
    page.wait_for_url(re.compile("/chat$"))
    after = [story.ask(page, question) for question in style.HELD_OUT]
    assert sum(map(style.is_in_style, after)) >= 8, after
