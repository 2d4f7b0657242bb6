"""The playground on a real engine: branches, stopping, two models side by side, blind votes, collecting, copying."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import story
from tests.browser.conftest import OpenPage
from tests.browser.server import WatchedPage
from tests.product import Product, wait_for

pytestmark = pytest.mark.slow
OTHER = "tiny-two"


@pytest.fixture(scope="module")
def served(product: Product, tiny_model: Path) -> Iterator[Product]:
    """The product with `tiny` active, and another model that nobody serves yet."""
    with product.client("admin") as client:
        client.post("/api/models/set_active", json={"id": "tiny"}, timeout=300).raise_for_status()
        body = {"id": OTHER, "source": "directory", "path": str(tiny_model)}
        client.post("/api/models/register", json=body).raise_for_status()
        wait_for(OTHER, lambda: client.get(f"/api/models/{OTHER}").json()["state"] == "ready")
    yield product


def begin(watched: WatchedPage, address: str = "/chat", tokens: int = 24) -> Page:
    """A new conversation at temperature 0."""
    page = watched.page
    page.goto(address)
    page.fill("#chat-temperature", "0")
    page.fill("#chat-tokens", str(tokens))
    return page


def send(page: Page, words: str) -> None:
    """Says something and waits for the end of all answers."""
    page.fill("#chat-text", words)
    page.press("#chat-text", "Enter")
    answered(page)


def answered(page: Page) -> None:
    expect(page.locator("#chat-send")).to_be_visible(timeout=story.ANSWER_MILLISECONDS)


def said(page: Page) -> list[str]:
    """The texts of all bubbles."""
    return page.locator("#chat-log .bubble .text").all_inner_texts()


def act(page: Page, word: str, place: int = -1) -> Locator:
    """A button below a bubble."""
    found = page.locator("#chat-log").get_by_role("button", name=word, exact=True)
    return found.nth(place) if place >= 0 else found.last


def test_a_conversation_is_a_tree_that_comes_back(served: Product, open_page: OpenPage) -> None:
    page = begin(open_page("use"))
    send(page, "A first question about masts")
    page.wait_for_url(re.compile(r"/chat/\d+$"))
    expect(page.locator(".bubble.assistant .meta")).to_contain_text("tokens")
    page.fill("#chat-temperature", "1.5")
    act(page, "Regenerate").click()
    expect(page.locator(".branches")).to_have_text("‹2/2›")
    answered(page)
    second = said(page)[1]
    act(page, "Branch before").click()
    expect(page.locator(".branches")).to_have_text("‹1/2›")
    assert said(page)[1] != second
    act(page, "Next branch").click()
    send(page, "A second question")
    assert len(said(page)) == 4
    act(page, "Edit", 1).click()
    page.locator("#chat-log .edit textarea").fill("The second question, edited")
    page.get_by_role("button", name="Send as a branch").click()
    expect(page.locator(".said.user .branches")).to_have_text("‹2/2›")
    answered(page)
    whole = said(page)
    assert whole[:3] == ["A first question about masts", second, "The second question, edited"]

    page.reload()
    expect(page.locator("#chat-log .bubble")).to_have_count(4)
    assert said(page) == whole
    assert page.input_value("#chat-temperature") == "1.5"
    page.goto("/chat/conversations")
    page.fill("#table-search", "nothing like it")
    page.press("#table-search", "Enter")
    expect(page.locator("#conversation-rows")).to_contain_text("Nothing is like that")
    page.fill("#table-search", "MASTS")
    page.press("#table-search", "Enter")
    expect(page.get_by_role("link", name="A first question about masts")).to_be_visible()
    page.get_by_role("button", name="Rename").click()
    page.fill("#rename-text", "Masts")
    page.locator("#rename").get_by_role("button", name="Rename").click()
    page.get_by_role("link", name="Masts").click()
    expect(page.locator("h1")).to_have_text("Masts")
    page.go_back()
    page.locator("tr", has_text="Masts").get_by_role("button", name="Delete").click()
    page.click("#confirm-yes")
    expect(page.locator("#messages")).to_contain_text("deleted")
    expect(page.get_by_role("link", name="Masts")).to_have_count(0)


@pytest.mark.parametrize("way", ["button", "tab"])
def test_what_came_before_a_stop_stays(served: Product, open_page: OpenPage, way: str) -> None:
    watched = open_page("use")
    page = begin(watched, tokens=900)
    page.fill("#chat-text", f"Say very much by {way}")
    page.click("#chat-send")
    expect(page.locator(".bubble.is-writing .meta")).to_contain_text("tokens", timeout=story.ANSWER_MILLISECONDS)
    address = page.url
    if way == "button":
        page.click("#chat-stop")
        answered(page)
        expect(page.locator(".bubble.assistant .meta")).to_contain_text("stopped by you")
    else:
        page.close()
        page = watched.context.new_page()
    page.goto(address)
    expect(page.locator(".bubble.assistant .meta")).to_contain_text("stopped by you")
    page.fill("#chat-tokens", "16")
    send(page, "Go on")
    assert len(said(page)) == 4


def test_while_an_answer_is_written_nothing_is_asked_and_what_is_typed_stays(
    served: Product, open_page: OpenPage
) -> None:
    page = begin(open_page("use"), tokens=8)
    page.fill("#chat-temperature", "1.2")  # at 0 the untrained model may end at once
    send(page, "A first one")
    page.fill("#chat-tokens", "900")
    page.fill("#chat-text", "Say very much")
    page.press("#chat-text", "Enter")
    expect(page.locator(".bubble.is-writing .meta")).to_contain_text("tokens", timeout=story.ANSWER_MILLISECONDS)
    act(page, "Edit", 0).click()
    page.locator("#chat-log .edit textarea").fill("A first one, edited")
    for word in ("Send as a branch", "Regenerate"):
        expect(act(page, word)).to_be_disabled()
        expect(act(page, word)).to_have_attribute("title", re.compile("An answer is being written"))
    act(page, "Code").click()
    page.keyboard.press("Escape")
    expect(page.locator("#chat-code")).to_be_hidden()
    expect(page.locator("#chat-stop")).to_be_visible()  # that Esc was the dialog's
    page.locator("#chat-log .edit textarea").press("Escape")
    answered(page)
    expect(page.locator(".bubble.assistant .meta").last).to_contain_text("stopped by you")
    box = page.locator("#chat-log .edit textarea")
    expect(box).to_have_value("A first one, edited")
    expect(box).to_be_focused()
    page.fill("#chat-tokens", "8")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    act(page, "Send as a branch").dblclick()
    expect(page.locator(".said.user .branches")).to_have_text("‹2/2›")
    answered(page)
    assert (asked.count("turns"), asked.count("answers")) == (1, 1)
    act(page, "Regenerate").dblclick()
    expect(page.locator(".said.assistant .branches")).to_have_text("‹2/2›")
    answered(page)
    assert (asked.count("turns"), asked.count("answers")) == (1, 2)


def test_a_second_tab_asks_when_the_firsts_answer_is_there(served: Product, open_page: OpenPage) -> None:
    watched = open_page("use")
    first = begin(watched, tokens=900)
    first.fill("#chat-text", "Say very much to two tabs")
    first.press("#chat-text", "Enter")
    expect(first.locator(".bubble.is-writing .meta")).to_contain_text("tokens", timeout=story.ANSWER_MILLISECONDS)
    watched.watch.allow("409")
    second = watched.context.new_page()
    asked: list[str] = []
    second.on("request", lambda request: asked.append(request.url))
    second.goto(first.url)
    expect(second.locator("#chat-log .bubble")).to_have_count(2)
    second.fill("#chat-tokens", "8")
    second.fill("#chat-text", "Too early")
    second.press("#chat-text", "Enter")
    expect(second.locator("#toasts")).to_contain_text("still being written")
    expect(second.locator("#chat-send")).to_be_visible()
    expect(second.locator("#chat-text")).to_have_value("Too early")
    first.click("#chat-stop")
    expect(second.locator(".bubble.assistant .meta")).to_contain_text("stopped by you")
    second.press("#chat-text", "Enter")
    answered(second)
    assert len(said(second)) == 4
    second.click("#chat-new")
    send(second, "Anew")
    assert not [address for address in asked if "null" in address]


def test_two_models_side_by_side_blind_until_the_vote(served: Product, open_page: OpenPage) -> None:
    page = begin(open_page("admin"), f"/chat?model=tiny&beside={OTHER}")
    expect(page.locator("#chat-models")).to_contain_text(f"{OTHER} is not served")
    expect(page.locator("#chat-send")).to_be_disabled()
    page.get_by_role("button", name="Serve it beside").click()
    expect(page.locator("#chat-send")).to_be_enabled(timeout=story.ACTIVATED_MILLISECONDS)
    page.fill("#chat-temperature", "0")
    page.fill("#chat-tokens", "16")
    page.check("#chat-blind")
    send(page, "Which of you is better?")
    names = page.locator(".answer-name")
    expect(names).to_have_text(["left · name hidden", "right · name hidden"])
    page.reload()
    expect(names).to_have_text(["left · name hidden", "right · name hidden"])
    send(page, "Once more")
    expect(names).to_have_count(4)
    assert OTHER not in page.locator("#chat-log").inner_text()
    page.get_by_role("button", name="Left is better").last.click()
    expect(names.last).not_to_contain_text("hidden")
    shown = [text.partition(" · ")[2] for text in names.all_inner_texts()]
    assert (set(shown[:2]), shown[2:]) == ({"tiny", OTHER}, shown[:2]), "the first exchange kept its sides"
    expect(page.get_by_role("button", name="Left is better").last).to_have_attribute("aria-pressed", "true")
    page.goto("/chat/votes?blind=yes")
    row = page.locator("tr", has_text=OTHER)
    expect(row).to_contain_text("1 of 1")
    page.go_back()
    page.get_by_role("button", name="Tie").first.click()
    expect(page.get_by_role("button", name="Tie").first).to_have_attribute("aria-pressed", "true")
    page.goto("/chat/votes")
    expect(page.locator("tr", has_text=OTHER)).to_contain_text("1 of 2")  # the second one was not blind
    with served.client("read") as client:
        assert OTHER in client.get("/api/votes.csv").text


def test_an_exchange_becomes_a_row_of_a_dataset(served: Product, open_page: OpenPage) -> None:
    page = begin(open_page("use"))
    page.fill("#chat-system", "You keep a harbour.")
    page.fill("#chat-temperature", "1.2")  # at 0 the untrained model says nothing but line breaks
    page.fill("#chat-seed", "7")
    send(page, "What is a row?")
    whole = said(page)
    act(page, "Collect").click()
    page.fill("#chat-collect-set", "harbour rows")
    page.locator("#chat-collect").get_by_role("button", name="Collect").click()
    page.get_by_role("link", name="See the set").click()
    turns = page.locator(".conversation .turn")
    expect(turns).to_have_count(3)
    assert all(words.strip() in text for words, text in zip(whole, turns.all_inner_texts()[1:], strict=True))
    page.get_by_role("button", name="Make dataset").click()
    page.fill("#make-dataset-held", "0")
    page.get_by_role("button", name="Make it").click()
    page.wait_for_url(re.compile(r"/datasets/\d+/$"))
    expect(page.locator(".page-head")).to_contain_text("ready", timeout=story.VALIDATED_MILLISECONDS)
    expect(page.locator("dl.facts").first).to_contain_text("pilothouse chat tiny")


def test_an_answer_is_copied_as_a_call_that_gives_it_again(served: Product, open_page: OpenPage) -> None:
    page = begin(open_page("use"))
    page.fill("#chat-top-k", "7")
    page.fill("#chat-stops", "it's\nover")
    send(page, 'What\'s the "anchor" for?\n\\ Tell me.')
    answer = said(page)[1]
    act(page, "Code").click()
    arguments = shlex.split(page.locator("#chat-code-text").inner_text().replace("\\\n", ""))
    body = json.loads(arguments[arguments.index("-d") + 1])
    assert "Authorization: Bearer YOUR_KEY" in arguments
    with served.client("use") as client:
        told = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    assert told["choices"][0]["message"]["content"].strip() == answer.strip()
    assert (body["top_k"], body["stop"], body["temperature"]) == (7, ["it's", "over"], 0)
    page.get_by_role("button", name="Python").click()
    program = page.locator("#chat-code-text").inner_text().replace("YOUR_KEY", served.keys["use"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == answer.strip()


def test_a_figure_that_cannot_be_is_marked_and_nothing_is_asked(served: Product, open_page: OpenPage) -> None:
    page = begin(open_page("use"))
    before = page.request.get("/api/conversations").json()
    page.fill("#chat-top-p", "2")
    page.fill("#chat-text", "Hello")
    page.click("#chat-send")
    expect(page.locator("#chat-top-p")).to_have_attribute("aria-invalid", "true")
    assert page.input_value("#chat-text") == "Hello"
    expect(page.locator("#chat-log .bubble")).to_have_count(0)
    answer = page.request.get("/api/conversations")
    assert (answer.status, answer.json()) == (200, before)
