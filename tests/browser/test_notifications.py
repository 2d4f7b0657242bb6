"""Jobs that end while nobody looks: a notification of the browser's where it was asked for, and marks on the tab."""

import json
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.server import WatchedPage
from tests.product import Product, wait_for
from tests.tiny import write_style_dataset

SPY = """
window.told = [];
window.asked = 0;
class Spy extends EventTarget {
  static permission = "default";
  static async requestPermission() { window.asked += 1; Spy.permission = "granted"; return "granted"; }
  constructor(title, options) { super(); window.told.push({ title, ...options }); window.lastNote = this; }
  close() {}
}
window.Notification = Spy;
"""
HEAR = """() => {
  window.heard = [];
  window.ear = new BroadcastChannel("ended");
  window.ear.onmessage = ({ data }) => window.heard.push(data);
}"""
AWAY = "() => { document.hasFocus = () => %s; }"


def look(page: Page, front: bool) -> None:
    """Brings the page to the front, or something else."""
    page.evaluate(AWAY % ("true" if front else "false"))
    if front:
        page.evaluate("() => window.dispatchEvent(new Event('focus'))")


def choose(page: Page, words: str) -> None:
    page.goto("/settings/")
    page.get_by_role("group", name="Tell me when").get_by_role("button", name=words).click()


def jobs_told(watched: WatchedPage, job_id: int) -> bool:
    frames = (json.loads(frame) for frame in watched.watch.frames)
    ends = (frame["data"] for frame in frames if (frame["topic"], frame["kind"]) == ("jobs", "status"))
    return any(data["id"] == job_id and data["status"] == "done" for data in ends)


def uploaded(page: Page, tmp_path: Path, name: str, seed: int) -> int:
    """A dataset that the page's own person uploads; returns the job that validates it."""
    text = write_style_dataset(tmp_path / f"{name}.jsonl", rows=20, seed=seed).read_text()
    answer: dict[str, Any] = page.evaluate(
        """async ([name, text]) => {
            const body = new FormData();
            body.append("file", new Blob([text]), `${name}.jsonl`);
            body.append("name", name);
            const token = JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRFToken"];
            return (await fetch("/api/datasets", { method: "POST", body, headers: { "X-CSRFToken": token } })).json();
        }""",
        [name, text],
    )
    return int(answer["job_id"])


def test_what_ends_unseen_is_told_and_marked_until_one_looks(
    product: Product, open_page: OpenPage, tmp_path: Path
) -> None:
    watched = open_page("use")
    page = watched.page
    page.add_init_script(SPY)
    choose(page, "No")
    assert page.evaluate("window.asked") == 0, "the browser was asked though nobody wanted it"
    choose(page, "My own")
    expect(page.locator("#notify-state")).to_contain_text("They come while")
    assert page.evaluate("window.asked") == 1
    look(page, front=False)
    uploaded(page, tmp_path, "told", 41)
    page.wait_for_function("() => window.told.length === 1")
    told = page.evaluate("window.told[0]")
    assert told["title"] == "Validate told v1 is done"
    assert re.fullmatch(r"job-\d+-1", told["tag"])
    expect(page).to_have_title("(1) Settings · Pilothouse")
    icon = page.locator('link[rel="icon"]')
    assert "icon-unseen" in str(icon.get_attribute("href"))
    expect(page.locator("#said")).to_have_text("Validate told v1 is done")
    look(page, front=True)
    expect(page).to_have_title("Settings · Pilothouse")
    assert "icon-unseen" not in str(icon.get_attribute("href"))
    page.evaluate("() => window.lastNote.dispatchEvent(new Event('click'))")
    page.wait_for_url(re.compile("/queue/$"))


def test_strangers_jobs_are_told_to_those_alone_who_want_them_all(
    product: Product, open_page: OpenPage, tmp_path: Path
) -> None:
    watched, maker = open_page("read"), open_page("use").page
    page = watched.page
    page.add_init_script(SPY.replace('"default"', '"granted"'))
    maker.goto("/settings/")
    choose(page, "My own")
    look(page, front=False)
    strangers = uploaded(maker, tmp_path, "a stranger's", 42)
    page.wait_for_function("() => document.body.dataset.liveState === 'live'")
    expect(maker.locator("#said")).to_contain_text("a stranger's v1 is done")
    wait_for("the message", lambda: page.evaluate("true") and jobs_told(watched, strangers))
    assert page.evaluate("window.told") == []
    choose(page, "Everybody's")
    look(page, front=False)
    uploaded(maker, tmp_path, "another's", 43)
    page.wait_for_function("() => window.told.length === 1")
    assert page.evaluate("window.told[0].title") == "Validate another's v1 is done"


def test_nothing_is_told_while_another_tab_is_in_front(product: Product, open_page: OpenPage, tmp_path: Path) -> None:
    watched = open_page("use")
    front = watched.page
    watched.context.add_init_script(SPY.replace('"default"', '"granted"'))
    choose(front, "My own")
    behind = watched.context.new_page()
    behind.goto("/queue/")
    behind.wait_for_function("() => document.body.dataset.liveState === 'live'")
    behind.evaluate(HEAR)
    look(behind, front=False)
    look(front, front=True)
    uploaded(front, tmp_path, "seen in front", 44)
    behind.wait_for_function("() => window.heard.some((message) => message.seen)")
    look(front, front=False)
    uploaded(front, tmp_path, "seen nowhere", 45)
    behind.wait_for_function("() => window.told.length === 1")
    assert behind.evaluate("window.told[0].title") == "Validate seen nowhere v1 is done"
    assert behind.title().startswith("(1) ")
    assert [told["title"] for told in front.evaluate("window.told")] == ["Validate seen nowhere v1 is done"]
    addresses = behind.locator("#said").evaluate("said => ({ ...said.dataset })")
    assert addresses == {
        "runPage": "/runs/0/", "evalPage": "/evaluate/jobs/0", "data_genPage": "/datasets/generate/jobs/0",
        "queuePage": "/queue/",
    }  # fmt: skip
