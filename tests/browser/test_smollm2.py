"""A real pretrained model learns a style: fetched, asked, fine-tuned, activated and asked again, in the browser."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tokenizers import Tokenizer

from monitoring.events import SPEC_FILE, Progress
from tests import style
from tests.browser import story
from tests.browser.conftest import OpenPage
from tests.product import Product
from tests.training.attempts import Attempt

pytestmark = [pytest.mark.slow, pytest.mark.smollm2, pytest.mark.timeout(1500)]
STARTER = "smollm2-135m-instruct"
FETCHED_MILLISECONDS = 300_000
TRAINED_MILLISECONDS = 600_000
ANSWER_TOKENS = 40  # the longest answer in the style has about 30
SETTINGS = {
    "hyperparams.max_steps": 14,
    "hyperparams.per_device_train_batch_size": 4,
    "hyperparams.learning_rate": "2e-3",
    "hyperparams.max_length": 128,
    "data.eval_fraction": 0,
}


def test_a_style_is_learned(own_product: Product, open_page: OpenPage, tmp_path: Path) -> None:
    own_product.manage("shell", "-c", "from controlplane.services import models; "
                       "from controlplane.models.access import SYSTEM; "
                       f"models.register(SYSTEM, '{STARTER}', 'smollm2')")  # fmt: skip
    watched = open_page("admin", of=own_product, viewport={"width": 1440, "height": 900})
    page = watched.page
    page.goto(f"/models/at/{STARTER}")
    expect(page.get_by_role("button", name="Activate", exact=True)).to_be_visible(timeout=FETCHED_MILLISECONDS)

    assert_converted(own_product)

    story.activate(page, STARTER)
    before = [story.ask(page, question, max_tokens=ANSWER_TOKENS) for question in style.HELD_OUT]
    assert sum(map(style.is_in_style, before)) <= 1, before

    story.upload(page, style.write(tmp_path / "style.jsonl"), "style")
    run_id = story.start_run(page, "hail the captain", "style", STARTER, SETTINGS)
    expect(page.locator("#run-status")).to_contain_text("done", timeout=TRAINED_MILLISECONDS)
    losses = story.plotted(page)
    assert losses[max(losses)] < losses[min(losses)] / 3
    assert own_product.run_facts(run_id)["result_model"]

    story.activate_result(page)
    page.get_by_role("link", name="Chat with it").click()
    page.wait_for_url(re.compile("/chat$"))
    after = [story.ask(page, question, max_tokens=ANSWER_TOKENS) for question in style.HELD_OUT]
    assert sum(map(style.is_in_style, after)) >= 8, after


def assert_converted(product: Product) -> None:
    """The fetch told its steps, asked the model a question, left a model with mended tokenizer and licence."""
    (job,) = (product.home / "jobs").iterdir()
    attempt = Attempt(job / "attempts" / "1", "fetch")
    notes = [body.note for body in attempt.all(Progress) if body.unit == "steps"]
    assert notes == ["Unpacking", "Reading the tokenizer", "Converting the weights", "Asking it a question", "Done"]
    values = attempt.result()
    assert values["answer"] == "The capital of France is Paris."
    assert (values["architecture"], values["dtype"]) == ("LlamaForCausalLM", "bfloat16")
    assert values["parameters"] == 134_515_008
    assert values["has_chat_template"]

    folder = Path(json.loads((attempt.folder / SPEC_FILE).read_text())["model_dir"])
    assert json.loads((folder / "pilothouse.json").read_text())["source"]["license"] == "Apache-2.0"
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("In 1969, 12 men.").tokens
    assert tokens == ["In", "Ġ", "1", "9", "6", "9", ",", "Ġ", "1", "2", "Ġmen", "."]
