"""Every page in Chromium at two widths, by day and by night: no complaint, no CSP violation, no sideways scrolling."""

from typing import Any

import pytest

from tests.browser.conftest import OpenPage
from tests.product import Product
from tests.tiny import write_style_dataset

WIDTHS = {"wide": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
PAGES = (
    "/", "/runs/", "/runs/new", "/runs/{run}/", "/models/", "/models/add", "/models/at/tiny", "/datasets/",
    "/datasets/upload", "/datasets/{dataset}/", "/datasets/{dataset}/preview", "/chat", "/queue/", "/hosts/",
    "/hosts/{host}/", "/alerts/", "/alerts/rules", "/alerts/routes", "/power/", "/power/sweeps/", "/runs/sweeps/",
    "/queue/inbox/", "/runs/sweeps/new", "/runs/templates/", "/settings/",
    "/settings/people", "/settings/keys", "/settings/values", "/settings/audit", "/settings/doctor",
    "/settings/storage", "/settings/storage/leftovers", "/settings/snapshots",
    "/api/docs",
)  # fmt: skip


@pytest.fixture(scope="module")
def places(product: Product, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Something to see on each page."""
    path = write_style_dataset(tmp_path_factory.mktemp("pages") / "pages.jsonl", rows=40, seed=21)
    dataset = product.upload(path, "pages")["id"]
    run = product.create_run("a run to look at", dataset, {"hyperparams": {"max_steps": 3, "max_length": 64}})["id"]
    product.wait_for_run(run)
    with product.client("read") as client:
        host = client.get("/api/system").json()["host"]
    return {"dataset": dataset, "run": run, "host": host}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", list(WIDTHS))
def test_every_page_opens_without_a_complaint(
    product: Product, open_page: OpenPage, places: dict[str, Any], width: str, theme: str
) -> None:
    page = open_page("admin", viewport=WIDTHS[width], color_scheme=theme).page
    for pattern in PAGES:
        address = pattern.format(**places)
        answer = page.goto(address, wait_until="load")
        assert answer is not None
        assert answer.status == 200, f"{address} answers {answer.status}"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0 or address == "/api/docs", f"{address} scrolls sideways by {beyond} px at {width}"


def test_a_stranger_sees_the_login_and_nothing_else(product: Product, open_page: OpenPage) -> None:
    page = open_page(None).page
    for pattern in PAGES[:-1]:
        page.goto(pattern.format(dataset=1, run=1, host="somewhere"))
        assert "/login" in page.url
