"""The engine llama_cpp beside llama-cpp-python's own server on the same file, and beside the engine transformers.

`python -m bench.llama_cpp [--model FOLDER] [--kind Q4_K_M] [--rounds 5] [--tokens 64] [--clients 1 8]
[--without-peer]`. Needs the extra `llama_cpp`. Without a model it makes one of SmolLM2-135M's shape with random
weights, and exports it. What the peer's server needs beyond the library goes into an environment of its own. Sides run
in turns, greedy, whole answers, each to a prompt whose beginning nobody knows yet, in as many threads as there are
cores. Printed: tokens a second, and the ratios. A ratio is the median over rounds, each of sides that ran one after the
other; "of CPU time" says more on a machine that has other work.
"""

import argparse
import asyncio
import itertools
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from bench import peer_environment
from bench.machine import described, interval
from bench.serving import Rounds, make_model
from bench.serving_sides import Engine, HttpSide, Taken, prompts
from tests.inference.exports import export

GOAL = 0.97
PEER_NEEDS = ["pydantic-settings>=2.0.1", "sse-starlette>=1.6.1", "starlette-context>=0.3.6,<0.4", "diskcache>=5.6.1"]
_numbers = itertools.count(1)


class WholeAnswers(HttpSide):
    """Asks for answers without streams, each to a prompt of its own: the peer does not count tokens in a stream."""

    def take(self, clients: int, tokens: int) -> Taken:
        """One answer a client."""
        started, used = time.perf_counter(), self.processor_seconds()
        count = asyncio.run(self._answers(clients, tokens))
        seconds, processor = time.perf_counter() - started, self.processor_seconds() - used
        return Taken(count / seconds, count / max(processor, 1e-6), None)

    async def _answers(self, clients: int, tokens: int) -> int:
        async with httpx.AsyncClient(headers=self.headers, timeout=600, trust_env=False) as client:
            return sum(await asyncio.gather(*(self._count(client, text, tokens) for text in prompts(clients))))

    async def _count(self, client: httpx.AsyncClient, prompt: str, tokens: int) -> int:
        body: dict[str, Any] = {
            "model": self.model, "prompt": f"{next(_numbers)}. {prompt}", "max_tokens": tokens, "temperature": 0,
        }  # fmt: skip
        answer = await client.post(f"{self.url}/v1/completions", json=body)
        return int(answer.raise_for_status().json()["usage"]["completion_tokens"])


class OwnEngine(WholeAnswers, Engine):
    """One of the product's engines."""

    def __init__(self, name: str, folder: Path, work: Path, config: dict[str, Any]) -> None:
        super().__init__(folder, work, {"dtype": "auto", **config})
        self.name = name


class PeerServer(WholeAnswers):
    """`llama_cpp.server` with its best flags: as many threads, and no logits but the last."""

    name = "llama_cpp.server"

    def __init__(self, python: Path, file: Path, work: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.model = f"http://127.0.0.1:{port}", str(file)
        flags = {
            "model": str(file), "host": "127.0.0.1", "port": str(port), "n_ctx": "2048", "logits_all": "false",
            "n_threads": str(os.cpu_count()), "n_threads_batch": str(os.cpu_count()), "verbose": "false",
        }  # fmt: skip
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        log = work / "peer.log"
        super().__init__([str(python), "-m", "llama_cpp.server", *words], log)
        self.wait_until_answering(log)


def measure(sides: list[WholeAnswers], clients_in_turn: list[int], rounds: int, tokens: int) -> Rounds:
    """Every side at every number of clients, in turns; once before, so that nobody pays for a first time."""
    taken: Rounds = {}
    for side in sides:
        side.take(2, 4)
    for clients in clients_in_turn:
        for _ in range(rounds):
            for side in sides:
                taken.setdefault((side.name, clients), []).append(side.take(clients, tokens))
        for side in sides:
            rate = statistics.median(one.by_clock for one in taken[side.name, clients])
            print(f"{clients} clients, {side.name}: {rate:.1f} tokens/s", flush=True)
    return taken


def tell(taken: Rounds, own: str, other: str, clients: int, goal: float | None) -> None:
    """One ratio of tokens a second, with a 95 % interval."""
    pairs = zip(taken[own, clients], taken[other, clients], strict=True)
    both = [(mine.by_clock / theirs.by_clock, mine.by_processor / theirs.by_processor) for mine, theirs in pairs]
    ratios, of_processor = [clock for clock, _ in both], statistics.median(processor for _, processor in both)
    middle, (low, high) = statistics.median(ratios), interval(ratios)
    verdict = "" if goal is None else f" (goal >= {goal:g}) {'met' if middle >= goal else 'MISSED'}"
    print(f"{clients} clients, {own} by {other}: {middle:.2f} [{low:.2f}, {high:.2f}]{verdict}", flush=True)
    print(f"  of CPU time: {of_processor:.2f}", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--kind", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--without-peer", action="store_true", help="beside transformers alone")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sides are stopped too
    print(described(), flush=True)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        work = Path(name)
        folder = work / "model"
        if arguments.model:
            folder.mkdir()
            for file in arguments.model.iterdir():
                if file.is_file():
                    (folder / file.name).symlink_to(file)
        else:
            make_model(folder)
        file = export(folder, arguments.kind)
        print(f"{file.name}: {file.stat().st_size / 2**20:.0f} MiB", flush=True)
        sides: list[WholeAnswers] = []

        def start(make: Callable[[], WholeAnswers]) -> WholeAnswers:
            side = make()
            stack.callback(side.stop)
            sides.append(side)
            return side

        threads = {"cpu_threads": os.cpu_count()}
        ours = {"engine": "llama_cpp", "gguf": arguments.kind, "max_model_length": 2048, **threads}
        own = start(lambda: OwnEngine("engine llama_cpp", folder, work, ours))
        peer = None
        if not arguments.without_peer:
            python = peer_environment.make(work / "peer", PEER_NEEDS)
            peer = start(lambda: PeerServer(python, file, work))
        other = start(lambda: OwnEngine("engine transformers", folder, work, dict(threads)))
        taken = measure(sides, arguments.clients, arguments.rounds, arguments.tokens)
        for clients in arguments.clients:
            if peer is not None:
                tell(taken, own.name, peer.name, clients, GOAL if clients == 1 else None)
            tell(taken, own.name, other.name, clients, None)


if __name__ == "__main__":
    main()
