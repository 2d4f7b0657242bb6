"""The curves of a run on its page: every key when it is looked at, detail on zoom, one cursor, files, and NaN.

One run of 30 keys with 2,000 points each and one key of a million, made by the product's own way in.
"""

import csv
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Download, Locator, Page, Route, expect

from tests.browser import story
from tests.browser.conftest import OpenPage
from tests.long_run import LONG_KEY, ODD_KEY
from tests.product import Product

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KEYS, POINTS, LONG = 30, 2000, 1_000_000
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
DRAWN = "(key) => (document.querySelector(`.chart[data-key=${CSS.escape(key)}]`)?.data?.[0].x.length ?? 0) > 1"


@pytest.fixture(scope="module")
def run_id(product: Product) -> Iterator[int]:
    made = product.python(
        "-m", "tests.long_run", "--keys", str(KEYS), "--points", str(POINTS), "--long", str(LONG)
    )  # fmt: skip
    yield int(made.split()[-1])
    with product.client("admin") as client:
        client.delete(f"/api/runs/{made.split()[-1]}").raise_for_status()


def card(page: Page, key: str) -> Locator:
    """The card of a key, its group unfolded, scrolled to and drawn."""
    found = page.locator(".curve-card").filter(has=page.get_by_text(key, exact=True))
    found.evaluate("card => { card.closest('details').open = true }")
    found.scroll_into_view_if_needed()
    page.wait_for_function(DRAWN, arg=key)
    return found


def shown(chart: Locator) -> dict[str, Any]:
    """What a chart's first trace and its horizontal axis have."""
    found: dict[str, Any] = chart.evaluate(
        """chart => ({
            x: Array.from(chart.data[0].x), y: Array.from(chart.data[0].y), range: [...chart.layout.xaxis.range],
            title: chart.layout.xaxis.title.text, type: chart.layout.yaxis.type, shapes: chart.layout.shapes.length,
        })"""
    )
    return found


def drag(page: Page, chart: Locator, begin: float, end: float) -> None:
    """Zooms: from one share of the width to another."""
    box = chart.locator(".nsewdrag").first.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * begin, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (begin + end) / 2, middle, steps=4)
    page.mouse.move(box["x"] + box["width"] * end, middle, steps=4)
    page.mouse.up()


def zoom(page: Page, chart: Locator, narrower_than: int) -> None:
    """Zooms to a tenth, and waits until what is drawn spans fewer steps."""
    drag(page, chart, 0.4, 0.5)
    page.wait_for_function(
        "([chart, most]) => chart.data[0].x.at(-1) - chart.data[0].x[0] < most",
        arg=[chart.element_handle(), narrower_than],
    )


def open_run(open_page: OpenPage, run_id: int, query: str = "", **options: Any) -> Page:
    page = open_page("use", **{"viewport": WIDE, **options}).page
    page.goto(f"/runs/{run_id}/{query}")
    story.wait_for_points(page, POINTS)
    return page


def test_every_key_has_a_chart_that_is_read_when_it_is_scrolled_to(open_page: OpenPage, run_id: int) -> None:
    watched = open_page("use", viewport=WIDE)
    page = watched.page
    page.goto(f"/runs/{run_id}/")
    story.wait_for_points(page, POINTS)
    expect(page.locator(".curve-card")).to_have_count(KEYS + 2 - 1)  # the loss has a chart of its own
    assert page.locator("#curve-groups summary h3").all_inner_texts() == [
        "Pinned (2)", "eval (9)", "long (1)", "odd (1)", "system (9)", "train (9)"
    ]  # fmt: skip
    asked = [request for request in watched.watch.requests if "/metrics?" in request]
    assert not [request for request in asked if "keys=loss&" in request], "the page has brought it"
    assert not [request for request in asked if "one+million" in request], "nobody has looked at it"
    expect(card(page, "train/layer.12/norm").locator("[data-summary]")).to_contain_text("2,000 points")
    drawn = page.locator(".curve-card .chart").evaluate_all("charts => charts.filter(chart => chart.data).length")
    assert drawn < KEYS, "what nobody sees is not drawn"
    expect(card(page, ODD_KEY).locator("h4")).to_have_text(ODD_KEY)
    page.fill("#curve-search", "layer.7/")
    expect(page.locator(".curve-card:visible h4")).to_have_text(["eval/layer.7/norm"])
    page.fill("#curve-search", "<i>nothing</i>")
    expect(page.locator("#curve-none")).to_have_text("No curve of this run is called like “<i>nothing</i>”.")
    page.reload()
    expect(page.locator("#curve-search")).to_have_value("<i>nothing</i>")


def test_the_loss_is_sketched_until_plotly_has_been_read(open_page: OpenPage, run_id: int) -> None:
    page = open_page("use", viewport=WIDE).page
    late: list[Route] = []
    page.route("**/plotly.min*.js", lambda route: late.append(route))  # noqa: PLW0108 - Playwright marks its handlers
    with page.expect_request("**/plotly.min*.js"):
        page.goto(f"/runs/{run_id}/", wait_until="commit")
    line = page.locator("#chart-loss .sketch path")
    expect(line).to_have_attribute("d", re.compile("^M.*L"))
    assert line.evaluate("line => line.getBoundingClientRect().width") > 1000, "as wide as the chart will be"
    late[0].continue_()
    story.wait_for_points(page, POINTS)
    expect(line).to_have_count(0)


def test_zoom_brings_detail_and_a_double_click_the_whole(open_page: OpenPage, run_id: int) -> None:
    page = open_run(open_page, run_id)
    chart = card(page, LONG_KEY).locator(".chart")
    whole = shown(chart)
    assert len(whole["x"]) <= 2000
    assert 9.0 in whole["y"], "the one spike of a million points is seen from afar"
    zoom(page, chart, 120_000)
    near = shown(chart)
    begin, end = near["range"]
    within = [step for step in near["x"] if begin <= step <= end]
    assert len(within) > 5 * len([step for step in whole["x"] if begin <= step <= end])
    assert len(near["x"]) <= 2000
    assert near["x"][0] <= begin, "the line goes on to the edge"
    assert near["x"][-1] >= end
    zoom(page, chart, 12_000)
    zoom(page, chart, 1_500)
    steps = [int(step) for step in shown(chart)["x"]]
    assert steps == list(range(steps[0], steps[-1] + 1)), "near enough, each point is there"
    chart.locator(".nsewdrag").first.dblclick()
    expect(chart).not_to_have_attribute("data-zoomed", "")
    assert shown(chart)["x"] == whole["x"]


def test_axes_smoothing_and_scale_are_all_charts_own_and_outlive_a_reload(open_page: OpenPage, run_id: int) -> None:
    page = open_run(open_page, run_id)
    loss, rate = page.locator("#chart-loss"), page.locator("#chart-learning-rate")
    page.wait_for_function(DRAWN, arg="learning_rate")
    page.get_by_role("button", name="tokens", exact=True).click()
    for chart in (loss, rate):
        expect(chart.locator(".xtitle")).to_have_text("tokens seen")
        assert shown(chart)["x"][-1] == POINTS * 512
    page.get_by_role("button", name="time", exact=True).click()
    for chart in (loss, rate):
        expect(chart.locator(".xtitle")).to_have_text("minutes since the start")
    assert shown(loss)["x"][-1] == pytest.approx((POINTS - 1) / 600)
    page.get_by_role("button", name="Log scale").click()
    page.locator("#curve-smoothing").fill("0.9")
    page.wait_for_function("() => document.getElementById('chart-loss').data[1].visible === true")
    assert loss.evaluate("chart => chart.data[0].opacity") == 0.3
    page.reload()
    story.wait_for_points(page, POINTS)
    expect(loss.locator(".xtitle")).to_have_text("minutes since the start")
    expect(page.locator("#curve-bar output")).to_have_text("0.90")
    assert shown(loss)["type"] == "log"


def test_what_is_no_number_is_marked_and_a_clock_that_ran_backwards_stands_still(
    open_page: OpenPage, run_id: int
) -> None:
    page = open_run(open_page, run_id, "?axis=time")
    found = card(page, ODD_KEY)
    expect(found.locator("[data-broken]")).to_have_text("10 values are NaN or infinite: marked at the edge")
    chart = found.locator(".chart")
    marks = chart.evaluate("chart => ({ texts: [...chart.data[2].text], x: [...chart.data[2].x] })")
    assert marks["texts"][0] == "NaN at step 50"
    assert len(marks["texts"]) == 10
    assert len(set(shown(chart)["x"])) == 1, "its clock ran backwards from the first point on"
    page.get_by_role("button", name="step", exact=True).click()  # scrolls there: what is out of sight is not drawn
    chart.scroll_into_view_if_needed()
    expect(chart.locator(".xtitle")).to_have_text("step")
    drawn = shown(chart)
    assert drawn["y"][49] is None, "the line breaks off there"
    assert page.locator("#chart-loss").evaluate("chart => chart.layout.shapes[0].label.text") == "resumed at step 1,000"


def test_the_cursor_reads_all_series_and_goes_along_with_linked_charts(open_page: OpenPage, run_id: int) -> None:
    page = open_run(open_page, run_id)
    page.wait_for_function(DRAWN, arg="learning_rate")
    page.get_by_role("button", name="Link charts").click()
    loss, rate = page.locator("#chart-loss"), page.locator("#chart-learning-rate")
    box = loss.locator(".nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3, steps=3)
    expect(loss.locator(".hoverlayer .legend")).to_contain_text(re.compile(r"step 1,\d\d\d.*loss", re.DOTALL))
    expect(rate.locator(".hoverlayer .legend")).to_contain_text("learning_rate")
    drag(page, loss, 0.5, 0.6)
    for chart in (loss, rate):
        expect(chart).to_have_attribute("data-zoomed", "")
    assert shown(loss)["range"] == shown(rate)["range"]


def downloaded(page: Page, press: Locator) -> tuple[Download, bytes]:
    with page.expect_download() as waiting:
        press.click()
    return waiting.value, Path(waiting.value.path()).read_bytes()


def test_charts_and_points_are_saved_as_files(open_page: OpenPage, run_id: int) -> None:
    page = open_run(open_page, run_id)
    found = card(page, ODD_KEY)
    files = {}
    for name in ("PNG", "SVG", "CSV, every point"):
        found.locator("summary").click()
        files[name] = downloaded(page, found.locator(".menu-items").get_by_text(name, exact=True))
    assert files["PNG"][1].startswith(b"\x89PNG")
    drawing = files["SVG"][1].decode()
    assert ODD_KEY in html.unescape(drawing)
    assert "<b>" not in drawing, "a key is text"
    rows = list(csv.reader(files["CSV, every point"][1].decode().splitlines()))
    assert len(rows) == 501
    assert rows[50][:3] == [ODD_KEY, "50", "NaN"]
    bar = page.locator("#curve-bar")
    bar.locator("summary").click()
    events, data = downloaded(page, bar.get_by_text("All points for TensorBoard"))
    assert "tfevents" in events.suggested_filename
    assert b"brain.Event:2" in data[:100]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_curves_fit_each_size_in_each_theme(open_page: OpenPage, run_id: int, size: dict[str, int], theme: str) -> None:
    page = open_run(open_page, run_id, viewport=size, color_scheme=theme)
    found = card(page, LONG_KEY)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size["width"]
    line = found.locator(".chart .scatterlayer path.js-line").first
    accent = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--series-1').trim()")
    expected = tuple(int(accent[place : place + 2], 16) for place in (1, 3, 5))
    assert line.evaluate("line => getComputedStyle(line).stroke") == f"rgb{expected}"
