"""Scripts elsewhere send runs to the running product: the docs' client, and a server that is killed under them."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.product import CHECKOUT, Product, wait_for

GUIDE = CHECKOUT / "docs" / "external-runs.md"
WRITERS, POINTS = 8, 40


def test_the_client_of_the_docs_sends_a_run(product: Product, tmp_path: Path) -> None:
    client, use = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "pilothouse.py").write_text(client)
    (tmp_path / "train.py").write_text(use)
    environment = {"PILOTHOUSE_URL": product.url, "PILOTHOUSE_KEY": product.keys["use"], "PATH": ""}
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, env=environment, check=True, timeout=60)
    with product.client("read") as reader:
        found = reader.get("/api/runs", params={"q": "a run elsewhere"}).json()["runs"]
        assert [(run["status"], run["origin"], run["config"]) for run in found] == [
            ("done", "script", {"lr": 3e-4, "optimizer": "lion"})
        ]
        series = reader.get(f"/api/runs/{found[0]['id']}/metrics").json()["series"]
    assert series["loss"]["step"] == list(range(100))
    assert series["accuracy"]["value"][-1] == 0.99


@pytest.mark.slow
def test_what_was_answered_outlives_a_kill_and_comes_once(own_product: Product) -> None:
    product = own_product
    with product.client("use") as client:
        run = client.post("/api/runs/external", json={"name": "killed under it"}).raise_for_status().json()["id"]

    def send_all(writer: int) -> None:
        for seq in range(1, POINTS + 1):
            body = {"writer": str(writer), "seq": seq, "step": seq, "values": {f"loss/{writer}": float(seq)}}
            wait_for("an answer", lambda body=body: _answered(product, run, body))  # type: ignore[misc] # bound now
            if (writer, seq) == (0, POINTS // 2):
                product.kill_web()
                product.start_web()

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(send_all, range(WRITERS)))
    with product.client("read") as reader:
        series = reader.get(f"/api/runs/{run}/metrics").raise_for_status().json()["series"]
    assert {key: curve["value"] for key, curve in series.items()} == {
        f"loss/{writer}": [float(seq) for seq in range(1, POINTS + 1)] for writer in range(WRITERS)
    }


def _answered(product: Product, run: int, body: dict[str, object]) -> bool:
    """Whether the server has taken it; False while none is there."""
    try:
        with product.client("use") as client:
            client.post(f"/api/runs/{run}/metrics", json=body).raise_for_status()
    except httpx.TransportError:
        return False
    return True
