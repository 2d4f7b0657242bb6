"""The sides that `bench.serving` compares, each a process of its own: the serve job, `transformers serve`, `generate`.

Each answers a number of clients at once, greedy, with the same prompts, and says what it used: time by the clock, time
of its processors, time to the first token, most memory.
"""

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx
import psutil

PROMPT = "Tell me about the rope, the sail and the old mast of the ship. "
TOKEN = "bench"
START_TIMEOUT_SECONDS = 180


class Taken(NamedTuple):
    """What one round took. Tokens per second of all clients together, prompts included in the time; the time to the
    first token is the median over clients, None where there is no stream."""

    by_clock: float
    by_processor: float
    first_token_seconds: float | None


class Side(Protocol):
    """One of those compared."""

    name: str

    def take(self, clients: int, tokens: int) -> Taken:
        """One request from each client, all at once."""

    def peak_bytes(self) -> int:
        """The most memory that its process has held."""

    def stop(self) -> None:
        """Ends its process."""


def prompts(clients: int) -> list[str]:
    """Prompts of different lengths, as clients have them."""
    return [PROMPT * (1 + client % 4) for client in range(clients)]


class ProcessSide:
    """What all sides have in common: a process whose processor time and memory are read."""

    name = ""

    def __init__(self, command: Sequence[str], log: Path, *, pipes: bool = False) -> None:
        with log.open("wb") as sink:
            stdin, stdout = (subprocess.PIPE, subprocess.PIPE) if pipes else (None, sink)
            environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
            self.process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=sink, env=environment)

    def processor_seconds(self) -> float:
        """Processor time so far, of the process and its threads."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def peak_bytes(self) -> int:
        """The kernel's own mark of the most memory held."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise LookupError("no VmHWM")

    def stop(self) -> None:
        """Ends the process."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Generate(ProcessSide):
    """One padded batch of the library's `generate`, of as many rows as there are clients."""

    name = "generate"

    def __init__(self, folder: Path, work: Path) -> None:
        super().__init__(
            [sys.executable, "-m", "bench.offline_generate", str(folder)], work / "generate.log", pipes=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", (work / "generate.log").read_text()

    def take(self, clients: int, tokens: int) -> Taken:
        """One batch."""
        used = self.processor_seconds()
        answer = self.ask(prompts(clients), tokens)
        count = answer["tokens"]
        return Taken(count / answer["seconds"], count / (self.processor_seconds() - used), None)

    def ask(self, texts: Sequence[str], tokens: int) -> dict[str, Any]:
        """A batch of these: `tokens` generated in `seconds`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"prompts": texts, "tokens": tokens}).encode() + b"\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


class HttpSide(ProcessSide):
    """A server that speaks OpenAI's completions, asked by streaming clients."""

    url = ""
    model = ""
    headers: dict[str, str] = {}

    def take(self, clients: int, tokens: int) -> Taken:
        """One stream a client."""
        started, used = time.perf_counter(), self.processor_seconds()
        answers = asyncio.run(self._ask_all(clients, tokens))
        seconds, processor = time.perf_counter() - started, self.processor_seconds() - used
        count = sum(count for count, _ in answers)
        return Taken(count / seconds, count / processor, statistics.median(first for _, first in answers))

    async def _ask_all(self, clients: int, tokens: int) -> list[tuple[int, float]]:
        async with httpx.AsyncClient(headers=self.headers, timeout=600, trust_env=False) as client:
            return await asyncio.gather(*(self._ask(client, text, tokens) for text in prompts(clients)))

    async def _ask(self, client: httpx.AsyncClient, prompt: str, tokens: int) -> tuple[int, float]:
        """Tokens that came, and seconds to the first event."""
        body: dict[str, Any] = {
            "model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        count, first, started = 0, None, time.perf_counter()
        async with client.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                first = first or time.perf_counter() - started
                if '"usage":{' in line.replace(" ", ""):
                    count = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
        assert first is not None
        return count, first

    def wait_until_answering(self, log: Path) -> None:
        """Until it answers one token. Raises RuntimeError where it never does."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.take(1, 1)
            except (httpx.HTTPError, psutil.Error):
                time.sleep(0.5)
            else:
                return
        raise RuntimeError(f"{self.name} does not answer:\n{log.read_text()[-3000:]}")


class Engine(HttpSide):
    """The serve job. Without prefix reuse: a benchmark asks the same again and again, clients do not."""

    name = "engine"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    model = "m"

    def __init__(self, folder: Path, work: Path, config: Mapping[str, Any] | None = None) -> None:
        """`config`: settings that differ from those of a plain comparison in float32."""
        own = Path(tempfile.mkdtemp(prefix="engine-", dir=work))
        spec = {
            "spec_version": 1, "job_id": 1, "attempt": 1, "kind": "serve", "verb": "serve", "host": "bench",
            "output_dir": str(own), "gpus": [], "model_dir": "", "inputs": {"model": {"id": "m", "path": str(folder)}},
            "config": {"model_name": "m", "dtype": "float32", "prefix_cache_mib": 0, **(config or {})},
        }  # fmt: skip
        (own / "spec.json").write_text(json.dumps(spec))
        (own / "secret").write_text(json.dumps({"engine_token": TOKEN}))
        log = own / "log.txt"
        super().__init__([sys.executable, "-m", "inference", "serve", str(own / "spec.json")], log)
        self.url = f"http://127.0.0.1:{self._port(own / 'events.jsonl', log)}"

    def _port(self, events: Path, log: Path) -> int:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            lines = events.read_text().splitlines() if events.exists() else []
            for event in map(json.loads, lines):
                if event["kind"] == "ready":
                    return int(event["port"])
            time.sleep(0.2)
        raise RuntimeError(f"the engine did not become ready:\n{log.read_text()[-3000:]}")


class TransformersServe(HttpSide):
    """The library's own server, with the flags that measured best for it where it batches."""

    BATCHING = ("--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "512")

    def __init__(self, python: Path, folder: Path, work: Path, *, batches: bool) -> None:
        self.name = "transformers serve, batching" if batches else "transformers serve"
        self.model = str(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        log = work / f"peer-{port}.log"
        flags = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--device", "cpu"]
        command = [str(python), "-m", "transformers.cli.transformers", "serve", str(folder), *flags]
        super().__init__([*command, *(self.BATCHING if batches else ())], log)
        self.wait_until_answering(log)
