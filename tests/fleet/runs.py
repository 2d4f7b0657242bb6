"""Runs on the second node of a fleet, for its tests."""

import json
from pathlib import Path
from typing import Any

from tests.fleet.cluster import Cluster

SECONDS = 240.0


def start_there(fleet: Cluster, dataset_id: int, name: str, steps: int) -> dict[str, Any]:
    """A run that has logged some steps on the second node, though it is not bound to it."""
    config = {
        "hyperparams": {"max_steps": steps, "per_device_train_batch_size": 8, "max_length": 128},
        "monitoring": {"logging_steps": 1, "eval_steps": steps}, "output": {"save_steps": 20},
    }  # fmt: skip
    here = fleet.first_host()["name"]
    with fleet.web.client() as client:
        client.put(f"/api/hosts/{here}/state", json={"state": "draining"}).raise_for_status()
        run = fleet.web.create_run(name, dataset_id, config)
        fleet.web.wait_for_step(run["id"], 5, SECONDS)
        client.put(f"/api/hosts/{here}/state", json={"state": "open"}).raise_for_status()
    return run


def trainer(fleet: Cluster, job_id: int, attempt: int = 1) -> Path:
    """The process of an attempt on the second node, as /proc has it."""
    folder = fleet.second.home / "jobs" / str(job_id) / "attempts" / str(attempt)
    return Path(f"/proc/{json.loads((folder / 'process.json').read_text())['pid']}")


def steps_of(fleet: Cluster, run_id: int) -> list[int]:
    """The steps of the loss curve, as they are stored."""
    with fleet.web.client("read") as client:
        answer = client.get(f"/api/runs/{run_id}/metrics", params={"keys": "loss", "max_points": 20000}).json()
    steps: list[int] = answer["series"]["loss"]["step"]
    return steps
