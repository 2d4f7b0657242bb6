"""The main job without a mouse: upload, start a run, watch it, activate what it made, chat. Keys alone."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import story
from tests.browser.conftest import OpenPage
from tests.product import Product
from tests.tiny import write_style_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 6
MOST_STOPS = 250
COUNT_POINTERS = """
window.pointed = 0;
const count = () => { window.pointed += 1; };
for (const name of ["mousedown", "pointerdown", "touchstart"]) addEventListener(name, count, true);
"""
HAS_FOCUS = "element => element === document.activeElement"


def reach(page: Page, target: Locator) -> None:
    """Presses Tab until the target has the focus."""
    for _ in range(MOST_STOPS):
        if target.evaluate(HAS_FOCUS):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{MOST_STOPS} times Tab didn't lead to {target}")


def write(page: Page, field: str, text: str) -> None:
    """Replaces what stands in a field."""
    reach(page, page.locator(field))
    page.keyboard.press("Control+a")
    page.keyboard.type(text)


def press(page: Page, target: Locator) -> None:
    """Enter on a button or a link."""
    reach(page, target)
    page.keyboard.press("Enter")


def test_the_main_job_by_keys_alone(product: Product, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page("admin").page
    page.add_init_script(COUNT_POINTERS)
    page.goto("/datasets/")
    page.keyboard.press("n")
    page.wait_for_url("**/datasets/upload")
    path = write_style_dataset(tmp_path / "by-keys.jsonl", rows=40, seed=51)
    page.set_input_files("#file", path)  # the system's own dialog
    write(page, "#name", "by keys")
    press(page, page.locator("#start"))
    page.wait_for_url(re.compile(r"/datasets/\d+/$"))
    expect(page.locator(".page-head")).to_contain_text("ready", timeout=story.VALIDATED_MILLISECONDS)

    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/runs/")
    page.keyboard.press("n")
    page.wait_for_url("**/runs/new")
    write(page, "[name=name]", "run by keys")
    reach(page, page.locator("[name=dataset]"))
    page.keyboard.type("by keys")
    reach(page, page.locator("[name=model]"))
    page.keyboard.type("tiny")
    steps = page.locator('[name="hyperparams.max_steps"]')
    fold = page.locator("details.fold", has=steps)
    if fold.count() and fold.get_attribute("open") is None:
        press(page, fold.locator("summary"))
    write(page, '[name="hyperparams.max_steps"]', str(STEPS))
    press(page, page.locator(".form-foot button"))
    page.wait_for_url(re.compile(r"/runs/\d+/$"))
    expect(page.locator("#run-status")).to_contain_text("done", timeout=120_000)
    story.wait_for_points(page, STEPS)

    press(page, page.locator("#result").get_by_role("button", name="Activate"))
    chat = page.locator("#result").get_by_role("link", name="Chat with it")
    expect(chat).to_be_visible(timeout=story.ACTIVATED_MILLISECONDS)
    press(page, chat)
    page.wait_for_url(re.compile("/chat$"))
    expect(page.locator("#chat-text")).to_be_enabled()
    write(page, "#chat-text", "What is the anchor for?")
    page.keyboard.press("Enter")
    expect(page.locator(".bubble.assistant .meta")).to_contain_text("tokens/s", timeout=story.ANSWER_MILLISECONDS)
    assert page.evaluate("window.pointed") == 0, "a mouse was used"
