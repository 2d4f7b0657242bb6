"""A sweep as a person has it: begun by the form, watched while its runs train, its best settings used."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser import story
from tests.browser.conftest import OpenPage
from tests.product import Product
from tests.tiny import write_style_dataset

pytestmark = pytest.mark.slow
SHARED = """{"hyperparams": {"max_steps": 2, "max_length": 64, "per_device_train_batch_size": 4},
             "monitoring": {"sample_steps": 1, "sample_prompts": ["What is the anchor for?", "Where is it?"]}}"""


def test_a_grid_of_two_runs_from_the_form_to_its_best(product: Product, open_page: OpenPage, tmp_path: Path) -> None:
    product.upload(write_style_dataset(tmp_path / "rows.jsonl", rows=30, seed=9), "swept")
    page = open_page("use").page
    page.goto("/runs/sweeps/new")
    page.fill("[name=name]", "rates")
    page.locator("[name=dataset] option", has_text="swept").first.evaluate("option => { option.selected = true }")
    page.select_option("[name=model]", "tiny")
    page.fill("[name=config]", SHARED)
    page.fill("[name=space-values]", "1e-6, 2e-2")
    page.get_by_role("button", name="Add a setting").click()
    rows = page.locator(".space-row")
    expect(rows).to_have_count(2)
    rows.nth(1).get_by_role("button", name="Take this setting out").click()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Add a setting").click()
    rows.nth(1).locator("[name=space-field]").select_option("model.lora_r")
    rows.nth(1).locator("[name=space-values]").fill("4")
    page.select_option("[name=method]", "grid")
    page.fill("[name=max_parallel]", "2")
    page.get_by_role("button", name="Begin the sweep").click()
    page.wait_for_url(re.compile(r"/runs/sweeps/\d+/$"))

    # Nothing is loaded anew from here on: the page is alive.
    expect(page.locator(".page-head")).to_contain_text("done", timeout=240_000)
    table = page.locator("tbody tr")
    expect(table).to_have_count(2)
    best = table.filter(has_text="best")
    expect(best).to_contain_text("0.02")
    page.wait_for_function("() => document.getElementById('chart-run-sweep').data?.at(-1).x.length === 2")
    assert list(story.plotted(page, "chart-run-sweep", 2)) == [1, 2]
    page.get_by_role("button", name="Learning rate", exact=True).click()
    page.wait_for_function("() => document.getElementById('chart-run-sweep').data.length === 2")
    drawn = story.plotted(page, "chart-run-sweep", 1)
    assert sorted(drawn) == pytest.approx([-6, -1.69897])
    assert drawn[max(drawn)] < drawn[min(drawn)]
    assert page.evaluate("document.getElementById('chart-parallel').data.length") == 2

    run_address = str(best.locator("a").get_attribute("href"))
    page.get_by_role("link", name="Use the best settings").click()
    expect(page.locator('[name="hyperparams.learning_rate"]')).to_have_value("0.02")
    expect(page.locator('[name="hyperparams.max_steps"]')).to_have_value("2")

    page.goto(run_address)
    answers = page.locator(".sample-group:not([hidden]) .sample")
    expect(answers).to_have_count(2)
    expect(page.locator("#sample-word")).to_have_text("step 2")
    page.locator("#sample-step").fill("0")
    expect(page.locator("#sample-word")).to_have_text("step 1")
    expect(answers.first).to_contain_text("What is the anchor for?")
