"""The screenshots of README and docs: `python -m tests.browser.screenshots docs/screenshots`.

A real product on this machine with the tiny model: a dataset is uploaded, a run is watched, its model answers.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser import story
from tests.browser.server import chromium_path, launched, opened
from tests.product import Product
from tests.tiny import build_tiny_model, write_style_dataset

WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
STEPS = 600
SETTINGS = {
    "hyperparams.max_steps": STEPS,
    "hyperparams.per_device_train_batch_size": 16,
    "hyperparams.learning_rate": "3e-3",
    "hyperparams.max_length": 128,
    "monitoring.eval_steps": 60,
    "output.save_steps": 120,
    "output.register_as": "harbour-talk",
    "model.method": "full",
}


def shoot(page: Page, folder: Path, name: str) -> None:
    """One picture in each theme."""
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function("() => !document.querySelector('.is-loading')")
        page.wait_for_timeout(400)
        page.screenshot(path=folder / f"{name}-{theme}.png")


def main(folder: Path) -> None:
    """Does the main job and takes the pictures on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    path = chromium_path()
    assert path is not None, "no Chromium or Chrome was found"
    with tempfile.TemporaryDirectory(prefix="screenshots-") as scratch, sync_playwright() as playwright:
        product = Product(Path(scratch), build_tiny_model(Path(scratch) / "tiny"))
        product.start()
        try:
            with launched(playwright, path) as browser, opened(browser, product, "admin", viewport=WIDE) as watched:
                page = watched.page
                story.upload(page, write_style_dataset(Path(scratch) / "harbour-talk.jsonl", 2000, 1), "harbour-talk")
                shoot(page, folder, "dataset")
                run_id = story.start_run(page, "harbour talk on tiny", "harbour-talk", "tiny", SETTINGS)
                story.wait_for_points(page, 260)
                shoot(page, folder, "run")
                page.goto("/")
                story.wait_for_points(page, 300)
                shoot(page, folder, "bridge")
                page.set_viewport_size(PHONE)  # type: ignore[arg-type]
                shoot(page, folder, "bridge-phone")
                page.set_viewport_size(WIDE)  # type: ignore[arg-type]
                page.goto(f"/runs/{run_id}/")
                expect(page.locator("#run-status")).to_contain_text("done", timeout=300_000)
                story.activate_result(page)
                page.get_by_role("link", name="Chat with it").click()
                page.wait_for_url(re.compile("/chat$"))
                story.ask(page, "What is the rudder for?")
                shoot(page, folder, "chat")
                others = json.loads(product.python("-m", "tests.browser.compared_runs", "rates"))
                page.goto("/runs/")
                shoot(page, folder, "runs")
                page.goto(f"/runs/compare?runs={','.join(map(str, others))}&key=loss")
                page.wait_for_function("() => document.getElementById('chart-compare').data?.length === 6")
                shoot(page, folder, "compare")
        finally:
            product.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
