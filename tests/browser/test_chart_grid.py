"""The grid of charts by itself, as the browser runs it: its order, a rewind, a failure, too many points."""

import json

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import OpenPage
from tests.product import Product

GRID = """async () => {
  const { ChartGrid } = await import("/static/js/chart-grid.js");
  const { Curves } = await import("/static/js/curves.js");
  const { Axis } = await import("/static/js/curve-axis.js");
  const curves = new Curves("/api/runs/0"), drawn = [], view = { smoothing: 0, log: false, link: false };
  const shared = { curves, axis: new Axis(curves), view, onZoom() {}, onHover() {} };
  const root = document.createElement("section");
  const grid = new ChartGrid(root, shared, { api: "/api/runs/0", say() {} });
  const show = (...keys) => {
    const metric = { count: 2, broken: 0, first_step: 1, last_step: 2, last: 1, min: 0, max: 1 };
    const keyed = keys.map((key) => ({ ...metric, key }));
    curves.takeOutline({ keys: keyed, resumed: [], started: 0 });
    grid.update();
    for (const { key, chart } of grid.cards.values()) chart.draw = async () => { drawn.push(key); };
  };
  const rows = (points) => {
    const step = Array.from({ length: points }, (_, index) => index + 1), value = step.map(() => 1);
    return { step, value, raw: value, time: value, count: points };
  };
  const names = () => [...root.querySelectorAll(".curve-card h4")].map((name) => name.textContent);
  Object.assign(window, { grid, curves, drawn, show, rows, names });
}"""


@pytest.fixture(scope="module")
def run_id(product: Product) -> int:
    """A run whose page has what a grid is made of."""
    return int(json.loads(product.python("-m", "tests.browser.compared_runs", "gridded"))[0])


@pytest.fixture
def page(open_page: OpenPage, run_id: int) -> Page:
    """Its page, with a grid of no place in it, and no points but those that a test gives it."""
    found = open_page("read").page
    found.goto(f"/runs/{run_id}/")
    found.evaluate(GRID)
    return found


def test_cards_stand_in_order_and_go_with_a_key_that_a_rewind_took(page: Page) -> None:
    page.evaluate("show('b/10', 'c/1', 'b/2', 'learning_rate')")
    assert page.evaluate("names()") == ["learning_rate", "b/2", "b/10", "c/1"]
    page.evaluate("show('b/10', 'b/1', 'b/2', 'b/11', 'b/3', 'eval_loss', 'learning_rate')")
    assert page.evaluate("names()") == ["eval_loss", "learning_rate", "b/1", "b/2", "b/3", "b/10", "b/11"]
    assert page.evaluate("[...grid.cards.keys()].includes('c/1')") is False


def test_a_chart_that_cannot_be_drawn_says_so_and_stops_no_other(page: Page) -> None:
    page.evaluate(
        """() => {
            show("b/1", "b/2", "b/3");
            grid.cards.get("b/1").chart.draw = async () => { throw new Error("no ink"); };
            for (const card of grid.cards.values()) { curves.series.set(card.key, rows(2)); grid.soon(card); }
        }"""
    )
    page.wait_for_function("() => drawn.length === 2 && !grid.isBusy")
    assert page.evaluate("drawn") == ["b/2", "b/3"]
    note = "grid.cards.get('b/1').element.querySelector('[data-broken]')"
    assert page.evaluate(f"{note}.hidden ? '' : {note}.textContent") == "This curve can't be drawn: no ink"
    assert page.evaluate("grid.queue.size") == 0
    assert page.evaluate("grid.cards.get('b/1').isStale"), "it is tried again when it comes into sight again"


def test_rows_that_others_draw_by_stay_until_the_thinned_ones_are_there(page: Page) -> None:
    page.evaluate(
        """() => {
            show("eval_loss", "tokens");
            window.asked = [];
            curves.ask = (keys) => { asked.push(keys); return new Promise((found) => { window.answer = found; }); };
            for (const key of ["eval_loss", "tokens"]) curves.series.set(key, rows(8001));
            for (const key of ["eval_loss", "tokens", "eval_loss"]) grid.extend(key, 1);
        }"""
    )
    page.wait_for_function("() => asked.length")
    page.evaluate("grid.extend('eval_loss', 1)")
    assert page.evaluate("['eval_loss', 'tokens'].map((key) => curves.get(key).step.length)") == [8001, 8001]
    page.evaluate("answer({ eval_loss: rows(2), tokens: rows(2) })")
    page.wait_for_function("() => curves.get('eval_loss').step.length === 2 && curves.get('tokens').step.length === 2")
    assert page.evaluate("asked") == [["eval_loss", "tokens"]]
