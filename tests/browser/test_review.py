"""The review of generated rows as a person has it: by keys, by mouse, by thumb, until they are a dataset."""

from typing import Any

import pytest
from playwright.sync_api import Dialog, Page, Route, expect

from tests.browser.conftest import OpenPage
from tests.product import Product, wait_for

pytestmark = pytest.mark.slow
PHONE = {"width": 390, "height": 844}


def generated(product: Product, examples: int) -> dict[str, Any]:
    """A generation whose rows wait to be looked at."""
    config = {"num_examples": examples, "output_dir": "sums to review"}
    with product.client("use") as client:
        body = {"model_id": "", "strategy": "regime3", "config": config}
        job = client.post("/api/data_gen/jobs", json=body).raise_for_status().json()["job_id"]

        def read() -> dict[str, Any] | None:
            told: dict[str, Any] = client.get(f"/api/data_gen/jobs/{job}").json()
            assert told["status"] != "failed", f"{told['error']}\n{product.logs()}"
            return told if told["is_read"] else None

        told = wait_for("the rows", read, 120)
    assert told["examples"]["pending"] == examples
    return told


def shows(page: Page, title: str, state: str) -> None:
    """Waits until the card shows a row in a state."""
    expect(page.locator("#review-title")).to_have_text(title)
    expect(page.locator("#review-state")).to_contain_text(state)


def test_rows_are_reviewed_until_they_are_a_dataset(product: Product, open_page: OpenPage) -> None:
    told = generated(product, 8)
    watched = open_page("use")
    page = watched.page
    page.goto("/datasets/")
    page.get_by_role("link", name="Generate data").click()
    page.get_by_role("link", name="8 to look at").first.click()
    words, turns, keys = page.locator("#review-words"), page.locator("#review-turns"), page.keyboard

    # By keys: accept, reject, undo, back and further.
    shows(page, "Row 1", "pending")
    keys.press("a")
    shows(page, "Row 2", "pending")
    keys.press("r")
    shows(page, "Row 3", "pending")
    expect(words).to_have_text("2 of 8 decided · 1 accepted · 1 rejected")
    keys.press("u")
    shows(page, "Row 2", "pending")
    keys.press("ArrowLeft")
    shows(page, "Row 1", "accepted")
    keys.press("ArrowRight")
    keys.press("r")
    shows(page, "Row 3", "pending")

    # An edit: what the profile's check says stands there before it can be saved; Esc leaves the row as it was.
    before = turns.inner_text()
    keys.press("e")
    answer = page.locator("#review-fields textarea").last
    expect(answer).to_be_focused()
    right = answer.input_value()
    answer.fill(right.replace("<<ANS_END>>", ""))
    expect(page.locator("#review-faults")).to_contain_text("not exactly one pair")
    expect(page.get_by_role("button", name="Save and accept")).to_be_disabled()
    keys.press("Escape")
    page.get_by_role("button", name="Throw it away").click()
    expect(turns).to_have_text(before, use_inner_text=True)
    keys.press("e")
    question = page.locator("#review-fields textarea").nth(-2)
    question.fill("How much is it?")
    keys.press("Control+Enter")
    shows(page, "Row 4", "pending")
    keys.press("ArrowLeft")
    shows(page, "Row 3", "accepted")
    expect(turns).to_contain_text("How much is it?")
    expect(page.locator("#review-edited")).to_be_visible()
    keys.press("u")
    shows(page, "Row 3", "pending")
    expect(turns).to_have_text(before, use_inner_text=True)

    # By mouse, and by thumb on a phone, where what was decided before is decided still.
    page.locator("[data-do=accept]").click()
    shows(page, "Row 4", "pending")
    page.locator("[data-filter=rejected]").click()
    shows(page, "Row 2", "rejected")
    expect(words).to_have_text("3 of 8 decided · 2 accepted · 1 rejected")
    phone = open_page("use", viewport=PHONE, has_touch=True).page
    phone.goto(f"/datasets/generate/{told['id']}/review")
    shows(phone, "Row 4", "pending")
    phone.locator("[data-do=reject]").tap()
    shows(phone, "Row 5", "pending")
    expect(phone.locator("#review-words")).to_have_text("4 of 8 decided · 2 accepted · 2 rejected")
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")

    # The rest at once, asked first; then a dataset, once, however often the button is pressed.
    page.reload()
    page.get_by_role("button", name="Accept all pending").click()
    page.locator("#confirm").get_by_role("button", name="Leave it").click()
    page.get_by_role("button", name="Accept all pending").click()
    page.get_by_role("button", name="Accept them").click()
    expect(page.locator("#messages")).to_contain_text("4 rows are accepted")
    page.get_by_role("link", name="Make dataset").first.click()
    page.fill("[name=name]", "reviewed sums")
    page.get_by_role("button", name="Make dataset").dblclick()
    expect(page.get_by_role("link", name="reviewed sums v1")).to_be_visible()
    expect(page.locator("#dataset")).to_contain_text("ready")
    expect(page.locator("#dataset")).to_contain_text("6 examples")
    with product.client("read") as client:
        named = [row["id"] for row in client.get("/api/datasets").json()["datasets"] if row["name"] == "reviewed sums"]
        assert client.get(f"/api/data_gen/jobs/{told['job_id']}").json()["dataset_id"] == named[0]
    assert len(named) == 1


def test_what_waits_to_be_sent_and_what_was_typed_is_not_lost(product: Product, open_page: OpenPage) -> None:
    told = generated(product, 4)
    page = open_page("use").page
    keys, confirm = page.keyboard, page.locator("#confirm")
    held: list[Route] = []
    page.route(
        "**/examples/*", lambda route: held.append(route) if route.request.method == "PATCH" else route.fallback()
    )

    def release() -> None:
        wait_for("a decision on its way", lambda: (page.title(), held)[1])
        held.pop().continue_()

    # What still waits is asked about before the page goes, and sent before all others are accepted.
    page.goto(f"/datasets/generate/{told['id']}/review")
    shows(page, "Row 1", "pending")
    keys.press("r")
    shows(page, "Row 2", "pending")
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    page.once("dialog", stay)
    page.get_by_role("link", name="Make dataset").first.click()
    wait_for("the question", lambda: (page.title(), asked)[1])
    assert asked == ["beforeunload"]
    page.get_by_role("button", name="Accept all pending").click()
    assert not confirm.is_visible()
    release()
    confirm.get_by_role("button", name="Accept them").click()
    expect(page.locator("#messages")).to_contain_text("3 rows are accepted")
    shows(page, "Row 1", "rejected")

    # What was typed goes when whoever typed it says so, and while it is saved nothing takes its place.
    keys.press("e")
    question = page.locator("#review-fields textarea").nth(-2)
    question.fill("How much is it?")
    page.locator("[data-filter=accepted]").click()
    confirm.get_by_role("button", name="Leave it").click()
    keys.press("Escape")
    expect(confirm).to_be_visible()
    keys.press("Escape")
    expect(confirm).to_be_hidden()
    expect(question).to_have_value("How much is it?")
    keys.press("Control+Enter")
    expect(page.locator("[data-filter=accepted]")).to_be_disabled()
    keys.press("Escape")
    assert question.is_visible()
    assert not confirm.is_visible()
    release()
    shows(page, "Row 2", "accepted")
    keys.press("ArrowLeft")
    shows(page, "Row 1", "accepted")
    expect(page.locator("#review-turns")).to_contain_text("How much is it?")
