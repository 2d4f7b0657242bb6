"""Everything by keys: the command palette, single-key shortcuts, the help sheet, and that they can be switched off."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import judges
from tests.browser.conftest import OpenPage
from tests.product import Product
from tests.tiny import write_style_dataset

ASLEEP = {"kind": "model", "id": "asleep", "name": "asleep", "detail": "ready", "can_activate": True}
HELD = "() => document.activeElement === document.body || Boolean(document.activeElement.closest('#help'))"


@pytest.fixture
def dataset(product: Product, tmp_path: Path) -> str:
    """A dataset that the palette can find."""
    name = "keys and knots"
    product.upload(write_style_dataset(tmp_path / "keys.jsonl", rows=20, seed=31), name)
    return name


def open_palette(page: Page, words: str) -> None:
    page.keyboard.press("Control+k")
    expect(page.locator("#palette-text")).to_be_focused()
    page.keyboard.type(words)


def test_the_palette_finds_by_name_goes_there_and_does_things(
    product: Product, open_page: OpenPage, dataset: str
) -> None:
    page = open_page("admin").page
    page.goto("/")
    open_palette(page, "knots keys")
    chosen = page.locator('#palette [aria-selected="true"]')
    expect(chosen).to_contain_text(dataset)
    assert judges.violations(page) == []
    expect(page.locator("#palette-text")).to_have_attribute("aria-activedescendant", re.compile("^palette-found-"))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/datasets/\d+/$"))

    open_palette(page, "night")
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(page.locator("#palette")).to_be_hidden()

    page.route("**/api/search?*", lambda route: route.fulfill(json={"results": [ASLEEP]}))
    open_palette(page, "asleep")
    expect(page.locator("#palette").get_by_role("option")).to_have_count(2)
    page.keyboard.press("ArrowDown")
    expect(chosen).to_contain_text("Activate asleep")
    page.keyboard.press("Enter")
    expect(page.locator("#confirm")).to_contain_text("Activate asleep?")
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    page.unroute("**/api/search?*")

    open_palette(page, "nothing is called like this")
    expect(page.locator("#palette-none")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#palette")).to_be_hidden()


def test_keys_of_an_input_method_do_nothing_in_the_palette(open_page: OpenPage) -> None:
    page = open_page("read").page
    page.goto("/alerts/")
    open_palette(page, "night")
    composing = """(input, key) => !input.dispatchEvent(
        new KeyboardEvent("keydown", { key, isComposing: true, bubbles: true, cancelable: true })
    )"""
    for key in ("Enter", "ArrowDown", "ArrowUp", "Home"):
        assert not page.locator("#palette-text").evaluate(composing, key), f"{key} was taken from who composes"
    expect(page.locator("#palette")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_single_keys_lead_to_places_and_none_counts_while_one_types(open_page: OpenPage) -> None:
    page = open_page("use").page
    page.goto("/settings/")
    for key, path in {"r": "/runs/", "m": "/models/", "d": "/datasets/", "q": "/queue/", "a": "/alerts/"}.items():
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.wait_for_url(f"**{path}")
    page.goto("/datasets/")
    page.keyboard.press("n")
    page.wait_for_url("**/datasets/upload")
    page.locator("#name").focus()
    page.keyboard.type("grnq?/")
    expect(page.locator("#name")).to_have_value("grnq?/")
    assert page.url.endswith("/datasets/upload")
    page.goto("/chat/conversations?q=masts")
    page.keyboard.press("/")
    expect(page.locator("#table-search")).to_be_focused()


def test_the_help_sheet_keeps_the_focus_and_gives_it_back(open_page: OpenPage) -> None:
    page = open_page("read").page
    page.goto("/queue/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    link = page.locator(".tabs a").first
    link.focus()
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(sheet).to_be_visible()
    assert judges.violations(page) == []
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate(HELD), "the focus left the open dialog"
    page.keyboard.press("g")
    page.keyboard.press("r")
    assert "/queue/" in page.url, "a shortcut counted under an open dialog"
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    expect(link).to_be_focused()


def test_single_keys_can_be_switched_off(open_page: OpenPage) -> None:
    page = open_page("read").page
    page.goto("/settings/")
    group = page.get_by_role("group", name="Single-key shortcuts")
    group.get_by_role("button", name="Off").click()
    expect(group.get_by_role("button", name="Off")).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(group.get_by_role("button", name="Off")).to_have_attribute("aria-pressed", "true")
    page.locator("h1").click()
    page.keyboard.press("?")
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.locator("#help")).to_be_hidden()
    assert page.url.endswith("/settings/")
    open_palette(page, "runs")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/")
