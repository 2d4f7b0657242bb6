"""A large fleet: `python -m bench.fleet [--hosts 64] [--gpus 8] [--browsers 50] [--seconds 20] [--jobs 10000]`.

First so many simulated hosts report once a second to the real web server, and so many websockets listen to what the
page Hosts listens to, while the page itself is asked for again and again. Goals: 95 of 100 pages within 300 ms, and no
message lost. Then so many runs wait in the queue of a data base of its own, and rounds of the dispatcher place them on
hosts that take everything at once. Goal: 200 a second.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.machine import described
from bench.pages import told
from tests.product import CHECKOUT, Product
from tests.tiny import build_tiny_model

GOAL_PAGE_MS, GOAL_PLACED = 300.0, 200.0
SETTLE_SECONDS = 5.0
PAUSE_SECONDS = 0.2
ADD = """
import json
from controlplane.models import Host
for number, facts in enumerate(json.load(open({file!r}))):
    Host.objects.create(name=facts["name"], home_id=facts["home_id"], facts=facts, group=f"rack {{number // 16 + 1}}")
"""


class Browser:
    """One websocket on the page Hosts: how many messages came, and whether a number was left out."""

    def __init__(self) -> None:
        self.messages = 0
        self.left_out = 0
        self.bytes = 0
        self._seq: int | None = None

    async def follow(self, session: aiohttp.ClientSession, product: Product) -> None:
        """Until it is cancelled."""
        headers = {"Cookie": f"sessionid={product.cookies['read']}", "Origin": product.url}
        async with session.ws_connect(f"{product.url}/ws/live", headers=headers, max_msg_size=0) as socket:
            await socket.send_json({"subscribe": ["fleet"]})
            async for message in socket:
                self._take(message.json(), len(message.data))

    def _take(self, message: dict[str, Any], size: int) -> None:
        if message["kind"] != "subscribed":
            self.messages += 1
            self.bytes += size
            self.left_out += message["kind"] == "reset" or message["seq"] != (self._seq or 0) + 1
        self._seq = message["seq"]


async def watch(product: Product, browsers: int, seconds: float) -> None:
    """Opens all websockets, asks for pages, and tells what came."""
    pages = [Browser() for _ in range(browsers)]
    web = psutil.Process(product.web_pid)
    cookies = {"sessionid": product.cookies["read"]}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookies=cookies) as session:
        tasks = [asyncio.create_task(page.follow(session, product)) for page in pages]
        await asyncio.sleep(SETTLE_SECONDS)
        spent, began, busy = [], time.monotonic(), sum(web.cpu_times()[:2])
        before = [page.messages for page in pages]
        size = 0
        while time.monotonic() - began < seconds:
            asked = time.perf_counter()
            async with session.get(f"{product.url}/hosts/") as answer:
                size = len(await answer.read())
                assert answer.status == 200, f"the page Hosts answered {answer.status}"
            spent.append((time.perf_counter() - asked) * 1000)
            await asyncio.sleep(PAUSE_SECONDS)
        took = time.monotonic() - began
        busy = sum(web.cpu_times()[:2]) - busy
        came = [page.messages - first for page, first in zip(pages, before, strict=True)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    size_kb = sum(page.bytes for page in pages) / max(1, sum(page.messages for page in pages)) / 1000
    print(f"{browsers} websockets: {min(came) / took:.2f} to {max(came) / took:.2f} messages a second each,")
    print(f"  {size_kb:.1f} kB a message, {sum(page.left_out for page in pages)} left out")
    print(f"web process: {busy / took:.0%} of a core")
    told(f"/hosts/ ({size // 1000} kB, {len(spent)} times)", spent, GOAL_PAGE_MS)


def show_fleet(folder: Path, hosts: int, gpus: int, browsers: int, seconds: float) -> None:
    """The first part."""
    simulated = subprocess.Popen(
        [sys.executable, "-m", "bench.simulated_hosts", str(folder / "hosts"), str(hosts), str(gpus)],
        cwd=CHECKOUT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert simulated.stdout is not None
        facts = folder / "facts.json"
        facts.write_text(simulated.stdout.readline())
        with Product(folder / "product", build_tiny_model(folder / "tiny")) as product:
            product.manage("shell", "-c", ADD.format(file=str(facts)))
            asyncio.run(watch(product, browsers, seconds))
    finally:
        simulated.kill()
        simulated.wait()


def tell_queue(found: dict[str, Any]) -> None:
    """What the second part found."""
    rate = found["placed"] / found["seconds"]
    verdict = "met" if rate >= GOAL_PLACED else "MISSED"
    print(f"{found['jobs']} runs wait: {rate:.0f} placed a second (goal {GOAL_PLACED:g}: {verdict})")
    print(f"  {found['first_ms']:.0f} ms for the first round, {found['idle_ms']:.0f} ms for one that finds no room")


def main() -> int:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("hosts", 64), ("gpus", 8), ("browsers", 50), ("seconds", 20), ("jobs", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    print(described(), flush=True)
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        if asked.browsers:
            show_fleet(Path(name), asked.hosts, asked.gpus, asked.browsers, asked.seconds)
        if asked.jobs:
            environment = {**os.environ, "PILOTHOUSE_HOME": f"{name}/queue", "DATABASE_URL": ""}
            command = ["-m", "bench.fleet_queue", str(asked.hosts), str(asked.gpus), str(asked.jobs)]
            done = subprocess.run([sys.executable, *command], cwd=CHECKOUT, env=environment, check=True, text=True,
                                  stdout=subprocess.PIPE)  # fmt: skip
            tell_queue(json.loads(done.stdout.splitlines()[-1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
