"""Energy of a run and a power sweep on a host with a (simulated) GPU whose draw follows a known curve."""

import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage, on_simulated_gpus
from tests.fakes.gpus import FakeGpus
from tests.product import Product, wait_for
from tests.tiny import write_style_dataset

pytestmark = pytest.mark.slow
STEP_SECONDS = 0.1


class Draw:
    """Has a card draw what `watts(seconds)` says, and remembers when it said what. Ends with its block."""

    def __init__(self, gpus: FakeGpus, watts: Callable[[float], float]) -> None:
        self.gpus, self.watts = gpus, watts
        self.said: list[tuple[float, float]] = []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._follow)

    def __enter__(self) -> "Draw":
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopping.set()
        self.thread.join()

    def _follow(self) -> None:
        while not self.stopping.wait(STEP_SECONDS):
            watts = self.watts(time.time())
            self.gpus.set_gpu(0, power=round(watts * 1000))
            self.said.append((time.time(), watts))

    def joules(self, begin: float, end: float) -> float:
        """What it has drawn between two times: each value holds until the next."""
        steps = pairwise([*self.said, (math.inf, 0.0)])
        return sum(watts * max(0.0, min(end, until) - max(begin, at)) for (at, watts), (until, _) in steps)


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> FakeGpus:
    """One card."""
    fake = FakeGpus(tmp_path_factory.mktemp("gpus") / "gpus.txt")
    fake.set(count=1)
    return fake


@pytest.fixture(scope="module")
def product(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, static_home: Path, gpus: FakeGpus
) -> Iterator[Product]:
    """A product on that card."""
    product = Product(tmp_path_factory.mktemp("energy"), tiny_model, static_home)
    with on_simulated_gpus(product, gpus, count=1) as running:
        yield running


def test_joules_of_a_run_agree_with_the_curve_and_the_page_grows(
    product: Product, open_page: OpenPage, gpus: FakeGpus, tmp_path: Path
) -> None:
    dataset = product.upload(write_style_dataset(tmp_path / "energy.jsonl", rows=60, seed=3), "energy")["id"]
    config = {"hyperparams": {"max_steps": 40, "max_length": 64}, "output": {"merge_adapter": False}}
    with Draw(gpus, lambda at: 220 + 90 * math.sin(at / 2)) as draw:
        wait_for("the curve", lambda: len(draw.said) > 25)  # before the run, so that its first samples are of it
        run = product.create_run("measured", dataset, config)["id"]
        page = open_page("read").page
        page.goto(f"/runs/{run}/")
        card = page.locator("#energy")
        expect(card).to_contain_text(re.compile(r"[\d.]+ ?Wh"))  # it comes by itself
        first = float(card.locator(".big").inner_text())
        product.wait_for_run(run)
        page.wait_for_function("first => Number(document.querySelector('#energy .big').textContent) > first", arg=first)

        def settled() -> bool:
            (cursor,) = product.rows("select max(last_time) from controlplane_energyaccount")[0]
            return bool(cursor > ended())

        def ended() -> float:
            return float(product.rows("select json_extract(exit, '$.ended_at') from controlplane_attempt "
                                      "order by id desc limit 1")[0][0])  # fmt: skip

        wait_for("the last sample of the run", settled)
    began = product.rows("select created_at from controlplane_attempt order by id desc limit 1")[0][0]
    begin, end = datetime.fromisoformat(f"{began}+00:00").timestamp(), ended()
    energy = product.run_facts(run)["energy"]
    assert energy["joules"] == pytest.approx(draw.joules(begin, end), rel=0.02)
    assert energy["covered_seconds"] == pytest.approx(end - begin, abs=1)  # samples are a second apart
    assert energy["tokens"] > 0
    assert energy["joules_per_token"] == pytest.approx(energy["joules"] / energy["tokens"], rel=0.01)


def limit_watts(gpus: FakeGpus) -> float:
    """The limit that was set last."""
    found = re.findall(r"^0\.limit=(\d+)$", gpus.path.read_text(), re.MULTILINE)
    return int(found[-1]) / 1000 if found else 350.0


@pytest.fixture
def engine(product: Product) -> Iterator[None]:
    """The model `tiny` is served, and no longer afterwards: an engine shares its card's draw with a run."""
    with product.client("admin") as client:
        number = client.post("/api/models/set_active", json={"id": "tiny"}).raise_for_status().json()["deployment"]
        yield
        client.post(f"/api/deployments/{number}/stop").raise_for_status()
        wait_for("its end", lambda: client.get(f"/api/deployments/{number}").json()["status"] == "stopped")


@pytest.mark.usefixtures("engine")
def test_a_sweep_is_started_watched_and_used_in_the_browser(
    product: Product, open_page: OpenPage, gpus: FakeGpus
) -> None:
    page = open_page("admin").page
    with Draw(gpus, lambda _: 0.5 * limit_watts(gpus)):
        page.goto("/power/sweeps/")
        page.fill("#id_seconds_per_profile", "5")
        page.fill("#id_max_tokens", "16")
        page.get_by_role("button", name="Start it").click()
        page.wait_for_url(re.compile(r"/power/sweeps/\d+/$"))
        expect(page.locator("#sweep-words")).to_contain_text(re.compile(r"measuring, \d of 5 s"))
        expect(page.locator("table.data tbody tr")).to_have_count(3, timeout=60_000)
        expect(page.locator(".page-head")).to_contain_text("done")
    with product.client("read") as client:
        sweep = client.get("/api/power_sweeps").json()["sweeps"][0]
    assert [row["error"] for row in sweep["results"]] == [None, None, None]
    for row in sweep["results"]:
        assert row["mean_draw_watts"] == pytest.approx(0.5 * row["watts"], rel=0.02)
    expect(page.locator("#chart-sweep .textpoint")).to_have_count(3)
    assert limit_watts(gpus) == 350  # put back
    best = sweep["recommended"]
    page.get_by_role("button", name=f"Use {best}").click()
    expect(page.get_by_text("set and read back")).to_be_visible()
    expect(page.locator(".notice.ok")).to_contain_text("in force")
    assert limit_watts(gpus) == {"quiet": 220, "normal": 280, "max": 350}[best]
