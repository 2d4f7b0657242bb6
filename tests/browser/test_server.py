"""The browser fixtures themselves: a page that complains must fail its test."""

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import OpenPage
from tests.browser.server import WatchedPage, opened
from tests.product import Product


def test_a_role_is_logged_in(use_page: WatchedPage) -> None:
    response = use_page.page.goto("/")
    assert response is not None
    assert response.status == 200
    assert "/login" not in use_page.page.url


def test_nobody_is_sent_to_the_login(anonymous_page: WatchedPage) -> None:
    anonymous_page.page.goto("/runs")
    assert "login" in anonymous_page.page.url


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("console.error('broken')", "broken"),
        ("setTimeout(() => { throw new Error('thrown') })", "thrown"),
        ("fetch('/no/such/page')", "answer 404"),
        ("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>')", "Content Security Policy"),
        ("fetch('http://127.0.0.1:9/').catch(() => {})", "Content Security Policy"),
    ],
)
def test_a_page_that_complains_fails_its_test(browser: Browser, product: Product, script: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint), opened(browser, product, "use") as watched:
        watched.page.goto("/")
        with watched.page.expect_event("console" if "Error('thrown" not in script else "pageerror"):
            watched.page.evaluate(script)


def test_what_is_allowed_does_not_fail(open_page: OpenPage) -> None:
    watched = open_page("read")
    watched.watch.allow("broken")
    watched.page.goto("/")
    watched.page.evaluate("console.error('broken')")
