"""What the gateway adds to an engine's answers, beside LiteLLM's proxy, in one run.

`python -m bench.gateway [--rounds 5] [--tokens 64] [--pace 20] [--without-peer]`. The engine is one whose pace is
known (`bench.paced_engine`): what is measured is what stands before it, and not a model. Every side is asked by 1 and
by 16 clients at once, all streaming, in turns with the bare engine. Printed, as medians over clients and rounds:
milliseconds that a side adds to the first token and to each further one, and the share of the engine's tokens a second
that it keeps; also the processor's time that an answer takes of its process, less what that takes at rest, which other
programs on the machine hardly change. Goals: at one client at most 8 ms and 0.5 ms, at most half of what LiteLLM adds
there, a tenth of it at 16; there at least 0.97 of the throughput.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from bench import peer_environment
from bench.machine import described
from tests.product import CHECKOUT, Product, wait_for
from tests.tiny import build_tiny_model

CLIENTS = (1, 16)
REST_SECONDS = 3.0
START_SECONDS = 180
KEY = "bench"
PEER_CONFIG = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false}}
"""

DEPLOYMENT = """
import django, sys
django.setup()
from controlplane.models import Deployment, Job, LanguageModel
model = LanguageModel.objects.get(name="tiny")
job = Job.objects.create(kind="serve", status="paused", created_by="bench")
Deployment.objects.create(
    model=model, job=job, status="ready", is_active=True, port=int(sys.argv[1]), created_by="bench"
)
"""
"""The product's own engine is replaced by one that nobody started: a row that says where it answers."""


class Side(NamedTuple):
    """Somebody who answers chats."""

    name: str
    port: int
    model: str
    key: str
    process: psutil.Process | None = None

    def processor_seconds(self) -> float:
        """What its process has taken so far."""
        if self.process is None:
            return 0.0
        times = self.process.cpu_times()
        return times.user + times.system


class Taken(NamedTuple):
    """What one answer took: seconds to its first token, and from the first to the last one a token."""

    first_seconds: float
    each_seconds: float


class Round(NamedTuple):
    """All clients of one round; tokens a second and the processor's seconds are of all of them together."""

    answers: list[Taken]
    tokens_per_second: float
    seconds: float
    processor_seconds: float


# --- Asking -----------------------------------------------------------------------------------------------------------


async def ask(side: Side, tokens: int) -> Taken:
    """One stream over a connection of its own, read as cheaply as can be: the clients share the machine."""
    body = json.dumps({
        "model": side.model, "messages": [{"role": "user", "content": "Ahoy?"}], "max_tokens": tokens, "stream": True,
    })  # fmt: skip
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {side.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", side.port)
    writer.write((head + body).encode())
    seen, pieces, first, last = b"", 0, 0.0, 0.0
    while data := await reader.read(1 << 16):
        now = time.perf_counter()
        whole, _, seen = (seen + data).rpartition(b"\n\n")
        came = whole.count(b'"content":" word"')
        if came:
            first = first or now
            pieces, last = pieces + came, now
    writer.close()
    if pieces != tokens:
        raise RuntimeError(f"{side.name} gave {pieces} of {tokens} tokens: {seen[-300:]!r}")
    return Taken(first - began, (last - first) / (tokens - 1))


async def play(side: Side, clients: int, tokens: int) -> Round:
    """One answer for each client, all at once."""
    began, taken = time.perf_counter(), side.processor_seconds()
    answers = await asyncio.gather(*(ask(side, tokens) for _ in range(clients)))
    seconds = time.perf_counter() - began
    return Round(answers, clients * tokens / seconds, seconds, side.processor_seconds() - taken)


def at_rest(side: Side) -> float:
    """Seconds of the processor that it takes a second while nobody asks."""
    before = side.processor_seconds()
    time.sleep(REST_SECONDS)
    return (side.processor_seconds() - before) / REST_SECONDS


def measure(sides: Sequence[Side], rounds: int, tokens: int) -> None:
    """Plays the sides in turns and prints what each adds to the first of them, the bare engine."""
    for side in sides:
        asyncio.run(play(side, 2, 4))
    rest = {side.name: at_rest(side) for side in sides[1:]}
    for clients in CLIENTS:
        played: dict[str, list[Round]] = {side.name: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                played[side.name].append(asyncio.run(play(side, clients, tokens)))
        bare = played[sides[0].name]
        added: dict[str, tuple[float, float]] = {}
        for side in sides[1:]:
            mine = played[side.name]
            added[side.name] = (
                1000 * (median(mine, "first_seconds") - median(bare, "first_seconds")),
                1000 * (median(mine, "each_seconds") - median(bare, "each_seconds")),
            )
            kept = statistics.median(
                one.tokens_per_second / other.tokens_per_second for one, other in zip(mine, bare, strict=True)
            )
            own = sum(one.processor_seconds - rest[side.name] * one.seconds for one in mine) / len(mine) / clients
            first, each = added[side.name]
            print(f"{clients:2} clients, {side.name}: {first:+.1f} ms to the first token, {each:+.2f} ms a token, "
                  f"{kept:.3f} of the tokens a second, {1000 * own:.1f} ms of the processor an answer",
                  flush=True)  # fmt: skip
        if len(added) == 2:
            ours, theirs = added.values()
            print(f"{clients:2} clients, ratio: {ours[0] / theirs[0]:.2f} of the first token's, "
                  f"{ours[1] / theirs[1]:.2f} of each token's", flush=True)  # fmt: skip


def median(rounds: Sequence[Round], what: str) -> float:
    """Over all clients of all rounds."""
    values: list[float] = [getattr(answer, what) for one in rounds for answer in one.answers]
    return statistics.median(values)


# --- The sides --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: Sequence[str], port: int, log: Path, **environment: str) -> Iterator[psutil.Process]:
    """A process that answers on a port; ended with the block."""
    with log.open("wb") as sink:
        running = subprocess.Popen(
            command, cwd=CHECKOUT, stdout=sink, stderr=sink, env={**os.environ, **environment}
        )  # fmt: skip
    try:
        wait_for(f"port {port} ({log.read_text()[-500:]})", lambda: running.poll() is None and answers(port),
                 START_SECONDS)  # fmt: skip
        yield psutil.Process(running.pid)
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def peer(folder: Path, engine_port: int) -> Iterator[Side]:
    """LiteLLM's proxy in an environment of its own, before the same engine."""
    python = peer_environment.make(folder / "peer", ["litellm[proxy]>=1.60"], alone=True)
    config = folder / "peer.yaml"
    config.write_text(PEER_CONFIG.format(port=engine_port, key=KEY))
    port = free_port()
    command = [str(python.parent / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    with process(command, port, folder / "peer.log", LITELLM_TELEMETRY="False", NO_DOCS="True") as running:
        yield Side("LiteLLM", port, "m", KEY, running)


def main() -> int:
    """Prints the machine and the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pace", type=float, default=20.0, help="milliseconds a token of the engine")
    parser.add_argument("--without-peer", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(described())
    with tempfile.TemporaryDirectory(prefix="pilothouse-bench-") as name:
        folder, engine_port = Path(name), free_port()
        command = [sys.executable, "-m", "bench.paced_engine", str(engine_port), str(options.pace)]
        with (
            process(command, engine_port, folder / "engine.log"),
            Product(folder, build_tiny_model(folder / "tiny")) as product,
        ):
            product.python("-c", DEPLOYMENT, str(engine_port))
            web = psutil.Process(product.web_pid)
            gateway = Side("gateway", product.port, "tiny", product.keys["use"], web)
            sides = [Side("engine", engine_port, "m", ""), gateway]
            if options.without_peer:
                measure(sides, options.rounds, options.tokens)
                return 0
            with peer(folder, engine_port) as theirs:
                measure([*sides, theirs], options.rounds, options.tokens)
    return 0


if __name__ == "__main__":
    sys.exit(main())
