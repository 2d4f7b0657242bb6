"""Runs as a person finds and compares them: the table and its address, many at once, alive, then side by side."""

import json
import re
from typing import Any, Literal

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser import judges
from tests.browser.conftest import OpenPage
from tests.controlplane.page_reading import HOSTILE
from tests.product import Product

TAG = "compared"
SIZES: dict[str, tuple[dict[str, int], Literal["light", "dark"]]] = {
    "wide": ({"width": 1440, "height": 900}, "light"), "phone": ({"width": 390, "height": 844}, "dark"),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(product: Product) -> list[int]:
    """Six runs with curves; the fifth is paused."""
    found: list[int] = json.loads(product.python("-m", "tests.browser.compared_runs", TAG, "odd"))
    return found


def shown(page: Page) -> list[int]:
    """The runs of the table, in its order."""
    return [int(text) for text in page.locator("tr[data-run]").evaluate_all("rows => rows.map(row => row.dataset.run)")]


def judged(page: Page) -> None:
    """Nothing that axe-core finds, by day and by night, and no sideways scrolling."""
    beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert beyond <= 0, f"it scrolls sideways by {beyond} px"
    assert judges.violations(page) == []


def drawn(page: Page, chart: str) -> list[dict[str, Any]]:
    """The lines of a chart as Plotly has them."""
    page.wait_for_function("chart => document.getElementById(chart).data", arg=chart)
    found: list[dict[str, Any]] = page.evaluate(
        "chart => document.getElementById(chart).data.map(({ name, x, line, hovertext, opacity }) =>"
        " ({ name, points: x.length, line, hovertext, opacity }))",
        chart,
    )
    return found


@pytest.mark.parametrize("size", list(SIZES))
def test_the_address_holds_what_the_table_shows(open_page: OpenPage, runs: list[int], size: str) -> None:
    viewport, theme = SIZES[size]
    page = open_page("use", viewport=viewport, color_scheme=theme).page
    page.goto(f"/runs/?tag={TAG}")
    expect(page.locator("tr[data-run]")).to_have_count(6)
    page.get_by_text("More filters, order").click()
    page.select_option("#filter-sort", "last.loss")
    page.wait_for_url(re.compile("sort=last.loss"))
    first = shown(page)
    page.get_by_text("paused", exact=True).first.click()
    page.wait_for_url(re.compile("state=paused"))
    assert shown(page) == [runs[4]]
    page.reload()
    assert shown(page) == [runs[4]]
    page.go_back()
    page.wait_for_url(lambda url: "state=" not in url)
    assert shown(page) == first
    page.get_by_role("button", name="Columns").click()
    page.fill("#column-search", "learning rate")
    page.get_by_label("learning rate", exact=True).check()
    page.get_by_role("button", name="Show these").click()
    page.wait_for_url(re.compile("column=hyperparams.learning_rate"))
    assert f"tag={TAG}" in page.url
    assert shown(page) == first
    expect(page.locator("#run-rows")).to_contain_text("0.005")
    expect(page.locator("#run-rows")).to_contain_text(HOSTILE)
    judged(page)


def test_rows_change_where_they_stand_and_what_is_chosen_stays(
    product: Product, open_page: OpenPage, runs: list[int]
) -> None:
    page = open_page("use").page
    page.goto(f"/runs/?tag={TAG}&state=paused&state=done")
    for run in (runs[0], runs[4]):
        page.get_by_label(f"Choose run {run}").check()
    expect(page.locator("#chosen")).to_contain_text("2 chosen")
    page.evaluate("window.notLoadedAnew = true")
    with product.client("admin") as client:
        assert client.patch(f"/api/runs/{runs[0]}", json={"name": "renamed meanwhile"}).status_code == 200
    expect(page.locator(f'tr[data-run="{runs[0]}"]')).to_contain_text("renamed meanwhile")
    expect(page.get_by_label(f"Choose run {runs[0]}")).to_be_checked()
    expect(page.get_by_label(f"Choose run {runs[4]}")).to_be_checked()
    assert page.evaluate("window.notLoadedAnew")

    page.get_by_role("button", name="Tags", exact=True).click()
    page.fill("#many-tags-text", "late")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#messages")).to_contain_text("2 runs tagged.")
    assert "state=paused" in page.url
    expect(page.locator("#run-rows").get_by_text("late", exact=True)).to_have_count(2)
    page.get_by_role("button", name="Save this view").click()
    page.fill("#save-view-name", "ended ones")
    page.get_by_role("button", name="Save it").click()
    expect(page.get_by_role("navigation", name="Saved views").get_by_role("link", name="ended ones")).to_have_attribute(
        "aria-current", "page"
    )
    judged(page)


def test_the_lowest_rows_go_when_many_have_come_and_chosen_ones_stay(open_page: OpenPage, runs: list[int]) -> None:
    page = open_page("use").page
    sockets: list[WebSocketRoute] = []

    def listen(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket("**/ws/live", listen)
    page.goto(f"/runs/?tag={TAG}")
    page.wait_for_function("() => document.body.dataset.liveState === 'live'")
    before = shown(page)
    assert set(before) == set(runs)
    page.get_by_label(f"Choose run {before[-1]}").check()
    page.evaluate("document.getElementById('runs').dataset.pageRows = '1'")
    sockets[0].send(json.dumps({"topic": "jobs", "kind": "reset", "data": {}}))
    expect(page.locator("tr[data-run]")).to_have_count(5)
    assert shown(page) == [*before[:4], before[-1]]
    expect(page.get_by_label(f"Choose run {before[-1]}")).to_be_checked()


@pytest.mark.parametrize("size", list(SIZES))
def test_runs_side_by_side(open_page: OpenPage, runs: list[int], size: str) -> None:
    viewport, theme = SIZES[size]
    page = open_page("use", viewport=viewport, color_scheme=theme).page
    page.goto(f"/runs/?tag={TAG}&sort=created")
    if size == "wide":
        page.get_by_label("Choose all runs on this page").check()
    else:
        for run in runs:
            page.get_by_label(f"Choose run {run}").check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url(re.compile("runs/compare"))
    page.select_option("#compare-key", "loss")
    page.wait_for_function("() => document.getElementById('chart-compare').data?.length === 6")
    lines = drawn(page, "chart-compare")
    assert [line["points"] for line in lines] == [240] * 6
    assert len({line["line"]["color"] for line in lines}) == 4
    assert lines[4]["line"]["dash"] != "solid"
    assert "&lt;script&gt;" in lines[2]["name"], "a name is no markup to Plotly"
    page.locator(f'[data-line="{runs[1]}"]').click()
    page.wait_for_function("() => document.getElementById('chart-compare').data.length === 5")
    assert f"hide={runs[1]}" in page.url
    page.reload()
    page.wait_for_function("() => document.getElementById('chart-compare').data?.length === 5")
    expect(page.locator(f'[data-line="{runs[1]}"]')).to_have_attribute("aria-pressed", "false")
    page.select_option("#compare-key", "eval/rouge.L")
    expect(page.locator("#compare-title")).to_have_text("eval/rouge.L")
    page.wait_for_function("() => document.getElementById('chart-compare').data[0].x.length === 6")
    expect(page.locator(f'[data-line="{runs[0]}"] [data-value]')).not_to_have_text("–")

    settings = page.get_by_role("region", name="Settings of each run")
    expect(settings).to_contain_text("Learning rate")
    expect(settings).not_to_contain_text("Batch size per device")
    expect(page.get_by_role("region", name="Last values of each run").get_by_text("best").first).to_be_visible()
    assert len(drawn(page, "chart-parallel")) == 6
    page.get_by_label("Learning rate, to").fill("500")
    expect(page.locator("#parallel-state")).not_to_have_text("6 of 6 runs lie within.")
    assert "within=" in page.url
    faint = [line["opacity"] < 0.1 for line in drawn(page, "chart-parallel")]
    assert any(faint)
    assert not all(faint)
    page.select_option("#scatter-y", "last.loss")
    page.wait_for_function("() => document.getElementById('chart-scatter').data[0].x.length === 5")
    judged(page)
