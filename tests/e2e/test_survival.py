"""SIGKILL in mid-run: web server, agent, both, trainer. The run ends all the same, no point is lost or doubled."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.product import Product, wait_for
from tests.tiny import write_style_dataset

pytestmark = pytest.mark.slow
STEPS = 120
CONFIG: dict[str, Any] = {
    "hyperparams": {"max_steps": STEPS, "per_device_train_batch_size": 8, "max_length": 128},
    "monitoring": {"logging_steps": 1, "eval_steps": 60},
    "output": {"save_steps": 30},
}


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, static_home: Path) -> Iterator[Product]:
    """A product of this module's own, since its parts are killed."""
    with Product(tmp_path_factory.mktemp("survival-home"), tiny_model, static_home) as running:
        yield running


@pytest.fixture(scope="module")
def dataset_id(product: Product, tmp_path_factory: pytest.TempPathFactory) -> int:
    path = write_style_dataset(tmp_path_factory.mktemp("survival") / "style.jsonl", rows=300, seed=77)
    found: int = product.upload(path, "survival")["id"]
    return found


@pytest.fixture
def run(product: Product, dataset_id: int) -> dict[str, Any]:
    """A run that is at work and has logged some steps."""
    created = product.create_run("survivor", dataset_id, CONFIG)
    product.wait_for_step(created["id"], 10)
    return created


def written(product: Product, job_id: int) -> dict[str, dict[int, Any]]:
    """The curves as the event files of all attempts have them: a resume supersedes what lies beyond it."""
    curves: dict[str, dict[int, Any]] = {}
    for folder in sorted((product.home / "jobs" / str(job_id) / "attempts").iterdir(), key=lambda path: int(path.name)):
        for line in (folder / "events.jsonl").read_text().splitlines():
            event = json.loads(line)
            if event["kind"] == "resumed":
                curves = {
                    key: {step: value for step, value in points.items() if step <= event["step"]}
                    for key, points in curves.items()
                }
            elif event["kind"] == "metrics":
                for key, value in event["values"].items():
                    assert event["step"] not in curves.setdefault(key, {}), f"{key} has step {event['step']} twice"
                    curves[key][event["step"]] = value
    return curves


def assert_whole(product: Product, run: dict[str, Any]) -> None:
    """The data base has exactly the points of the event files, and the run has ended as it should."""
    facts = product.wait_for_run(run["id"], timeout_seconds=180)
    with product.client("read") as client:
        answer = client.get(f"/api/runs/{run['id']}/metrics", params={"max_points": 20000}).json()
    stored = {key: list(zip(series["step"], series["value"], strict=True)) for key, series in answer["series"].items()}
    assert stored == {key: sorted(points.items()) for key, points in written(product, run["job_id"]).items()}
    assert [step for step, _ in stored["loss"]] == list(range(1, STEPS + 1))
    assert facts["progress"]["step"] == STEPS
    with product.client("read") as client:
        steps = [row["step"] for row in client.get(f"/api/runs/{run['id']}/checkpoints").json()]
    assert steps[-1] == STEPS


def trainer_pid(product: Product, job_id: int, attempt: int = 1) -> int:
    record = json.loads((product.attempt_folder(job_id, attempt) / "process.json").read_text())
    return int(record["pid"])


def test_the_web_server_is_killed(product: Product, run: dict[str, Any]) -> None:
    product.kill_web()
    os.kill(trainer_pid(product, run["job_id"]), 0)
    product.start_web()
    assert_whole(product, run)
    assert product.run_facts(run["id"])["attempts"] == 1


def test_the_agent_is_killed_and_put_back_by_the_web_server(product: Product, run: dict[str, Any]) -> None:
    before = product.agent_pid
    product.kill_agent()
    os.kill(trainer_pid(product, run["job_id"]), 0)
    assert_whole(product, run)
    assert product.run_facts(run["id"])["attempts"] == 1
    assert wait_for("another agent", lambda: product.agent_pid if product.agent_pid != before else None)


def test_both_are_killed(product: Product, run: dict[str, Any]) -> None:
    product.kill_web()
    product.kill_agent()
    os.kill(trainer_pid(product, run["job_id"]), 0)
    product.start_web()
    assert_whole(product, run)
    assert product.run_facts(run["id"])["attempts"] == 1


def test_the_trainer_is_killed_and_goes_on_from_its_last_checkpoint(product: Product, run: dict[str, Any]) -> None:
    with product.client("read") as client:
        wait_for("a checkpoint", lambda: client.get(f"/api/runs/{run['id']}/checkpoints").json())
    os.kill(trainer_pid(product, run["job_id"]), signal.SIGKILL)
    assert_whole(product, run)
    assert product.run_facts(run["id"])["attempts"] == 2
    second = (product.attempt_folder(run["job_id"], 2) / "events.jsonl").read_text().splitlines()
    resumed = [json.loads(line) for line in second if '"kind":"resumed"' in line]
    assert [event["step"] >= 30 for event in resumed] == [True]


def test_pause_keeps_the_place_and_resume_goes_on(product: Product, run: dict[str, Any]) -> None:
    with product.client("use") as client:
        client.post(f"/api/runs/{run['id']}/pause").raise_for_status()
        paused = product.wait_for_run(run["id"], "paused")
        assert paused["phase"] == ""
        client.post(f"/api/runs/{run['id']}/resume").raise_for_status()
    assert_whole(product, run)
    assert product.run_facts(run["id"])["attempts"] == 2


def test_stop_with_save_leaves_a_model_and_stop_now_leaves_none(product: Product, dataset_id: int) -> None:
    saved = product.create_run("stop and save", dataset_id, {**CONFIG, "hyperparams": {"max_steps": 5000}})
    product.wait_for_step(saved["id"], 5)
    with product.client("use") as client:
        client.post(f"/api/runs/{saved['id']}/stop", json={"mode": "save"}).raise_for_status()
        facts = product.wait_for_run(saved["id"])
        assert facts["result"]["stopped"] is True
        assert facts["result_model"]
        dropped = product.create_run("stop now", dataset_id, {**CONFIG, "hyperparams": {"max_steps": 5000}})
        product.wait_for_step(dropped["id"], 5)
        pid = trainer_pid(product, dropped["job_id"])
        client.post(f"/api/runs/{dropped['id']}/stop", json={"mode": "now"}).raise_for_status()
        facts = product.wait_for_run(dropped["id"], "cancelled")
        assert facts["result_model"] is None
    wait_for("the process to be gone", lambda: not Path(f"/proc/{pid}").exists())


def test_everything_stops_and_goes_on_at_the_next_start(product: Product, run: dict[str, Any]) -> None:
    product.manage("stop_all")
    assert not Path(f"/proc/{trainer_pid(product, run['job_id'])}").exists()
    product.start_agent()
    product.start_web()
    assert_whole(product, run)
