"""Files put into the inbox train one behind the other, each from the model that the one before it made."""

import hashlib
import json
from pathlib import Path
from typing import Any

from monitoring.files import FACTS_FILE, hashes_of
from tests.factories import chat_rows, jsonl
from tests.product import Product, wait_for

CONFIG = {
    "hyperparams": {"max_steps": 2, "per_device_train_batch_size": 2, "max_length": 128},
    "output": {"save_total_limit": 1}, "data": {"eval_fraction": 0.0},
}  # fmt: skip
ROWS = jsonl(chat_rows(12))
"""Both files hold the same: with settings of its own each has its run, and the checks are made once."""


def drop(product: Product, name: str, folder: str) -> None:
    """A file and its settings, written beside their place and renamed into it."""
    said = {**CONFIG, "model": "tiny" if name == "link-1" else "", "continue_from_current": "inbox-chain"}
    for ending, data in ((".jsonl.json", json.dumps(said).encode()), (".jsonl", ROWS)):
        part = product.home / "inbox" / folder / f".{name}{ending}.part"
        part.write_bytes(data)
        part.rename(part.with_name(f"{name}{ending}"))


def test_two_files_of_the_inbox_train_as_a_chain(product: Product) -> None:
    wait_for("the inbox", (product.home / "inbox" / "high").is_dir)
    template = {"name": "inbox template", "config": {}, "model": "tiny"}
    with product.client("admin") as client:
        client.post("/api/run-templates", json=template).raise_for_status()
        client.put("/api/settings/inbox.template", json={"value": template["name"]}).raise_for_status()
        try:
            drop(product, "link-1", "high")
            first = _queued(product, "link-1")
            drop(product, "link-2", "")
            second = _queued(product, "link-2")
            product.wait_for_run(first["run_id"])
            product.wait_for_run(second["run_id"])
            wait_for(
                "both to be done", lambda: {_file(product, name)["state"] for name in ("link-1", "link-2")} == {"done"}
            )
        finally:
            client.put("/api/settings/inbox.template", json={"value": ""}).raise_for_status()
        chain = client.get("/api/chains/inbox-chain").json()
        made = [client.get(f"/api/runs/{file['run_id']}").json()["result_model"] for file in (first, second)]
    assert (chain["base"], chain["current_model"]) == ("tiny", made[1])
    folders = [Path(_model(product, name)["path"]) for name in made]
    tiny = Path(_model(product, "tiny")["path"]).resolve()
    # What each process says that it has started from, by the hash of the files that it has read.
    assert _started_from(folders[0]) == {"id": "tiny", "sha256": _hash(tiny)}
    assert _started_from(folders[1]) == {"id": made[0], "sha256": _hash(folders[0])}
    assert len({hashes_of(folder)["model.safetensors"] for folder in (tiny, *folders)}) == 3
    assert list((product.home / "tmp" / "inbox").iterdir()) == []


def _file(product: Product, name: str) -> dict[str, Any]:
    with product.client("read") as client:
        files = client.get("/api/inbox").raise_for_status().json()["files"]
    return next((file for file in files if file["filename"] == f"{name}.jsonl"), {"state": "", "run_id": None})


def _queued(product: Product, name: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        file = _file(product, name)
        assert file["state"] not in ("rejected", "failed"), f"{file}\n{product.logs()}"
        return file if file["run_id"] else None

    return wait_for(f"the run of {name}", look)


def _model(product: Product, name: str) -> dict[str, Any]:
    with product.client("read") as client:
        model: dict[str, Any] = client.get(f"/api/models/{name}").raise_for_status().json()
    return model


def _started_from(folder: Path) -> dict[str, str]:
    base: dict[str, str] = json.loads((folder / FACTS_FILE).read_text())["base"]
    return base


def _hash(folder: Path) -> str:
    hashes = {name: value for name, value in hashes_of(folder).items() if name != FACTS_FILE}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
