"""The log of a job as a person reads it: older lines, following, searching, levels, markup that stays text."""

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser import judges
from tests.browser.conftest import OpenPage
from tests.product import Product, wait_for

LINES = 3000
SEE_EMPTY = """() => {
  const box = document.querySelector("[data-log-lines]");
  window.wasEmpty = false;
  new MutationObserver(() => { window.wasEmpty ||= !box.childElementCount; }).observe(box, { childList: true });
}"""


@pytest.fixture(scope="module")
def done_job(product: Product, tmp_path_factory: pytest.TempPathFactory) -> int:
    """A job that is done."""
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_text(
        json.dumps({"text": "A log is a piece of wood on a line, thrown overboard to tell the speed."}) + "\n"
    )
    with product.client("use") as client, path.open("rb") as file:
        dataset = client.post("/api/datasets", files={"file": file}, data={"name": "logged"}).json()
        found = int(dataset["job_id"])
        wait_for("the validation", lambda: client.get(f"/api/jobs/{found}").json()["status"] == "done")
    return found


@pytest.fixture
def job_id(product: Product, done_job: int) -> int:
    """The same with a long log."""
    log = product.attempt_folder(done_job) / "log.txt"
    lines = [f"2026-11-30 16:00:00 INFO step {number}" for number in range(LINES)]
    lines[40] = "\x1b[31m2026-11-30 16:00:00 ERROR <img src=x onerror=alert(1)> aground\x1b[0m"
    lines[2990] = "x" * 1_000_000
    log.write_text("\n".join(lines) + "\n")
    return done_job


def shown(page: Page) -> list[int]:
    """The numbers of the lines that are in the page."""
    found: list[int] = page.eval_on_selector_all(
        ".log-line", "lines => lines.map((line) => Number(line.dataset.number))"
    )
    return found


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """An attempt as if its process still wrote."""
    with (folder / "lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_the_end_comes_first_and_older_lines_by_scrolling_up(open_page: OpenPage, job_id: int) -> None:
    watched = open_page("read", viewport={"width": 1440, "height": 900})
    page = watched.page
    page.goto("/queue/")
    page.get_by_role("link", name=f"job {job_id}", exact=True).click()
    expect(page.locator("[data-log-state]")).to_have_text(re.compile(r"^lines 2,501 to 3,000, the last · 1\.1 MB$"))
    assert shown(page) == list(range(2501, 3001))
    expect(page.locator(".log-cut")).to_have_text(" … 984 kB more of this line: they are in the download.")
    while shown(page)[0] > 1:
        first = shown(page)[0]
        page.locator(".log-lines").evaluate("box => box.scrollTo(0, 0)")
        page.wait_for_function("first => Number(document.querySelector('.log-line').dataset.number) < first", arg=first)
    assert shown(page) == list(range(1, 3001))
    asked = [request for request in watched.watch.requests if "before=" in request]
    assert asked
    assert all("attempt=1" in request for request in asked), "another attempt may have begun meanwhile"
    expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")


def test_a_search_finds_in_the_whole_log_and_leads_to_the_place(open_page: OpenPage, job_id: int) -> None:
    page = open_page("read", viewport={"width": 390, "height": 844}).page
    page.goto(f"/queue/{job_id}/log")
    page.get_by_label("Search the whole log").fill("STEP 1")
    expect(page.locator("[data-log-state]")).to_contain_text("500 lines found back to line")
    page.get_by_label("Search the whole log").fill("onerror")
    expect(page.locator("[data-log-state]")).to_contain_text("1 line found in all of it")
    expect(page.locator(".log-text")).to_have_text("2026-11-30 16:00:00 ERROR <img src=x onerror=alert(1)> aground")
    expect(page.locator("mark")).to_have_text("onerror")
    assert page.url.endswith("?search=onerror")
    assert judges.violations(page) == []
    page.emulate_media(color_scheme="dark")
    assert judges.violations(page, judges.COLOURS) == []
    page.reload()
    expect(page.locator(".log-line.error")).to_have_count(1)
    page.get_by_role("button", name="41", exact=True).click()
    expect(page.locator(".is-sought .log-text")).to_contain_text("aground")
    assert shown(page)[:3] == [41, 42, 43]
    page.get_by_role("button", name="errors").click()
    expect(page.locator(".log-line")).to_have_count(1)


def test_what_could_not_be_read_is_read_again_and_nothing_old_stays(open_page: OpenPage, job_id: int) -> None:
    watched = open_page("read")
    watched.watch.allow("503")
    page = watched.page
    refused: list[bool] = []

    def refuse_once(route: Route) -> None:
        is_search = "search=" in route.request.url
        if is_search in refused:
            route.continue_()
        else:
            refused.append(is_search)
            route.fulfill(status=503, json={"error": {"message": "The host is away."}})

    page.route(f"**/api/jobs/{job_id}/log*", refuse_once)
    page.goto(f"/queue/{job_id}/log")
    expect(page.locator("[data-log-state]")).to_have_text(re.compile("^lines 2,501 to 3,000"))
    page.evaluate(SEE_EMPTY)
    page.get_by_label("Search the whole log").fill("onerror")
    expect(page.locator("[data-log-state]")).to_contain_text("1 line found in all of it")
    expect(page.locator(".log-line")).to_have_count(1)
    assert page.evaluate("window.wasEmpty"), "lines of another question stood beside the refusal"
    assert refused == [False, True]
    assert not [request for request in watched.watch.requests if "undefined" in request]


def test_new_lines_come_by_themselves_until_one_scrolls_up(open_page: OpenPage, product: Product, job_id: int) -> None:
    folder = product.attempt_folder(job_id)
    page = open_page("read").page
    with held(folder), (folder / "log.txt").open("a") as log:
        page.goto(f"/queue/{job_id}/log")
        expect(page.locator("[data-log-state]")).to_contain_text("growing")
        log.write("WARNING squall\n50%")
        log.flush()
        expect(page.locator(".log-line.warning")).to_have_text(re.compile("squall"))
        expect(page.locator(".log-line.is-open")).to_have_text(re.compile("50%"))
        log.write("\r100%\n")
        log.flush()
        expect(page.locator(".log-line").last).to_have_text(re.compile("100%"))
        expect(page.locator(".is-open")).to_have_count(0)
        page.locator(".log-lines").evaluate("box => box.scrollTo(0, box.scrollHeight / 2)")
        expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")
        log.write("INFO landfall\n")
        log.flush()
        page.get_by_role("button", name="Follow").click()
        expect(page.locator(".log-line").last).to_have_text(re.compile("landfall"))


def test_the_file_can_be_had(open_page: OpenPage, product: Product, job_id: int) -> None:
    page = open_page("read").page
    page.goto(f"/queue/{job_id}/log")
    with page.expect_download() as begun:
        page.get_by_role("link", name="Download").click()
    path = begun.value.path()
    assert begun.value.suggested_filename == f"job-{job_id}-attempt-1.log"
    assert path.read_bytes() == (product.attempt_folder(job_id) / "log.txt").read_bytes()


def test_what_goes_on_says_how_fast_and_how_long_still(open_page: OpenPage, job_id: int) -> None:
    page = open_page("read").page
    page.goto(f"/queue/{job_id}/log")
    told = page.evaluate(
        """async () => {
            const { Rate } = await import("/static/js/rate.js");
            const rate = new Rate(), found = [rate.add(0, 0).words("bytes", 9e6)];
            found.push(rate.add(2e6, 1000).words("bytes", 9e6), rate.add(4e6, 2000).words("rows", 0));
            found.push(rate.add(1e6, 3000).words("bytes", 9e6), rate.add(1e6, 9000).words("bytes", 9e6));
            return found;
        }"""
    )
    assert told == ["", "2.0 MB/s · 4 s left", "2,000,000 rows/s", "", ""]
