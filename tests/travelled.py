"""What a run on a host with a home of its own must have left in the library, and that its model answers from here."""

import socket
from pathlib import Path
from typing import Any

from tests.product import Product, wait_for

CONFIG: dict[str, Any] = {
    "hyperparams": {"max_steps": 6, "per_device_train_batch_size": 4, "max_length": 64},
    "monitoring": {"eval_steps": 6},
    "output": {"save_steps": 3},
}
"""A short run with two checkpoints."""


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
        assert said.json()["usage"]["completion_tokens"] > 0
