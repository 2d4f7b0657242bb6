"""The screenshots of README and docs: `python -m tests.browser.screenshots docs/screenshots`.

A real product on this machine with the tiny model and simulated GPUs: a dataset is uploaded, a run is watched, its
model answers.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

from tests.browser import story
from tests.browser.conftest import on_simulated_gpus
from tests.browser.server import chromium_path, launched, opened
from tests.fakes.gpus import FakeGpus
from tests.product import CHECKOUT, Product
from tests.tiny import build_tiny_model, write_style_dataset

SIZES: dict[str, ViewportSize] = {"wide": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
SAMPLE = CHECKOUT / "controlplane" / "samples" / "harbour.jsonl"
STEPS = 240
SETTINGS = {
    "hyperparams.max_steps": STEPS,
    "hyperparams.per_device_train_batch_size": 8,
    "hyperparams.learning_rate": "3e-3",
    "hyperparams.max_length": 128,
    "monitoring.eval_steps": 40,
    "output.save_steps": 60,
    "output.register_as": "harbour-talk",
    "model.method": "full",
}


def shoot(page: Page, folder: Path, name: str) -> None:
    """Four pictures: wide and on a phone, by day and by night."""
    for size, viewport in SIZES.items():
        page.set_viewport_size(viewport)
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            page.wait_for_function("() => !document.querySelector('.is-loading, .htmx-request')")
            page.evaluate("scrollTo(0, 0)")
            page.wait_for_timeout(500)  # a chart that is drawn anew tells nobody when it is done
            page.screenshot(path=folder / f"{name}-{size}-{theme}.png")
    page.set_viewport_size(SIZES["wide"])


def rest(gpus: FakeGpus) -> None:
    """Nothing works on the cards."""
    for index in range(2):
        gpus.set_gpu(index, temperature=38 + index, utilization=0, power=31_000, memory_used=256 << 20)
        gpus.set_processes(index, {})


def work(gpus: FakeGpus, product: Product) -> None:
    """The first card shows what a training would do to it: the processor does the work."""
    pids = [process.pid for process in product.processes() if "train" in process.info["cmdline"][2:4]]
    gpus.set_gpu(0, temperature=67, utilization=96, power=276_000, memory_used=9 << 30)
    gpus.set_processes(0, {pids[0]: 8 << 30})


def train(page: Page, folder: Path, data: Path, working: Callable[[], None]) -> None:
    """A dataset is uploaded and a run watched until it is done."""
    story.upload(page, SAMPLE, "harbour")
    shoot(page, folder, "dataset")
    story.upload(page, write_style_dataset(data / "harbour-talk.jsonl", 2000, 1), "harbour-talk")
    page.goto("/runs/new")
    page.wait_for_load_state("networkidle")
    shoot(page, folder, "run-new")
    run = story.start_run(page, "harbour talk on tiny", "harbour-talk", "tiny", SETTINGS)
    story.wait_for_points(page, 20, 300_000)
    working()
    story.wait_for_points(page, 130, 300_000)
    shoot(page, folder, "run")
    page.goto("/")
    story.wait_for_points(page, 150, 300_000)
    shoot(page, folder, "bridge")
    page.goto("/wall")
    page.wait_for_function("() => document.querySelector('[data-run-spark] path')?.getAttribute('d')")
    shoot(page, folder, "wall")
    page.goto(f"/runs/{run}/")
    expect(page.locator("#run-status")).to_contain_text("done", timeout=400_000)


def serve(page: Page, folder: Path) -> None:
    """The result of the run whose page is open is activated, and answers."""
    story.activate_result(page)
    page.get_by_role("link", name="Chat with it").click()
    page.wait_for_url(re.compile("/chat$"))
    story.ask(page, "What is the rudder for?")
    page.locator("main details[open]").evaluate_all("folds => folds.forEach(fold => { fold.open = false })")
    shoot(page, folder, "chat")
    for name in ("models", "hosts"):
        page.goto(f"/{name}/")
        shoot(page, folder, name)


def compare(page: Page, folder: Path, runs: list[int]) -> None:
    """Runs in the table and over each other."""
    page.goto("/runs/")
    shoot(page, folder, "runs")
    page.goto(f"/runs/compare?runs={','.join(map(str, runs))}&key=loss")
    page.wait_for_function("() => document.getElementById('chart-compare').data?.length === 6")
    shoot(page, folder, "compare")


def main(folder: Path) -> None:
    """Does the main job on simulated GPUs and takes the pictures on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    path = chromium_path()
    assert path is not None, "no Chromium or Chrome was found"
    with (
        tempfile.TemporaryDirectory(prefix="screenshots-", ignore_cleanup_errors=True) as name,
        sync_playwright() as playwright,
    ):
        scratch = Path(name)
        gpus = FakeGpus(scratch / "gpus.txt")
        gpus.set(count=2)
        rest(gpus)
        product = Product(scratch, build_tiny_model(scratch / "tiny"))
        with (
            on_simulated_gpus(product, gpus, count=2) as running,
            launched(playwright, path) as browser,
            opened(browser, running, "admin", viewport=SIZES["wide"]) as watched,
        ):
            page = watched.page
            page.goto("/")
            shoot(page, folder, "first-steps")
            page.get_by_role("button", name="Put away").click()
            train(page, folder, scratch, lambda: work(gpus, running))
            rest(gpus)
            serve(page, folder)
            compare(page, folder, json.loads(running.python("-m", "tests.browser.compared_runs", "rates")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
