"""The wall: instruments without navigation, that outlive the server and keep the screen awake when asked to."""

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.server import WatchedPage
from tests.product import Product, wait_for
from tests.tiny import write_style_dataset

SPY = """
window.held = 0;
Object.defineProperty(navigator, "wakeLock", { value: { request: async () => { window.held += 1; } } });
"""


READ_FROM_ACROSS_THE_ROOM = """() => {
  const figure = document.querySelector('#wall [data-figure="cpu_percent"]');
  return figure && Number.parseFloat(getComputedStyle(figure).fontSize) >= 80;
}"""
"""Asked again until it is so: tiles that are drawn anew have no size for a moment."""


def test_the_wall_survives_a_restart_and_keeps_the_screen_awake_on_a_click(
    own_product: Product, open_page: OpenPage, tmp_path: Path
) -> None:
    watched = open_page("read", of=own_product, viewport={"width": 1920, "height": 1080})
    for expected in ("ERR_CONNECTION_REFUSED", "WebSocket connection", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET"):
        watched.watch.allow(expected)
    page = watched.page
    page.add_init_script(SPY)
    page.goto("/wall")
    tiles = page.locator("#wall")
    expect(tiles.get_by_role("heading", name="Queue")).to_be_visible()
    expect(page.locator("nav.side")).to_be_hidden()
    expect(tiles.locator('[data-figure="cpu_percent"]')).not_to_have_text("")
    page.wait_for_function(READ_FROM_ACROSS_THE_ROOM)
    assert page.evaluate("window.held") == 0
    page.get_by_role("button", name="Keep the screen awake").click()
    expect(page.locator("#wall-awake-state")).to_have_text("The screen stays awake.")
    assert page.evaluate("window.held") == 1

    own_product.kill_web()
    expect(page.locator("#lost")).to_be_visible(timeout=30_000)
    own_product.start_web()
    expect(page.locator("#lost")).to_be_hidden(timeout=60_000)
    page.wait_for_function("() => document.body.dataset.liveState === 'live'")
    text = write_style_dataset(tmp_path / "wall.jsonl", rows=20, seed=61)
    with page.expect_response("**/wall", timeout=60_000):
        own_product.upload(text, "after the restart")  # a job moves, so the tiles are drawn anew
    expect(tiles.get_by_role("heading", name="Queue")).to_be_visible()


def heard(watched: WatchedPage, topic: str) -> bool:
    """Whether the server has taken the page's wish for a topic."""
    return any(f'"{topic}"' in frame and "subscribed" in frame for frame in watched.watch.frames)


def test_a_tile_that_goes_gives_its_topic_back(product: Product, open_page: OpenPage) -> None:
    watched = open_page("read")
    page = watched.page
    page.route("**/api/runs/*/metrics*", lambda route: route.fulfill(json={"series": {}}))
    page.goto("/wall")
    page.wait_for_function("() => document.body.dataset.liveState === 'live'")
    page.evaluate(
        """() => {
            for (let id = 900001; id <= 900060; id += 1) {
                const tile = document.createElement("div");
                Object.assign(tile.dataset, { runSpark: id, deployment: id });
                document.getElementById("wall").append(tile);
                document.dispatchEvent(new CustomEvent("drawn", { detail: tile }));
                tile.remove();
            }
            document.dispatchEvent(new CustomEvent("drawn", { detail: document.getElementById("wall") }));
        }"""
    )
    topics = ("run:900060", "deployment:900060")
    wait_for("the answers", lambda: page.evaluate("true") and all(heard(watched, topic) for topic in topics))
    assert all(f'{{"unsubscribe":["{topic}"]}}' in watched.watch.sent for topic in topics)
    assert not [frame for frame in watched.watch.frames if "A page may subscribe" in frame]
