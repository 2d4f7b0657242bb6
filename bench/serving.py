"""Tokens per second of the serving engine at 1, 4 and 8 clients, over HTTP, beside one padded batch of `generate`.

`python -m bench.serving [--model FOLDER] [--rounds 3]`. Without a model it makes one of SmolLM2-135M's shape with
random weights. Both sides run in turns, each in a process of its own, greedy, with the same prompts and lengths.
The first ratio is of the clock's time; the second, of processor time, says more on a machine that has other work.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

PROMPT = "Tell me about the rope, the sail and the old mast of the ship. "
CLIENTS = (1, 4, 8)
TOKEN = "bench"
START_TIMEOUT_SECONDS = 180


class Rate(NamedTuple):
    """Tokens per second of the clock and of processor time, all rows together, prompts included in the time."""

    by_clock: float
    by_processor: float


def make_model(folder: Path) -> Path:
    """Random weights in the shape of SmolLM2-135M, with the tests' tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.tiny import build_tiny_model

    build_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def prompts(clients: int) -> list[str]:
    """Prompts of different lengths, as clients have them."""
    return [PROMPT * (1 + client % 4) for client in range(clients)]


class Peer:
    """One padded batch of the library's `generate`."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")

    def rate(self, clients: int, tokens: int) -> Rate:
        """One batch of as many rows as there are clients."""
        batch = self._tokenizer(prompts(clients), return_tensors="pt", padding=True)
        started, used = time.perf_counter(), time.process_time()
        with self._torch.inference_mode():
            self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
            )
        count = clients * tokens
        return Rate(count / (time.perf_counter() - started), count / (time.process_time() - used))


class Ours:
    """The serve job, asked over HTTP by as many clients, streaming."""

    def __init__(self, folder: Path, work: Path) -> None:
        spec = {
            "spec_version": 1, "job_id": 1, "attempt": 1, "kind": "serve", "verb": "serve", "host": "bench",
            "output_dir": str(work), "gpus": [], "model_dir": "", "inputs": {"model": {"id": "m", "path": str(folder)}},
            "config": {"model_name": "m", "dtype": "float32"},
        }  # fmt: skip
        (work / "spec.json").write_text(json.dumps(spec))
        (work / "secret").write_text(json.dumps({"engine_token": TOKEN}))
        with (work / "log.txt").open("wb") as log:
            command = [sys.executable, "-m", "inference", "serve", str(work / "spec.json")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._url = f"http://127.0.0.1:{self._port(work / 'events.jsonl')}/v1/completions"

    def rate(self, clients: int, tokens: int) -> Rate:
        """One request from each client, all at once."""
        started, used = time.perf_counter(), self._processor_seconds()
        count = asyncio.run(self._ask_all(clients, tokens))
        return Rate(count / (time.perf_counter() - started), count / (self._processor_seconds() - used))

    def stop(self) -> None:
        """Ends the job."""
        os.kill(self._process.pid, signal.SIGTERM)
        self._process.wait(timeout=60)

    def _processor_seconds(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    async def _ask_all(self, clients: int, tokens: int) -> int:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=600) as client:
            return sum(await asyncio.gather(*(self._ask(client, text, tokens) for text in prompts(clients))))

    async def _ask(self, client: httpx.AsyncClient, prompt: str, tokens: int) -> int:
        body: dict[str, Any] = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        body["stream_options"] = {"include_usage": True}
        count = 0
        async with client.stream("POST", self._url, json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if '"usage":{' in line:
                    count = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
        return count

    def _port(self, events: Path) -> int:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            lines = events.read_text().splitlines() if events.exists() else []
            for event in map(json.loads, lines):
                if event["kind"] == "ready":
                    return int(event["port"])
                if event["kind"] == "error":
                    raise RuntimeError(event["message"])
            time.sleep(0.2)
        raise TimeoutError("the engine did not become ready")


def main() -> None:
    """Measures and prints one line for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the engine is stopped too
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = arguments.model or make_model(work / "model")
        ours, peer = Ours(folder, work), Peer(folder)
        try:
            for clients in CLIENTS:
                pairs = [
                    (peer.rate(clients, arguments.tokens), ours.rate(clients, arguments.tokens))
                    for _ in range(arguments.rounds)
                ]
                theirs, mine = (statistics.median(rate.by_clock for rate in side) for side in zip(*pairs, strict=True))
                ratios = [
                    statistics.median(own[which] / other[which] for other, own in pairs)
                    for which in range(len(Rate._fields))
                ]
                figures = f"generate {theirs:6.1f} tokens/s, engine {mine:6.1f} tokens/s"
                print(f"{clients} clients: {figures}, ratio {ratios[0]:.2f}, of CPU time {ratios[1]:.2f}", flush=True)
        finally:
            ours.stop()


if __name__ == "__main__":
    main()
