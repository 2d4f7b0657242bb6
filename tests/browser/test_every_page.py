"""Every page in Chromium at two widths, by day and by night: no complaint, no CSP violation, no sideways scrolling,
nothing that axe-core finds, and no more bytes, requests and work than its budget allows.
"""

import json
from typing import Any, Literal

import pytest
from playwright.sync_api import ViewportSize

from tests.browser import judges
from tests.browser.conftest import OpenPage
from tests.browser.judges import Budget, Work
from tests.product import Product
from tests.tiny import write_style_dataset

Theme = Literal["light", "dark"]
WIDTHS: dict[str, ViewportSize] = {"wide": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
THEMES: dict[str, tuple[Theme, Theme]] = {"wide": ("light", "dark"), "phone": ("dark", "light")}
FILLED = "/runs/compare?runs={run},{other}"
ONCE_SERVED = "/models/at/tiny"
"""Draws its history where another test has had it answer."""

PAGES = (
    "/", "/runs/", "/runs/new", "/runs/import", "/runs/{sent}/", "/runs/{run}/",
    "/runs/compare", FILLED, "/models/", "/models/add", ONCE_SERVED, "/datasets/",
    "/datasets/upload", "/datasets/{dataset}/", "/datasets/{dataset}/preview", "/chat", "/chat/conversations",
    "/chat/votes", "/chat/collected", "/queue/", "/queue/jobs/", "/queue/{job}/log", "/hosts/",
    "/hosts/{host}/", "/alerts/", "/alerts/rules", "/alerts/routes", "/power/", "/power/sweeps/", "/runs/sweeps/",
    "/queue/chains/", "/queue/inbox/", "/runs/sweeps/new", "/runs/templates/", "/settings/",
    "/settings/people", "/settings/keys", "/settings/values", "/settings/audit", "/settings/doctor",
    "/evaluate/", "/evaluate/new", "/datasets/generate/", "/datasets/generate/new",
    "/settings/storage", "/settings/storage/leftovers", "/settings/snapshots",
    "/styleguide", "/wall", "/api/docs",
)  # fmt: skip
FRAGMENTS = {"/datasets/{dataset}/preview"}
"""Parts of a page, without its frame: judged where they stand in it."""

PLAIN = Budget(kilobytes=170, requests=48, turns=200)
DRAWN = Budget(kilobytes=1600, requests=60, turns=1200)
"""With Plotly, of 1,250 kB, which is loaded after everything else and kept by the browser, and an hour of figures.

Turns are some three times what a busy machine counted: a plain page takes 20 to 60, one that compiles Plotly 420.
"""

BUDGETS = dict.fromkeys(
    ("/", "/runs/new", "/runs/{run}/", "/runs/{sent}/", "/runs/compare", FILLED, "/hosts/{host}/", ONCE_SERVED), DRAWN
) | {
    "/api/docs": Budget(kilobytes=900, requests=12, turns=2400),  # Swagger UI: 800 to 1,014 turns were counted
}
EXTREMES: dict[str, ViewportSize] = {
    "wide": {"width": 3840, "height": 2160},
    "phone": {"width": 360, "height": 640},
}
"""The largest screen and the smallest on which pages must do; judged by their width alone."""

BEYOND = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SHARE = "document.querySelector('main').getBoundingClientRect().width / document.documentElement.clientWidth"
AT_REST = "() => !document.querySelector('.htmx-request')"


@pytest.fixture(scope="module")
def places(product: Product, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Something to see on each page."""
    path = write_style_dataset(tmp_path_factory.mktemp("pages") / "pages.jsonl", rows=40, seed=21)
    dataset = product.upload(path, "pages")["id"]
    run = product.create_run("a run to look at", dataset, {"hyperparams": {"max_steps": 3, "max_length": 64}})["id"]
    job = product.wait_for_run(run)["job_id"]
    other = json.loads(product.python("-m", "tests.browser.compared_runs", "beside"))[0]
    with product.client("use") as client:
        sent = client.post("/api/runs/external", json={"name": "sent", "config": {"lr": 0.1}}).json()["id"]
        points = [{"step": step, "values": {"train/loss": 1 / step, "acc": float("inf")}} for step in range(1, 9)]
        body = json.dumps({"points": points})  # with Infinity, as Python writes it
        client.post(f"/api/runs/{sent}/metrics", content=body).raise_for_status()
    with product.client("read") as client:
        host = client.get("/api/system").json()["host"]
    return {"dataset": dataset, "run": run, "other": other, "job": job, "host": host, "sent": sent}


@pytest.mark.timeout(900)  # nearly fifty pages, each judged four times
@pytest.mark.parametrize("width", list(WIDTHS))
def test_every_page_opens_without_a_complaint(
    product: Product, open_page: OpenPage, places: dict[str, Any], width: str
) -> None:
    theme, other = THEMES[width]
    context = open_page("admin", viewport=WIDTHS[width], color_scheme=theme).context
    found: list[str] = []
    for pattern in PAGES:
        address, page = pattern.format(**places), context.new_page()
        work = Work(page)
        answer = page.goto(address, wait_until="load")
        assert answer is not None
        assert answer.status == 200, f"{address} answers {answer.status}"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        page.wait_for_function(AT_REST)
        found += [f"{address}: {text}" for text in BUDGETS.get(pattern, PLAIN).excess(page, work.turns())]
        if pattern not in FRAGMENTS:
            found += [f"{address} ({theme}): {text}" for text in judges.violations(page)]
        page.emulate_media(color_scheme=other)  # as when night falls over an open page
        if pattern not in FRAGMENTS:
            found += [f"{address} ({other}): {text}" for text in judges.violations(page, judges.COLOURS)]
        page.emulate_media(color_scheme=theme)
        for size in (WIDTHS[width], EXTREMES[width]):
            page.set_viewport_size(size)
            beyond = page.evaluate(BEYOND)
            if beyond > 0 and address != "/api/docs":
                found.append(f"{address} scrolls sideways by {beyond} px at {size['width']}")
        if width == "wide" and pattern not in FRAGMENTS and page.evaluate(SHARE) < 0.8:
            found.append(f"{address} is a thin strip at {EXTREMES[width]['width']}")
        page.close()
    assert found == [], "\n".join(found)


def test_a_stranger_sees_the_login_and_nothing_else(product: Product, open_page: OpenPage) -> None:
    page = open_page(None).page
    for pattern in PAGES[:-1]:
        page.goto(pattern.format(dataset=1, run=1, other=2, job=1, host="somewhere", sent=1))
        assert "/login" in page.url
