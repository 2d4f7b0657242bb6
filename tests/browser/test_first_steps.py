"""The first start as a newcomer goes it: from an empty home to a model that answers, by the buttons of the card."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser import judges, story
from tests.browser.conftest import OpenPage
from tests.product import Product

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ENDED_MILLISECONDS = 180_000


def test_from_an_empty_home_to_an_answer(own_product: Product, open_page: OpenPage, tiny_model: Path) -> None:
    with own_product.client("admin") as client:
        assert client.delete("/api/models/tiny").status_code == 204
    other = open_page("use", of=own_product, viewport={"width": 390, "height": 844}).page
    other.goto("/")
    other.get_by_role("button", name="Put away").click()
    expect(other.locator(".first-steps")).to_have_count(0)
    page = open_page("admin", of=own_product, viewport={"width": 1440, "height": 900}).page
    page.goto("/")
    card = page.locator(".first-steps")
    expect(card).to_contain_text("1 of 4 done")
    assert judges.violations(page) == []
    page.emulate_media(color_scheme="dark")
    assert judges.violations(page, judges.COLOURS) == []
    expect(card).to_contain_text("processor cores")
    expect(card.get_by_role("button", name="Get a small model")).to_be_enabled()
    expect(card.get_by_role("button", name="Train")).to_be_disabled()

    card.get_by_role("link", name="Another one").click()
    page.select_option("[name=source]", "directory")
    page.fill("[name=path]", str(tiny_model))
    page.fill("[name=name]", "newcomer")
    page.get_by_role("button", name="Add it").click()
    page.wait_for_url(re.compile("/models/at/newcomer"))
    page.goto("/")
    expect(card.get_by_role("link", name="newcomer")).to_be_visible()

    card.get_by_role("button", name="Use the sample data").press("Enter")
    expect(card).to_contain_text("harbour v1, 324 examples")
    card.get_by_role("link", name="Train", exact=True).press("Enter")
    page.wait_for_url(re.compile("/runs/new"))
    expect(page.get_by_label("Name", exact=True)).to_have_value("first run")
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_url(re.compile(r"/runs/\d+/$"))
    page.goto("/")
    expect(card).to_contain_text("4 of 4 done", timeout=ENDED_MILLISECONDS)

    card.get_by_role("button", name="Activate it").click()
    expect(card.get_by_role("link", name="Talk to it")).to_be_visible(timeout=story.ACTIVATED_MILLISECONDS)
    card.get_by_role("link", name="Talk to it").click()
    page.wait_for_url(re.compile("/chat$"))
    assert story.ask(page, "What is a bowline?")
    page.goto("/")
    expect(page.get_by_role("heading", name="Bridge")).to_be_visible()
    expect(card).to_have_count(0)
