"""The main job as a person does it: upload by the form, train, watch the loss fall live, activate, chat."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser import story
from tests.browser.conftest import OpenPage
from tests.product import Product
from tests.tiny import style_answer, write_style_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 150
SETTINGS = {
    "hyperparams.max_steps": STEPS,
    "hyperparams.per_device_train_batch_size": 16,
    "hyperparams.learning_rate": "5e-3",
    "hyperparams.max_length": 128,
    "monitoring.eval_steps": 1000,
    "model.method": "full",
}


OF_CHECKPOINTS = "/evaluations"
"""What a page asks for when a checkpoint comes, and not when a point does."""


def written(product: Product, run_id: int, key: str) -> dict[int, Any]:
    """The points of a run's first attempt as its event file has them now."""
    job_id = product.run_facts(run_id)["job_id"]
    events = map(json.loads, (product.attempt_folder(job_id) / "events.jsonl").read_text().splitlines())
    return {
        event["step"]: event["values"][key] for event in events if event["kind"] == "metrics" and key in event["values"]
    }


def test_the_whole_story(product: Product, open_page: OpenPage, tmp_path: Path) -> None:
    watched = open_page("admin", viewport={"width": 1440, "height": 900})
    page = watched.page
    story.upload(page, write_style_dataset(tmp_path / "story.jsonl", rows=200, seed=3), "story")
    run_id = story.start_run(page, "the story", "story", "tiny", SETTINGS)

    story.wait_for_points(page, 20)
    asked_before, frames_before = len(watched.watch.requests), len(watched.watch.frames)
    shown = story.plotted(page)
    on_disk = written(product, run_id, "loss")
    assert shown == {step: on_disk[step] for step in shown}
    story.wait_for_points(page, 50)
    asked = [request for request in watched.watch.requests[asked_before:] if not request.endswith(OF_CHECKPOINTS)]
    assert asked == [], "the page asked for something while points came"
    frames = [json.loads(frame) for frame in watched.watch.frames[frames_before:]]
    assert [frame for frame in frames if frame["topic"] == f"run:{run_id}" and frame["kind"] == "metrics"]
    assert product.run_facts(run_id)["status"] == "running", "the run was over before it was watched"

    expect(page.locator("#run-status")).to_contain_text("done", timeout=120_000)
    story.wait_for_points(page, STEPS)
    for chart, key in (("chart-loss", "loss"), ("chart-learning-rate", "learning_rate")):
        assert story.plotted(page, chart) == written(product, run_id, key)
    losses = story.plotted(page)
    assert losses[STEPS] < losses[1] / 3

    story.activate_result(page)
    page.get_by_role("link", name="Chat with it").click()
    page.wait_for_url(re.compile("/chat$"))
    assert story.ask(page, "What is the anchor for?") == style_answer("the anchor")
    expect(page.locator(".bubble.assistant .meta")).to_contain_text(re.compile(r"\d+ ms to the first · .*\d+ tokens"))


def test_a_laptop_that_was_closed_comes_back_without_a_hole(
    own_product: Product, open_page: OpenPage, tmp_path: Path
) -> None:
    watched = open_page("use", of=own_product)
    page = watched.page
    for expected in ("ERR_CONNECTION_REFUSED", "WebSocket connection", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET"):
        watched.watch.allow(expected)
    story.upload(page, write_style_dataset(tmp_path / "closed.jsonl", rows=300, seed=4), "closed")
    run_id = story.start_run(page, "closed laptop", "closed", "tiny", SETTINGS)
    story.wait_for_points(page, 10)
    own_product.kill_web()
    expect(page.locator("body")).to_contain_text("Connection lost", timeout=30_000)
    place = page.locator("main").bounding_box()
    assert place is not None
    assert place["y"] < 100, "the page stays beside its navigation"
    own_product.start_web()
    own_product.wait_for_run(run_id)
    story.wait_for_points(page, STEPS)
    assert story.plotted(page) == written(own_product, run_id, "loss")
