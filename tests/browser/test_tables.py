"""Every table as a person walks it: filter, order, next page, reload, back; and one thing done to several rows."""

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser import judges
from tests.browser.conftest import OpenPage
from tests.product import Product

NAME, COUNT, PAGE = "harbour", 57, 50
PAGES = (
    "/queue/jobs/", "/datasets/", "/models/", "/evaluate/", "/datasets/generate/", "/runs/sweeps/",
    "/chat/conversations", "/queue/inbox/", "/power/sweeps/", "/alerts/", "/settings/audit", "/settings/keys",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _rows(product: Product) -> Iterator[None]:
    """A page of rows and some more in each table, also when one test has taken some away."""
    product.python("-m", "tests.browser.filled_tables", NAME, str(COUNT))
    yield
    product.python("-m", "tests.browser.filled_tables", NAME, "0")


def shown(page: Page) -> list[str]:
    """The rows of the table, in its order."""
    found: list[str] = page.locator("tr[data-row]").evaluate_all("rows => rows.map(row => row.dataset.row)")
    return found


def asked(page: Page) -> dict[str, list[str]]:
    """What the address asks for."""
    return parse_qs(urlsplit(page.url).query)


def test_filter_order_next_page_reload_and_back_on_every_table(open_page: OpenPage) -> None:
    page = open_page("admin").page
    for address in PAGES:
        page.goto(address)
        page.fill("#table-search", NAME)
        page.press("#table-search", "Enter")
        page.wait_for_url(re.compile(f"q={NAME}"))
        expect(page.locator("tr[data-row]")).to_have_count(PAGE)
        page.locator("thead a").first.click()
        page.wait_for_url(re.compile("sort="))
        sort = asked(page)["sort"]
        expect(page.locator("th[aria-sort]")).to_have_count(1)
        first = shown(page)
        expect(page.get_by_role("link", name="Next page"), page.url).to_be_visible()
        page.get_by_role("link", name="Next page").click()
        page.wait_for_url(re.compile("after="))
        behind = shown(page)
        assert behind, address
        assert not set(behind) & set(first), address
        assert asked(page)["q"] == [NAME]
        page.reload()
        assert shown(page) == behind, address
        page.go_back()
        page.wait_for_url(lambda url: "after=" not in url)
        assert shown(page) == first, address
        assert (asked(page)["q"], asked(page)["sort"]) == ([NAME], sort)
        expect(page.locator("#table-search")).to_have_value(NAME)


def test_one_thing_is_done_to_the_rows_that_are_chosen(open_page: OpenPage) -> None:
    page = open_page("admin", viewport={"width": 390, "height": 844}, color_scheme="dark").page
    page.goto(f"/datasets/?q={NAME}&status=rejected")
    rows = shown(page)
    boxes = page.locator("[data-choose]")
    boxes.nth(0).check()
    boxes.nth(2).click(modifiers=["Shift"])
    expect(page.locator("#chosen")).to_contain_text("3 chosen")
    assert judges.violations(page) == []
    page.locator("#chosen").get_by_role("button", name="Delete").click()
    page.locator("#confirm-yes").click()
    expect(page.locator("#messages")).to_contain_text("3 datasets deleted.")
    assert (asked(page)["q"], asked(page)["status"]) == ([NAME], ["rejected"])
    assert shown(page) == rows[3:]
