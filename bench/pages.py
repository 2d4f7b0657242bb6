"""How fast pages are with much in the data base: `python -m bench.pages [--runs 10000] [--rounds 20] [--peers]
[--environments FOLDER]`.

Makes a home with so many runs and one of 100 keys with 10,000 points each and one key of 1,000,000, starts the real
server and asks for each page that has a table (goal: 95 of 100 answers within 200 ms; what the web process computes for
one is told too, since that hardly depends on what else the machine does), then opens the long run's page
in Chromium, from the click to the first curve that is painted (goal: 1 s at the 95th percentile; the first visit, which
reads the script of the charts, apart: there the curve is sketched until that has been read). With `--peers` TensorBoard
shows the event file that the product exports of the long key, and MLflow the same points logged into it, each in an
environment of its own and in the same browser.
"""

import argparse
import html
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import psutil
from playwright.sync_api import Browser, sync_playwright

from bench.machine import described
from bench.pages_peers import WIDE, MlflowSide, TensorBoardSide
from tests.browser.server import chromium_path, launched, opened
from tests.long_run import LONG_KEY, TAG
from tests.product import Product
from tests.tiny import build_tiny_model

TABLES = (
    "/", "/runs/", "/runs/?sort=-last.loss", "/runs/?q=run+99", "/runs/?state=done", f"/runs/?tag={TAG}", "/models/",
    "/datasets/", "/queue/", "/evaluate/", "/hosts/", "/alerts/",
)  # fmt: skip
PAGED = ("/runs/", "/runs/?sort=-last.loss")
"""Those whose second page is asked for, too."""

LEFT_OUT, NEXT = "It was left out", re.compile('rel="next" href="([^"]+)"')
GOAL_TABLE_MS, GOAL_PAGE_MS = 200.0, 1000.0
SEEN = "() => document.querySelector('#chart-loss :is(.sketch path, .scatterlayer path.js-line)')"
PAINTED = "() => document.querySelector('#chart-loss .scatterlayer path.js-line')"
LONG_PAINTED = "() => document.querySelector('#chart-long-one-million .scatterlayer path.js-line')"
KEYS, POINTS, LONG = 100, 10_000, 1_000_000
Start = Callable[[], TensorBoardSide | MlflowSide]


def told(what: str, milliseconds: list[float], goal: float | None = None) -> float:
    """Prints median and 95th percentile; returns the median."""
    middle, tail = statistics.median(milliseconds), statistics.quantiles(milliseconds, n=20)[-1]
    verdict = "" if goal is None else f" (goal {goal:g} ms: {'met' if tail <= goal else 'MISSED'})"
    print(f"{what}: median {middle:.0f} ms, 95th percentile {tail:.0f} ms{verdict}", flush=True)
    return middle


def second_page(client: httpx.Client, path: str) -> str:
    """The address that a table's first page names as its next."""
    found = NEXT.search(client.get(path).text)
    assert found is not None, f"{path} has no second page: let there be more runs"
    return f"/runs/{html.unescape(found[1])}"


def ask_tables(product: Product, rounds: int) -> None:
    """Each table's page, as a browser that is logged in asks for it."""
    cookies, web = {"sessionid": product.cookies["admin"]}, psutil.Process(product.web_pid)
    with httpx.Client(base_url=product.url, cookies=cookies, timeout=60.0) as client:
        for path in (*TABLES, *(second_page(client, path) for path in PAGED)):
            spent = []
            answer = client.get(path)  # warms up
            assert LEFT_OUT not in answer.text, f"{path} isn't what the table was asked for"
            computed = sum(web.cpu_times()[:2])
            for _ in range(rounds):
                begun = time.perf_counter()
                client.get(path).raise_for_status()
                spent.append((time.perf_counter() - begun) * 1000)
            computed = (sum(web.cpu_times()[:2]) - computed) * 1000 / rounds
            told(f"{path} ({len(answer.content) // 1000} kB, {computed:.0f} ms of a processor)", spent, GOAL_TABLE_MS)


def ask_curves(product: Product, run_id: int, rounds: int) -> None:
    """The calls that the page's charts make."""
    path = f"/api/runs/{run_id}/metrics"
    with product.client("read") as client:
        for what, query in (
            ("keys", {}),
            ("1,000,000 points", {"keys": LONG_KEY}),
            ("10,000 of them", {"keys": LONG_KEY, "from_step": "500000", "to_step": "510000"}),
        ):
            spent = []
            for _ in range(rounds):
                begun = time.perf_counter()
                client.get(f"{path}/keys" if what == "keys" else path, params=query).raise_for_status()
                spent.append((time.perf_counter() - begun) * 1000)
            told(f"curves, {what}", spent)


def draw_page(browser: Browser, product: Product, run_id: int, rounds: int) -> tuple[float, float]:
    """From the navigation to the first curve; then to that of the million points, when its group is opened."""
    spent, long = [], []
    with opened(browser, product, "admin", viewport=WIDE) as watched:
        page = watched.page
        for number in range(rounds + 2):
            page.goto("/runs/")
            begun = time.perf_counter()
            page.goto(f"/runs/{run_id}/", wait_until="commit")
            page.wait_for_function(SEEN, polling=10)
            seen = (time.perf_counter() - begun) * 1000
            page.wait_for_function(PAINTED, polling=10)
            took = (time.perf_counter() - begun) * 1000
            if number == 0:
                print(f"run page, first visit of a browser: sketched {seen:.0f} ms, drawn {took:.0f} ms", flush=True)
            if number < 2:  # the browser keeps compiled scripts from the second visit on
                continue
            spent.append(took)
            begun = time.perf_counter()
            group = page.locator("#curve-groups details").filter(has_text=LONG_KEY)
            group.evaluate("group => { group.open = true; group.scrollIntoView() }")
            page.wait_for_function(LONG_PAINTED, polling=10)
            long.append((time.perf_counter() - begun) * 1000)
    return told("run page drawn", spent, GOAL_PAGE_MS), told("1,000,000 points drawn on it", long)


def export(product: Product, run_id: int, folder: Path) -> None:
    """The long key as files, for the others."""
    file = folder / "board" / "events.out.tfevents.1.long"
    file.parent.mkdir()
    with product.client("read") as client:
        for name, kind, path in (("csv", ".csv", folder / "long.csv"), ("events", ".tfevents", file)):
            begun = time.perf_counter()
            answer = client.get(f"/api/runs/{run_id}/metrics{kind}", params={"keys": LONG_KEY}, timeout=120.0)
            path.write_bytes(answer.raise_for_status().content)
            print(f"1,000,000 points as {name}: {time.perf_counter() - begun:.1f} s", flush=True)


def beside(browser: Browser, sides: Sequence[tuple[str, Start]], rounds: int, ours: float) -> None:
    """The same points in TensorBoard and in MLflow."""
    for name, start in sides:
        side = start()
        try:
            middle = told(f"{name}, the long key alone, drawn", side.draw(browser, rounds))
            print(f"{name}: {middle / ours:.1f} times ours (page and curve together: {ours:.0f} ms)", flush=True)
        finally:
            side.close()


def main() -> int:
    """Prints the machine and the figures; 0 whatever they are."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--environments", type=Path, help="where those of the peers are, or are to be kept")
    options = parser.parse_args()
    path = chromium_path()
    assert path is not None, "no Chromium or Chrome was found"
    print(described(), flush=True)
    with tempfile.TemporaryDirectory(prefix="pilothouse-bench-") as name, sync_playwright() as playwright:
        folder = Path(name)
        product = Product(folder, build_tiny_model(folder / "tiny"))
        with product, launched(playwright, path) as browser:
            sizes = ("--keys", KEYS, "--points", POINTS, "--long", LONG, "--runs", options.runs)
            run_id = int(product.python("-m", "tests.long_run", *map(str, sizes)).split()[-1])
            ask_tables(product, options.rounds)
            ask_curves(product, run_id, options.rounds)
            first, long = draw_page(browser, product, run_id, options.rounds)
            if options.peers:
                export(product, run_id, folder)
                environments = options.environments or folder
                sides: list[tuple[str, Start]] = [
                    ("TensorBoard", lambda: TensorBoardSide(folder, environments)),
                    ("MLflow", lambda: MlflowSide(folder, environments)),
                ]
                beside(browser, sides, max(5, options.rounds // 4), first + long)
    return 0


if __name__ == "__main__":
    sys.exit(main())
