"""Alerts in the browser: one appears live wherever one is, goes out over a route that was tested, is acknowledged."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.controlplane.receivers import Receiver, receiving
from tests.product import Product, wait_for

LIMIT = "alerts.disk_free_gib"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def settings(product: Product) -> Iterator[dict[str, object]]:
    """What the test changes of the shared product is put back, and its routes are deleted."""
    with product.client("admin") as client:
        known = {row["key"]: row["value"] for row in client.get("/api/settings").json()["settings"]}
        yield known
        client.put(f"/api/settings/{LIMIT}", json={"value": known[LIMIT]})
        client.patch("/api/alerts/rules/disk", json={"is_on": True})
        for route in client.get("/api/alerts/routes").json()["routes"]:
            client.delete(f"/api/alerts/routes/{route['id']}")


@pytest.mark.slow
def test_an_alert_appears_live_is_sent_acknowledged_and_over(
    product: Product, settings: dict[str, object], receiver: Receiver, open_page: OpenPage
) -> None:
    page = open_page("admin").page
    page.goto("/alerts/routes")
    page.get_by_label("Address").fill(receiver.url)
    page.get_by_label("Name", exact=True).fill("web hook")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_text("Alerts go to web hook too")).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Test").click()
    expect(page.get_by_text("The message was taken in")).to_be_visible(timeout=30_000)
    assert receiver.titles == ["Pilothouse: test"]
    assert "very-secret-path" not in page.content()

    page.goto("/queue/")
    place = page.locator("nav.side").get_by_role("link", name=re.compile("^Alerts"))
    expect(place).to_have_text("Alerts")
    more = page.locator("header.top button")  # what a phone shows of it
    listing = open_page("use").page
    listing.goto("/alerts/")
    expect(listing.get_by_text("Nothing wants your attention")).to_be_visible()
    with product.client("admin") as client:
        client.put(f"/api/settings/{LIMIT}", json={"value": 1e6})
        expect(place).to_have_text("Alerts1", timeout=30_000)
        expect(more).to_have_text(re.compile(r"^\s*More1 alerts$"))
        expect(page.locator("#toasts")).to_contain_text("Disk nearly full: The disk")
        item = listing.get_by_role("article", name=re.compile("^critical: Disk nearly full"))
        expect(item).to_be_visible(timeout=20_000)
        wait_for("the message", lambda: "critical] Disk nearly full" in " ".join(receiver.titles), 30)
        item.get_by_role("button", name="Acknowledge").click()
        expect(item).to_contain_text("seen by use", timeout=20_000)
        expect(place).to_have_text("Alerts", timeout=20_000)
        expect(more.locator(".n")).to_be_hidden()
        client.patch("/api/alerts/rules/disk", json={"is_on": False})
        expect(listing.get_by_text("Nothing wants your attention")).to_be_visible(timeout=30_000)
    expect(listing.get_by_role("row", name=re.compile("Disk nearly full"))).to_contain_text("seen by use")


def test_who_may_only_look_sees_alerts_and_rules_and_no_routes(product: Product, open_page: OpenPage) -> None:
    watched = open_page("read")
    watched.watch.allow("403")
    page = watched.page
    page.goto("/alerts/rules")
    expect(page.get_by_role("link", name="Routes")).to_have_count(0)
    expect(page.get_by_role("button", name="Set")).to_have_count(0)
    assert page.goto("/alerts/routes").status == 403  # type: ignore[union-attr] # it answers
