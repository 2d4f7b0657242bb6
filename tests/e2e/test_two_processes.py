"""A run of two processes through the API: one curve through a pause and a process that is killed; cancel."""

import signal
from typing import Any

import psutil
import pytest

from tests.product import Product, wait_for
from tests.tiny import write_style_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 80
SECONDS = 240.0
"""Two processes load torch and the model, beside whatever else the machine does."""

CONFIG: dict[str, Any] = {
    "hyperparams": {"max_steps": STEPS, "per_device_train_batch_size": 4, "max_length": 128},
    "monitoring": {"logging_steps": 1, "eval_steps": STEPS},
    "output": {"save_steps": 5, "save_total_limit": 1},
    "environment": {"distributed": "ddp", "gpus": 2},
}


@pytest.fixture(scope="module")
def dataset_id(product: Product, tmp_path_factory: pytest.TempPathFactory) -> int:
    path = write_style_dataset(tmp_path_factory.mktemp("two") / "style.jsonl", rows=60, seed=5)
    found: int = product.upload(path, "for two processes")["id"]
    return found


def processes_of(product: Product, job_id: int) -> list[psutil.Process]:
    """The job's processes, whoever their parent is by now."""
    return [process for process in product.processes() if process.info["environ"].get("PILOTHOUSE_JOB") == str(job_id)]


def ranks_of(product: Product, job_id: int) -> dict[str, psutil.Process]:
    """The two that train, by their number; empty until both are there."""
    ranks = {
        process.info["environ"]["RANK"]: process
        for process in processes_of(product, job_id)
        if "RANK" in process.info["environ"]
    }
    return ranks if len(ranks) == 2 else {}


def test_one_curve_through_a_pause_and_a_process_that_is_killed(product: Product, dataset_id: int) -> None:
    run = product.create_run("two processes", dataset_id, CONFIG)
    job_id = run["job_id"]
    assert run["status"] == "pending"
    product.wait_for_step(run["id"], 6, SECONDS)
    with product.client("use") as client:
        client.post(f"/api/runs/{run['id']}/pause").raise_for_status()
        paused = product.wait_for_run(run["id"], "paused")
        saved = [row["step"] for row in client.get(f"/api/runs/{run['id']}/checkpoints").json()]
        assert 6 <= saved[-1] == paused["progress"]["step"] < STEPS
        wait_for("its processes to be gone", lambda: not processes_of(product, job_id))
        client.post(f"/api/runs/{run['id']}/resume").raise_for_status()
    ranks = wait_for("two processes", lambda: ranks_of(product, job_id), SECONDS)
    ranks["1"].send_signal(signal.SIGKILL)

    done = product.wait_for_run(run["id"], timeout_seconds=SECONDS)
    assert done["attempts"] == 3
    assert done["result_model"]
    ((said,),) = product.rows(
        "SELECT json_extract(error, '$.message') FROM controlplane_attempt WHERE job_id = ? AND number = 2", [job_id]
    )
    assert said == "Process 2 of the run's 2 was ended by SIGKILL."
    with product.client("read") as client:
        loss = client.get(f"/api/runs/{run['id']}/metrics", params={"keys": "loss"}).json()["series"]["loss"]
    assert loss["step"] == list(range(1, STEPS + 1))
    wait_for("its processes to be gone", lambda: not processes_of(product, job_id))


def test_cancel_ends_all_processes_as_soon_as_they_are_there(product: Product, dataset_id: int) -> None:
    run = product.create_run("two processes, cancelled", dataset_id, CONFIG)
    wait_for("two processes", lambda: ranks_of(product, run["job_id"]), SECONDS)
    with product.client("use") as client:
        client.post(f"/api/runs/{run['id']}/stop", json={"mode": "now"}).raise_for_status()
    product.wait_for_run(run["id"], "cancelled")
    wait_for("its processes to be gone", lambda: not processes_of(product, run["job_id"]))
