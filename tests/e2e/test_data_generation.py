"""Generated data from a call to a dataset: queue, agent, process, shards, rows, review, validation. For real."""

import json
from pathlib import Path
from typing import Any

from tests.inference.models import CHATS, build_taught_model
from tests.product import Product, wait_for


def test_what_a_model_answers_becomes_a_dataset_once_it_is_accepted(product: Product, tmp_path: Path) -> None:
    seeds = product.upload(seeds_of(tmp_path / "seeds.jsonl"), "asked anew")["id"]
    config = {"num_examples": 10, "dataset_ref": seeds, "output_dir": "answers", "temperature": 0.0, "max_tokens": 120}
    with product.client("admin") as admin:
        path = str(build_taught_model(tmp_path / "taught"))
        body = {"id": "taught-generator", "source": "directory", "path": path}
        admin.post("/api/models/register", json=body).raise_for_status()
        wait_for("the model", lambda: admin.get("/api/models/taught-generator").json()["state"] == "ready")
    with product.client("use") as client:
        asked = {"model_id": "taught-generator", "strategy": "answer", "config": config}
        job = client.post("/api/data_gen/jobs", json=asked).raise_for_status().json()["job_id"]
        whole = f"/api/data_gen/jobs/{job}"

        def read() -> dict[str, Any] | None:
            told: dict[str, Any] = client.get(whole).json()
            assert told["status"] not in ("failed", "cancelled"), f"{told['error']}\n{product.logs()}"
            return told if told["is_read"] else None

        told = wait_for("its rows", read, timeout_seconds=240)
        assert (told["status"], told["result"]["examples"], told["fault"]) == ("done", len(CHATS), "")
        assert [(shard["file"], shard["rows"]) for shard in told["shards"]] == [("shard-00001.jsonl", len(CHATS))]
        rows = client.get(f"{whole}/examples").json()["rows"]
        assert {row["messages"][-2]["content"]: row["messages"][-1]["content"] for row in rows} == CHATS

        client.patch(f"{whole}/examples/1", json={"state": "rejected"}).raise_for_status()
        better = [*rows[1]["messages"][:-1], {"role": "assistant", "content": "Ahoy! Better."}]
        client.patch(f"{whole}/examples/2", json={"messages": better}).raise_for_status()
        assert client.post(f"{whole}/examples/accept").json() == {"accepted": len(CHATS) - 1}
        made = client.post(f"{whole}/dataset").raise_for_status().json()["dataset_id"]

        def checked() -> dict[str, Any] | None:
            dataset: dict[str, Any] = client.get(f"/api/datasets/{made}").json()
            return dataset if dataset["status"] in ("ready", "rejected") else None

        dataset = wait_for("the validation", checked)
        kept = client.get(f"/api/datasets/{made}/preview").json()["rows"]
    assert (dataset["name"], dataset["status"], dataset["examples"]) == ("answers", "ready", len(CHATS) - 1)
    lineage = dataset["lineage"]
    assert (lineage["generator"], lineage["generator_version"]) == ("pilothouse answer", "taught-generator")
    assert [parent["id"] for parent in lineage["parents"]] == [seeds]
    assert [row["messages"] for row in kept] == [better, *(row["messages"] for row in rows[2:])]


def seeds_of(path: Path) -> Path:
    """The questions that the model knows, with answers that it doesn't give."""
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": f"Unread {number}."}]
        for number, question in enumerate(CHATS)
    ]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    return path
