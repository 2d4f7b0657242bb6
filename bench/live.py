"""From a point to the screen: `python -m bench.live [--pages 200] [--seconds 20]`.

A real training writes its points; as many pages as asked for are open. One of them is a real Chromium page of the run:
what is timed there is from the moment that the training process wrote a point to the frame that shows it. Ten more
websockets follow the same run and tell when a point reached them; all the others listen to what a page listens to on
which nothing happens. Goal: 95 of 100 points within 300 ms.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from playwright.async_api import Page, async_playwright

from bench.machine import described
from bench.pages import told
from bench.pages_peers import WIDE
from tests.browser.server import FLAGS, chromium_path
from tests.product import Product, wait_for
from tests.tiny import build_tiny_model, write_style_dataset

GOAL_MS = 300.0
WATCHERS = 10
IDLE_TOPICS = ("jobs", "models", "datasets", "alerts", "hosts")
AT_ONCE, CONNECT_SECONDS = 4, 60.0
SETTLE_SECONDS = 3.0
CONFIG: dict[str, Any] = {
    "hyperparams": {"max_steps": 1_000_000, "per_device_train_batch_size": 2, "max_length": 64},
    "monitoring": {"logging_steps": 1}, "model": {"method": "full"},
    "environment": {"cpu_threads": 1},  # pages are what is timed: they need a core, too
}  # fmt: skip
NOTE_FRAMES = """
() => {
  const chart = document.getElementById("chart-loss");
  window.drawn = [];
  chart.on("plotly_afterplot", () => {
    const step = chart.data[0].x.at(-1);
    requestAnimationFrame(() => window.drawn.push([step, Date.now() / 1000]));
  });
}
"""
Points = dict[int, float]
"""Steps to Unix seconds."""


class Follower:
    """One websocket, as a page has it. `received`: when each point of the loss came; `written`: when it was made."""

    def __init__(self, topics: Sequence[str]) -> None:
        self.topics = topics
        self.messages = 0
        self.received: Points = {}
        self.written: Points = {}

    async def follow(self, session: aiohttp.ClientSession, product: Product, subscribed: asyncio.Semaphore) -> None:
        """Until it is cancelled."""
        headers = {"Cookie": f"sessionid={product.cookies['read']}", "Origin": product.url}
        async with session.ws_connect(f"{product.url}/ws/live", headers=headers, max_msg_size=0) as socket:
            await socket.send_json({"subscribe": self.topics})
            async for message in socket:
                self.take(message.json(), time.time())
                if self.messages == len(self.topics):
                    subscribed.release()

    def take(self, message: dict[str, Any], now: float) -> None:
        """Notes what has come."""
        self.messages += 1
        if message.get("kind") == "metrics":
            for step, _, written in message["data"]["points"].get("loss", ()):
                self.received[step], self.written[step] = now, written


def shown(drawn: Sequence[tuple[int, float]], written: Points) -> Points:
    """When each point was first on the screen: a frame shows all points up to its last step."""
    found: Points = {}
    for last, moment in drawn:
        for step in written:
            if step <= last:
                found.setdefault(step, moment)
    return found


def delays(seen: Points, written: Points, since: float) -> list[float]:
    """Milliseconds from the writing to the sight of each point that was written since then."""
    return [(moment - written[step]) * 1000 for step, moment in seen.items() if written.get(step, 0.0) > since]


async def measure(product: Product, page: Page, run_id: int, pages: int, seconds: float) -> None:
    """Opens the pages, waits until all listen, and tells how long points took."""
    watchers = [Follower([f"run:{run_id}"]) for _ in range(WATCHERS)]
    idle = [Follower(IDLE_TOPICS) for _ in range(max(0, pages - WATCHERS - 1))]
    subscribed = asyncio.Semaphore(0)
    web = psutil.Process(product.web_pid)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks: list[asyncio.Task[None]] = []
        for one in (*watchers, *idle):
            tasks.append(asyncio.create_task(one.follow(session, product, subscribed)))
            if len(tasks) >= AT_ONCE:  # people don't open their pages in the same second
                await asyncio.wait_for(subscribed.acquire(), CONNECT_SECONDS)
        for _ in range(min(len(tasks), AT_ONCE - 1)):
            await asyncio.wait_for(subscribed.acquire(), CONNECT_SECONDS)
        await page.evaluate(NOTE_FRAMES)
        await asyncio.sleep(SETTLE_SECONDS)
        since, busy = time.time(), sum(web.cpu_times()[:2])
        await asyncio.sleep(seconds)
        busy = sum(web.cpu_times()[:2]) - busy
        until = time.time() - 1.0  # what was written last may still be on its way
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    written = {step: moment for step, moment in watchers[0].written.items() if moment < until}
    drawn = shown(await page.evaluate("window.drawn"), written)
    came = [delay for one in watchers for delay in delays(one.received, written, since)]
    on_time = delays(drawn, written, since)
    missing = sum(since < moment for moment in written.values()) - len(on_time)
    news = sum(one.messages for one in idle)
    print(f"{len(tasks) + 1} pages, {len(on_time) / seconds:.0f} points a second, {missing} points never shown")
    print(f"web process: {busy / seconds:.0%} of a core; {news} messages to the pages on which nothing happens")
    if len(on_time) < 2:
        print("too few points were written and shown in that time: measure for longer (--seconds)")
        return
    told("point received by a websocket", came, GOAL_MS)
    told("point drawn in Chromium", on_time, GOAL_MS)


async def watch(product: Product, run_id: int, pages: int, seconds: float) -> None:
    """The same with a Chromium page of the run."""
    path = chromium_path()
    assert path is not None, "no Chromium or Chrome was found"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(path), args=list(FLAGS))
        context = await browser.new_context(base_url=product.url, viewport=WIDE)
        await context.add_cookies([{"name": "sessionid", "value": product.cookies["read"], "url": product.url}])
        page = await context.new_page()
        await page.goto(f"/runs/{run_id}/")
        await page.wait_for_function("() => document.getElementById('chart-loss').data?.[0].x.length > 2")
        await measure(product, page, run_id, pages, seconds)
        await browser.close()


def main() -> int:
    """Prints the machine and the figures; 0 whatever they are."""
    parser = argparse.ArgumentParser(prog="python -m bench.live", description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    print(described(), flush=True)
    with tempfile.TemporaryDirectory(prefix="pilothouse-bench-") as name:
        folder = Path(name)
        with Product(folder, build_tiny_model(folder / "tiny")) as product:
            dataset = product.upload(write_style_dataset(folder / "rows.jsonl", rows=200, seed=1), "live")
            run_id = product.create_run("live", dataset["id"], CONFIG)["id"]
            steps = "select last_step from controlplane_run where id = ?"
            wait_for("the first points", lambda: (product.rows(steps, [run_id])[0][0] or 0) > 2, 120)
            asyncio.run(watch(product, run_id, options.pages, options.seconds))
            with product.client() as client:
                client.post(f"/api/runs/{run_id}/stop", json={"mode": "now"}).raise_for_status()
    return 0


if __name__ == "__main__":
    sys.exit(main())
