"""A large upload and its validation: `python -m bench.upload [--megabytes 287] [--rows 100000]`.

Uploads a JSONL of that size in parts to the real server while another client asks for a page four times a second.
Printed: how much the web process grows, how long the others wait, what the validation process holds at most. Goals: web
process at most 80 MB more, others within 200 ms, validation under 400 MB.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from bench.machine import described
from tests.product import Product, wait_for
from tests.tiny import build_tiny_model

ASK_EVERY_SECONDS = 0.25
SAMPLE_SECONDS = 0.02


def write_rows(path: Path, megabytes: int, rows: int) -> None:
    """Writes `rows` chats that make up about `megabytes` MB."""
    words = "the tide turns and the harbour empties by four while lamps are lit along the quay".split()  # noqa: SIM905
    wanted = megabytes * 1_000_000 // rows
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            question, answer = f"Entry {number}: what does the log say?", []
            length = 0
            while length < wanted - 150:
                word = words[(number * 7 + length) % len(words)]
                answer.append(word)
                length += len(word) + 1
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": " ".join(answer)}]
            stream.write(json.dumps({"messages": turns}) + "\n")


class Witness:
    """Samples the web process's memory and the time that other requests take, until it is told to stop."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.process = psutil.Process(product.web_pid)
        self.before_bytes = self.process.memory_info().rss
        self.peak_bytes = self.before_bytes
        self.seconds: list[float] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._memory), threading.Thread(target=self._requests)]

    def __enter__(self) -> "Witness":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def _memory(self) -> None:
        while not self.stopping.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self.process.memory_info().rss)

    def _requests(self) -> None:
        with self.product.client("read") as client:
            while not self.stopping.wait(ASK_EVERY_SECONDS):
                started = time.monotonic()
                client.get("/api/jobs").raise_for_status()
                self.seconds.append(time.monotonic() - started)


UPLOADER = """
import sys, time
from pathlib import Path
import httpx
url, key, name = sys.argv[1:4]
path = Path(sys.argv[4])
with httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=120) as client:
    upload = client.post("/api/uploads", json={"filename": path.name, "bytes": path.stat().st_size})
    upload = upload.raise_for_status().json()
    with path.open("rb") as stream:
        for number in range(1, upload["part_count"] + 1):
            part = stream.read(upload["part_bytes"])
            client.put(f"/api/uploads/{upload['id']}/parts/{number}", content=part).raise_for_status()
    done = client.post(f"/api/uploads/{upload['id']}/complete", json={"name": name, "eval_fraction": 0.05})
    print(done.raise_for_status().json()["id"])
"""
"""A process of its own, as a browser is: sending must not hold up the witness."""


def main() -> None:
    """Uploads, validates, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=287)
    parser.add_argument("--rows", type=int, default=100_000)
    given = parser.parse_args()
    print(described())
    with tempfile.TemporaryDirectory(prefix="upload-") as scratch:
        folder = Path(scratch)
        source = folder / "large.jsonl"
        write_rows(source, given.megabytes, given.rows)
        product = Product(folder / "product", build_tiny_model(folder / "model"))
        try:
            product.start()
            with product.client("read") as client:
                client.get("/api/jobs").raise_for_status()
            with Witness(product) as during:
                started = time.monotonic()
                command = [sys.executable, "-c", UPLOADER, product.url, product.keys["use"], "large", str(source)]
                sent = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
                uploaded = time.monotonic() - started
                with product.client("read") as client:
                    address = f"/api/datasets/{int(sent.stdout)}"
                    wait_for("the validation", lambda: client.get(address).json()["status"] == "ready", 600)
                    dataset = client.get(address).json()
                validated = time.monotonic() - started - uploaded
            ended = json.loads((product.attempt_folder(dataset["job_id"]) / "exit.json").read_text())
        finally:
            product.close()
        size = source.stat().st_size
    waits = sorted(during.seconds)
    grown = (during.peak_bytes - during.before_bytes) / 1e6
    print(
        f"{size / 1e6:.0f} MB, {dataset['examples']:,} examples: sent in {uploaded:.1f} s, checked in {validated:.1f} s"
    )
    print(f"web process: {during.before_bytes / 1e6:.0f} MB, at most {grown:.1f} MB more; goal <= 80 MB")
    print(
        f"other requests ({len(waits)}): median {1000 * statistics.median(waits):.0f} ms, "
        f"95 % {1000 * waits[int(0.95 * len(waits))]:.0f} ms, slowest {1000 * waits[-1]:.0f} ms; goal <= 200 ms"
    )
    print(f"validation process: at most {ended['max_rss_bytes'] / 1e6:.0f} MB; goal < 400 MB")


if __name__ == "__main__":
    main()
