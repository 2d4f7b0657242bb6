"""The steps of the main job as a person does them in the browser. Runs in the test process."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

VALIDATED_MILLISECONDS = 60_000
ACTIVATED_MILLISECONDS = 240_000
ANSWER_MILLISECONDS = 120_000


def upload(page: Page, path: Path, name: str) -> None:
    """Uploads a dataset by the form and sees it become ready."""
    page.goto("/datasets/upload")
    page.set_input_files("#file", path)
    page.fill("#name", name)
    page.click("#start")
    page.wait_for_url(re.compile(r"/datasets/\d+/$"))
    expect(page.locator(".page-head")).to_contain_text("ready", timeout=VALIDATED_MILLISECONDS)


def start_run(page: Page, name: str, dataset: str, model: str, settings: Mapping[str, Any]) -> int:
    """Starts a run by the form; returns its id. `settings`: values by path, "hyperparams.max_steps"."""
    page.goto("/runs/new")
    page.fill("[name=name]", name)
    page.locator("[name=dataset] option", has_text=dataset).first.evaluate("option => { option.selected = true }")
    page.select_option("[name=model]", model)
    for fold in page.locator("details.fold").all():
        fold.evaluate("fold => { fold.open = true }")
    for path, value in settings.items():
        field = page.locator(f'[name="{path}"]')
        if field.evaluate("field => field.tagName") == "SELECT":
            field.select_option(str(value))
        else:
            field.fill(str(value))
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_url(re.compile(r"/runs/\d+/$"))
    return int(page.url.rstrip("/").rpartition("/")[2])


def plotted(page: Page, chart: str = "chart-loss", trace: int = 0) -> dict[int, Any]:
    """The points that a chart shows now, by step."""
    drawn = page.evaluate(
        """([chart, trace]) => {
            const data = document.getElementById(chart).data;
            return data ? { x: Array.from(data[trace].x), y: Array.from(data[trace].y) } : { x: [], y: [] };
        }""",
        [chart, trace],
    )
    assert len(set(drawn["x"])) == len(drawn["x"]), f"a step is drawn twice: {drawn['x']}"
    return dict(zip(drawn["x"], drawn["y"], strict=True))


def wait_for_points(page: Page, count: int, timeout_milliseconds: int = 120_000) -> None:
    """Waits until the loss chart shows at least `count` points."""
    page.wait_for_function(
        "count => (document.getElementById('chart-loss').data?.[0].x.length ?? 0) >= count",
        arg=count, timeout=timeout_milliseconds,
    )  # fmt: skip


def activate_result(page: Page) -> None:
    """Presses Activate on the result of the run whose page is open, and sees it take over."""
    result = page.locator("#result")
    result.get_by_role("button", name="Activate").click()
    expect(page.locator("#result").get_by_role("link", name="Chat with it")).to_be_visible(
        timeout=ACTIVATED_MILLISECONDS
    )


def activate(page: Page, model: str) -> None:
    """Activates a model on its own page, and sees it take over."""
    page.goto(f"/models/at/{model}")
    page.get_by_role("button", name="Activate", exact=True).click()
    expect(page.locator(".page-head").get_by_role("link", name="Chat")).to_be_visible(timeout=ACTIVATED_MILLISECONDS)


def ask(page: Page, question: str, *, max_tokens: int = 60) -> str:
    """Asks the active model in a new conversation on the chat page, at temperature 0; returns the whole answer."""
    if not page.url.endswith("/chat"):
        page.goto("/chat")
    page.click("#chat-new")
    page.fill("#chat-temperature", "0")
    page.fill("#chat-tokens", str(max_tokens))
    page.fill("#chat-text", question)
    page.click("#chat-send")
    expect(page.locator("#chat-send")).to_be_visible(timeout=ANSWER_MILLISECONDS)
    return page.locator("#chat-log .bubble.assistant .text").inner_text()
