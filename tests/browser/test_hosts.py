"""The fleet and a host's page on (simulated) GPUs: history that is there at once, zoom, and memory that nobody owns."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.fakes.gpus import FakeGpus
from tests.product import Product, wait_for

SLEEP = shutil.which("sleep") or "sleep"
HISTORY = '#history:not(.is-loading)[data-resolution="1"]'


@pytest.fixture(scope="module")
def product(simulated_product: Product) -> Product:
    """The one with GPUs, once it has some history."""
    wait_for("five samples", lambda: len(points(simulated_product)) >= 5)
    return simulated_product


@pytest.fixture(scope="module")
def host(product: Product) -> str:
    """What this machine is called."""
    with product.client("read") as client:
        return str(client.get("/api/system").json()["host"])


def points(product: Product, minutes: float = 15) -> list[float]:
    """The times of the first GPU's stored temperatures, a gap's included."""
    with product.client("read") as client:
        answer = client.get(f"/api/gpu/history?names=temperature_celsius&minutes={minutes}")
        found: list[float] = answer.json()["series"]["temperature_celsius"]["time"] if answer.is_success else []
    return found


@pytest.fixture
def held(product: Product, gpus: FakeGpus) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Two real processes that the first card says hold its memory: one of this home's, one of nobody's."""
    environment = {name: value for name, value in os.environ.items() if name != "PILOTHOUSE_HOME"}
    ours = {**environment, "PILOTHOUSE_HOME": str(product.home), "PILOTHOUSE_JOB": "7"}
    started = {
        "ours": subprocess.Popen([SLEEP, "600"], env=ours),
        "strange": subprocess.Popen([SLEEP, "600"], env=environment),
    }
    listed = [f"{started['ours'].pid}:{3 << 30}", f"{started['strange'].pid}:{2 << 30}"]
    gpus.set_gpu(0, processes=",".join(listed))
    try:
        yield started
    finally:
        gpus.set_gpu(0, processes="")
        for process in started.values():
            process.kill()
            process.wait(10)


def left_the_card(gpus: FakeGpus, process: subprocess.Popen[bytes], others: subprocess.Popen[bytes]) -> int:
    """Waits for a process's end; the card then tells of the other one alone, as a real one would."""
    code = process.wait(15)
    gpus.set_gpu(0, processes=f"{others.pid}:{2 << 30}")
    return code


def test_what_a_gone_job_left_behind_is_ended_by_one_click(
    product: Product, open_page: OpenPage, gpus: FakeGpus, held: dict[str, subprocess.Popen[bytes]]
) -> None:
    page = open_page("admin").page
    page.goto("/hosts/")
    card = page.get_by_label("GPU 0, Simulated RTX 3090")
    pid = held["ours"].pid
    expect(card).to_contain_text(f"sleep (pid {pid}) · 3.0 GiB nobody's")
    card.get_by_role("button", name=f"End process {pid}").click()
    assert left_the_card(gpus, held["ours"], held["strange"]) != 0
    expect(card).not_to_contain_text(f"pid {pid}")
    assert held["strange"].poll() is None
    with product.client("admin") as client:
        lines = client.get("/api/audit").json()["lines"]
    line = next(line for line in lines if line["action"] == "gpu_process.end")
    assert (line["actor"], line["target"].split()[1], line["detail"]["ended"]) == ("admin", str(pid), True)


def test_somebody_elses_process_needs_a_second_confirmation(
    open_page: OpenPage, host: str, gpus: FakeGpus, held: dict[str, subprocess.Popen[bytes]]
) -> None:
    page = open_page("admin").page
    page.goto(f"/hosts/{host}/")
    pid = held["strange"].pid
    row = page.locator(f'tr[data-pid="{pid}"]')
    expect(row).to_contain_text("nobody")
    expect(row.locator('[data-of="cpu_percent"]')).to_have_text("0 %")
    expect(row.locator('[data-of="utilization_sm_percent"]')).to_have_text("0 %")
    gpus.set_process_use(0, (pid, 43, 100))
    expect(row.locator('[data-of="utilization_sm_percent"]')).to_have_text("43 %")
    row.get_by_role("button", name=f"End process {pid}").click()
    dialog = page.get_by_role("dialog", name=re.compile(f"process {pid}"))
    dialog.get_by_role("button", name="End it").click()
    expect(dialog).to_be_visible()  # the box isn't ticked: nothing is sent
    assert held["strange"].poll() is None
    dialog.get_by_role("checkbox").check()
    dialog.get_by_role("button", name="Leave it").click()
    row.get_by_role("button", name=f"End process {pid}").click()
    expect(dialog.get_by_role("checkbox")).not_to_be_checked()  # it was for another time
    dialog.get_by_role("checkbox").check()
    dialog.get_by_role("button", name="End it").click()
    expect(page.locator("#messages")).to_contain_text(f"Process {pid} (sleep) on {host} has ended.")
    assert held["strange"].wait(15) != 0
    gpus.set_gpu(0, processes=f"{held['ours'].pid}:{3 << 30}")
    expect(page.locator(f'tr[data-pid="{pid}"]')).to_have_count(0)


def first_spark(page: Page) -> str:
    return page.locator("[data-gpu] [data-spark] path").first.get_attribute("d") or ""


def test_sparklines_are_there_before_the_first_message(open_page: OpenPage) -> None:
    watched = open_page("use")
    watched.page.add_init_script("window.WebSocket = class extends EventTarget { send() {} close() {} };")
    watched.page.goto("/hosts/")
    wait_for("a sparkline", lambda: "L" in first_spark(watched.page), 15)
    assert not watched.watch.frames
    assert any("/history?names=GPU-" in request for request in watched.watch.requests)


def test_figures_and_words_move_by_themselves(open_page: OpenPage, host: str, gpus: FakeGpus) -> None:
    page = open_page("read").page
    page.goto(f"/hosts/{host}/")
    details = page.get_by_label("Readings of GPU 1")
    expect(details).to_contain_text("ECC")
    expect(details).to_contain_text("not supported")
    gpus.set_gpu(1, temperature=71, clock_sm=1234, reasons=0x20, ecc=1)
    expect(page.get_by_label("GPU 1, Simulated RTX 3090").locator('[data-figure="temperature_celsius"]')).to_have_text(
        "71"
    )
    expect(details).to_contain_text("1,234 of")
    expect(details).to_contain_text("heat (driver)")


def drawn(page: Page) -> dict[str, Any]:
    """What the chart of the power shows: its lines, and the first one's figures."""
    shown: dict[str, Any] = page.evaluate(
        """() => { const chart = document.querySelector(".history-chart");
        return { names: (chart.data || []).map((trace) => trace.name), y: chart.data?.[0]?.y || [] }; }"""
    )
    return shown


def test_charts_grow_zoom_and_come_back(product: Product, open_page: OpenPage, host: str) -> None:
    watched = open_page("read")
    page = watched.page
    page.goto(f"/hosts/{host}/")
    page.wait_for_selector(HISTORY)
    wait_for("the chart", lambda: len(drawn(page)["y"]) >= 5, 20)
    before = drawn(page)
    assert before["names"] == ["GPU 0", "GPU 1", "limit of GPU 0", "limit of GPU 1"]
    wait_for("a point more", lambda: len(drawn(page)["y"]) > len(before["y"]), 10)
    page.locator(".history-chart .nsewdrag").first.scroll_into_view_if_needed()
    box = page.locator(".history-chart .nsewdrag").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.5, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, y, steps=5)
    seen = len(watched.watch.frames)
    wait_for("telemetry in the middle of the drag", lambda: page.title() and len(watched.watch.frames) > seen + 1, 10)
    page.mouse.move(box["x"] + box["width"] - 2, y, steps=5)
    page.mouse.up()
    expect(page.get_by_role("button", name="Show all of it")).to_be_visible()
    asked = [request for request in watched.watch.requests if "/history?" in request and "from=" in request]
    start, end = (float(re.search(rf"{name}=([0-9.]+)", asked[-1])[1]) for name in ("from", "to"))  # type: ignore[index]
    assert 400 < end - start < 500
    assert abs(end - time.time()) < 60
    page.get_by_role("button", name="Show all of it").click()
    expect(page.get_by_role("button", name="Show all of it")).to_be_hidden()
    page.get_by_role("button", name="24 h").click()
    wait_for("a day's history", lambda: any("minutes=1440" in request for request in watched.watch.requests), 10)
    expect(page.get_by_role("button", name="24 h")).to_have_attribute("aria-pressed", "true")


def test_a_driver_that_hangs_is_said_and_the_host_goes_on(open_page: OpenPage, host: str, gpus: FakeGpus) -> None:
    page = open_page("read").page
    page.goto(f"/hosts/{host}/")
    gpus.set(hang="nvmlDeviceGetPowerUsage")
    try:
        expect(page.locator("main")).to_contain_text("The driver is not answering since", timeout=30_000)
        expect(page.locator(".page-head")).to_contain_text("online")
    finally:
        gpus.set(hang="nothing")
    expect(page.locator("main")).not_to_contain_text("The driver is not answering since", timeout=30_000)


def test_an_outage_of_the_web_server_leaves_no_hole(product: Product, host: str) -> None:
    last = points(product)[-1]
    product.kill_web()
    wait_for("seconds that nobody reads", lambda: time.time() > last + 6, 20)
    product.start_web()
    wait_for("what the agent kept", lambda: points(product)[-1] > last + 7, 30)
    with product.client("read") as client:
        whole = client.get(f"/api/hosts/{host}/history?from={last}&to={last + 6}&names=cpu_percent").json()
    assert whole["series"]["cpu_percent"]["time"] == [last + second for second in range(7)]
    assert whole["gaps"] == []
