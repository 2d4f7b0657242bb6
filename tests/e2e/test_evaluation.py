"""An evaluation from a call to its figures: queue, agent, process, events, log, intervals. For real."""

from pathlib import Path
from typing import Any

from tests.product import Product, wait_for
from tests.tiny import write_style_dataset


def test_what_is_asked_is_answered(product: Product, tmp_path: Path) -> None:
    dataset = product.upload(write_style_dataset(tmp_path / "asked.jsonl", rows=20, seed=33), "asked")["id"]
    body = {"model_id": "tiny", "dataset_ref": dataset, "rows": "all", "metrics": ["contains", "loss"], "max_tokens": 4}
    with product.client("use") as client:
        job = client.post("/api/eval/jobs", json=body).raise_for_status().json()["job_id"]

        def ended() -> dict[str, Any] | None:
            told: dict[str, Any] = client.get(f"/api/eval/jobs/{job}?examples=true&limit=3").json()
            return told if told["status"] in ("done", "failed", "cancelled") else None

        told = wait_for("the evaluation", ended, timeout_seconds=240)
    assert told["error"] is None
    result = told["result"]
    assert (result["total_samples"], result["failed"], result["contains"]) == (20, 0, 0.0)
    low, high = result["ci95"]["loss"]
    assert low < result["avg_loss"] < high
    assert told["examples"]["total"] == 20
    assert told["examples"]["rows"][0]["expected"].startswith("Ahoy!")
    assert product.attempt_folder(job).joinpath("examples.jsonl").is_file()
