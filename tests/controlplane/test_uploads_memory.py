"""A large upload and its download through the real server: the web process stays small, and others are served."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.product import Product

MEGABYTES = 100
GROWTH_LIMIT_BYTES = 80 << 20
READING_SECONDS = 0.01
"""How long the reader of a download takes over each MiB."""


def write_rows(path: Path) -> str:
    """A JSONL file of MEGABYTES; returns its hash."""
    filler = "x" * 2900
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        number = 0
        while stream.tell() < MEGABYTES << 20:
            line = f'{{"prompt": "Question {number}?", "completion": "{filler}"}}\n'.encode()
            digest.update(line)
            stream.write(line)
            number += 1
    return digest.hexdigest()


@contextmanager
def watching(product: Product) -> Iterator[dict[str, list[float]]]:
    """Meanwhile, the memory of the web process and how long other requests take. Fails when one isn't answered."""
    found: dict[str, list[float]] = {"rss": [], "seconds": []}
    faults: list[Exception] = []
    stop = threading.Event()

    def look() -> None:
        try:
            ask_until_stopped()
        except Exception as error:  # the thread's own end would tell nobody
            faults.append(error)

    def ask_until_stopped() -> None:
        process = psutil.Process(product.web_pid)
        with product.client("read", timeout=20.0) as client:
            while not stop.wait(0.05):
                began = time.monotonic()
                client.get("/api/datasets").raise_for_status()
                found["seconds"].append(time.monotonic() - began)
                found["rss"].append(process.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        stop.set()
        watcher.join(30)
    assert not watcher.is_alive(), "another request was never answered"
    assert not faults, f"another request failed: {faults}"


def check(found: dict[str, list[float]], before: int) -> None:
    growth_bytes = int(max(found["rss"])) - before
    assert growth_bytes < GROWTH_LIMIT_BYTES, f"grew by {growth_bytes / 1e6:.0f} MB"
    assert max(found["seconds"]) < 5, f"another request took {max(found['seconds']):.1f} s"


@pytest.mark.slow
def test_a_large_file_comes_and_goes_while_the_web_process_stays_small(product: Product, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    sha256 = write_rows(path)
    with product.client("use") as client:
        for address in ("/api/datasets", "/api/health"):  # what the first request loads is not the upload's
            client.get(address).raise_for_status()
        before = psutil.Process(product.web_pid).memory_info().rss
        with watching(product) as found:
            body = {"filename": path.name, "bytes": path.stat().st_size, "sha256": sha256}
            upload = client.post("/api/uploads", json=body).raise_for_status().json()
            with path.open("rb") as stream:
                for number in range(1, upload["part_count"] + 1):
                    part = stream.read(upload["part_bytes"])
                    client.put(f"/api/uploads/{upload['id']}/parts/{number}", content=part).raise_for_status()
            done = client.post(f"/api/uploads/{upload['id']}/complete", json={"name": "large"})
        assert done.status_code == 201, done.text
        assert done.json()["sha256"] == sha256
        assert len(found["seconds"]) >= 5
        check(found, before)
        digest = hashlib.sha256()
        address = f"/api/datasets/{done.json()['id']}/download"
        with watching(product) as found, client.stream("GET", address) as response:
            assert int(response.raise_for_status().headers["Content-Length"]) == path.stat().st_size
            for block in response.iter_bytes(1 << 20):
                digest.update(block)
                time.sleep(READING_SECONDS)  # a reader slower than the disk: what waits for it must not pile up
        assert digest.hexdigest() == sha256
        check(found, before)


def test_a_form_too_large_is_refused_by_the_real_server(product: Product) -> None:
    with product.client("use") as client:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = client.post("/api/datasets", content=b"x" * (34 << 20), headers=headers)
    assert answer.status_code == 413
    assert "POST /api/uploads" in answer.json()["detail"]
