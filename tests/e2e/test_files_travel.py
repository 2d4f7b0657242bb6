"""Train on one host, activate on another, each with a home that the other doesn't read; killed in mid-copy."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.fleet.local import ensure_agent
from tests.product import Product, wait_for
from tests.second_home import SECOND, kill_agent, second_home
from tests.tiny import write_style_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
CONFIG: dict[str, Any] = {
    "hyperparams": {"max_steps": 6, "per_device_train_batch_size": 4, "max_length": 64},
    "monitoring": {"eval_steps": 6},
    "output": {"save_steps": 3},
    "environment": {"host": SECOND},
}
PADDING_BYTES = 640 << 20


@pytest.fixture
def second(own_product: Product, tmp_path: Path) -> Iterator[Path]:
    """The other host's home."""
    with second_home(own_product, tmp_path / "second" / "home") as home:
        yield home


def moving(product: Product) -> list[tuple[Any, ...]]:
    """The dataset's transfers: id and state."""
    return product.rows("SELECT id, state FROM controlplane_transfer WHERE item_kind = 'dataset'")


def test_trained_there_served_here_though_both_sides_were_killed_in_mid_copy(
    own_product: Product, second: Path, tmp_path: Path
) -> None:
    product = own_product
    dataset = product.upload(write_style_dataset(tmp_path / "style.jsonl", rows=20, seed=7), "style")
    folder = product.home / "datasets" / dataset["sha256"]
    with (folder / "padding.bin").open("wb") as padding:
        padding.truncate(PADDING_BYTES)
    run = product.create_run("there", dataset["id"], CONFIG)

    staged = second / "tmp" / "incoming" / f"dataset-{dataset['sha256']}" / "files" / "padding.bin"
    wait_for("half of a copy", lambda: staged.exists() and staged.stat().st_size > PADDING_BYTES // 8)
    product.kill_web()
    kill_agent(second)
    inode, held = staged.stat().st_ino, staged.stat().st_size
    assert held < PADDING_BYTES, "it was killed in the middle"
    ensure_agent(second)
    product.start_web()

    done = product.wait_for_run(run["id"], timeout_seconds=150)
    arrived = second / "datasets" / dataset["sha256"] / "padding.bin"
    assert arrived.stat().st_ino == inode, "it went on behind what was there; nothing was sent twice"
    assert [state for _, state in moving(product)] == ["done"]
    spec = (second / "jobs" / str(run["job_id"]) / "attempts" / "1" / "spec.json").read_text()
    assert str(product.home) not in spec
    check_library(product, second, run["id"], done["result_model"])
    check_served_here(product, done["result_model"])


def check_library(product: Product, second: Path, run_id: int, model: str) -> None:
    """What was made there lies here, byte for byte."""
    with product.client("read") as client:
        facts = next(row for row in client.get("/api/models").json()["models"] if row["id"] == model)
    folder = Path(facts["path"])
    there = second / "models" / folder.name / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == there.read_bytes()
    for step in (3, 6):
        name = f"runs/{run_id}/checkpoints/step-{step}/manifest.json"
        wait_for(f"checkpoint {step}", (product.home / name).exists)
        assert (product.home / name).read_bytes() == (second / name).read_bytes()


def check_served_here(product: Product, model: str) -> None:
    """One call, and the model answers from the first host."""
    here = socket.gethostname()
    with product.client("admin", timeout=200) as client:
        answer = client.post("/api/models/set_active", json={"id": model, "host": here})
        assert answer.status_code == 200, answer.text
        deployment = client.get(f"/api/deployments/{answer.json()['deployment']}").json()
        assert deployment["host"] == here
        asked = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "What is the anchor for?"}]}
        said = client.post("/v1/chat/completions", json=asked)
        assert said.status_code == 200, said.text
        assert json.loads(said.text)["usage"]["completion_tokens"] > 0
