"""The page of a run reads its curves: a reading that fails is tried again."""

from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.browser import story
from tests.browser.conftest import OpenPage
from tests.product import Product
from tests.tiny import write_style_dataset

pytestmark = pytest.mark.slow
STEPS = 4


def test_a_reading_that_failed_is_tried_again(product: Product, open_page: OpenPage, tmp_path: Path) -> None:
    dataset = product.upload(write_style_dataset(tmp_path / "rows.jsonl", rows=40, seed=5), "read again")
    config = {"hyperparams": {"max_steps": STEPS}, "monitoring": {"logging_steps": 1}, "model": {"method": "full"}}
    run_id = product.create_run("read again", dataset["id"], config)["id"]
    product.wait_for_run(run_id)
    watched = open_page("use")
    watched.watch.allow("503")
    page = watched.page
    failed: list[str] = []

    def fail_once(route: Route) -> None:
        if failed:
            route.continue_()
        else:
            failed.append(route.request.url)
            route.fulfill(status=503, json={"detail": "The data base is busy."})

    page.route("**/metrics?*", fail_once)
    page.goto(f"/runs/{run_id}/?axis=tokens")  # what the page doesn't bring with it
    expect(page.locator("#chart-state")).to_contain_text("The data base is busy. Trying again.")
    story.wait_for_points(page, STEPS, 20_000)
    assert len(failed) == 1
    expect(page.locator("#chart-state")).to_be_hidden()
    expect(page.locator('[data-last="loss"]').first).not_to_be_empty()
