"""The main job through the HTTP API alone, as a script of an owner's would do it: upload, train, activate, chat."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.product import Product, wait_for
from tests.tiny import FAREWELL, GREETING, style_answer, write_style_dataset

STEPS = 150
CONFIG = {
    "hyperparams": {"max_steps": STEPS, "per_device_train_batch_size": 16, "learning_rate": 5e-3, "max_length": 128},
    "model": {"method": "full"},
    "monitoring": {"logging_steps": 1, "eval_steps": 30},
}


def _metric_events(product: Product, job_id: int) -> list[dict[str, Any]]:
    lines = (product.attempt_folder(job_id) / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == "metrics"]


@pytest.mark.slow
def test_from_a_file_to_a_model_that_answers(product: Product, tmp_path: Path) -> None:
    dataset = product.upload(write_style_dataset(tmp_path / "ahoy.jsonl", rows=200, seed=11), "ahoy")
    assert dataset["examples"] == 200
    assert dataset["report"]["fault_count"] == 0

    config = {**CONFIG, "output": {"register_as": "ahoy-tiny"}}
    run = product.create_run("teach it to hail", dataset["id"], config)
    product.wait_for_step(run["id"], 5)
    facts = product.wait_for_run(run["id"])
    assert facts["progress"]["step"] == STEPS

    events = _metric_events(product, run["job_id"])
    losses = {event["step"]: event["values"]["loss"] for event in events if "loss" in event["values"]}
    with product.client("read") as client:
        loss = client.get(f"/api/runs/{run['id']}/metrics", params={"keys": "loss"}).json()["series"]["loss"]
    assert dict(zip(loss["step"], loss["value"], strict=True)) == losses
    assert list(losses) == list(range(1, STEPS + 1))
    assert losses[STEPS] < losses[1] / 3

    with product.client("admin") as client:
        listed = {model["id"]: model for model in client.get("/api/models").json()["models"]}
        assert listed["ahoy-tiny"]["run_id"] == run["id"]
        active = client.post("/api/models/set_active", json={"id": "ahoy-tiny"}, timeout=120)
        assert active.status_code == 200, active.text
        assert active.json()["active_model"] == "ahoy-tiny"

    openai = OpenAI(base_url=f"{product.url}/v1", api_key=product.keys["use"], timeout=60)
    question: Any = [{"role": "user", "content": "What is the anchor for?"}]
    answer = openai.chat.completions.create(model="ahoy-tiny", messages=question, max_tokens=60, temperature=0)
    assert answer.choices[0].message.content == style_answer("the anchor")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 5

    stream = openai.chat.completions.create(
        model="ahoy-tiny", messages=question, max_tokens=60, temperature=0, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == answer.choices[0].message.content
    assert len(list(filter(None, pieces))) > 3, "it came in one piece"


def test_two_parts_and_a_break_make_the_same_file(product: Product, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{number} " + "x" * 900},
                          {"role": "assistant", "content": f"{GREETING} {number} {FAREWELL}"}]}
            for number in range(6000)]  # fmt: skip
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with product.client("use") as client:
        upload = client.post("/api/uploads", json={"filename": "two.jsonl", "bytes": len(data)}).json()
        size, count = upload["part_bytes"], upload["part_count"]
        assert (size, count) == (4 << 20, math.ceil(len(data) / (4 << 20)))
        assert count == 2
        client.put(f"/api/uploads/{upload['id']}/parts/2", content=data[size:]).raise_for_status()
        early = client.post(f"/api/uploads/{upload['id']}/complete", json={"name": "two", "eval_fraction": 0})
        assert early.status_code == 409
        assert client.get(f"/api/uploads/{upload['id']}").json()["parts"] == [2]
        client.put(f"/api/uploads/{upload['id']}/parts/1", content=data[:size]).raise_for_status()
        done = client.post(f"/api/uploads/{upload['id']}/complete", json={"name": "two", "eval_fraction": 0})
        assert done.status_code == 201, done.text

        def ready() -> dict[str, Any] | None:
            dataset: dict[str, Any] = client.get(f"/api/datasets/{done.json()['id']}").json()
            return dataset if dataset["status"] == "ready" else None

        assert wait_for("the validation", ready)["examples"] == len(rows)
        assert client.get(f"/api/datasets/{done.json()['id']}/download").content == data
