"""The files of one home as another sees them: blocks, breaks, damage, a full disk, names that lead out."""

import base64
import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from monitoring.file_items import Item, item_at
from monitoring.file_store import BLOCK_BYTES, FILES, INCOMING, FileStore
from monitoring.home_id import home_id
from monitoring.wire import AgentFaultError
from tests.small_disk import small_disk

MODEL = {"kind": "model", "id": "0b0c0d0e-0000-4000-8000-000000000001"}
WEIGHTS = bytes(range(256)) * ((2 * BLOCK_BYTES + 1000) // 256)


def make_model(home: Path, weights: bytes = WEIGHTS) -> Path:
    folder = home / "models" / MODEL["id"]
    (folder / "gguf").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "empty").touch()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "gguf" / "Q8_0.gguf").write_bytes(b"an export is no part of it")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "source", min_free_bytes=0)


@pytest.fixture
def target(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "target", min_free_bytes=0)


def refusal(call: Callable[..., Any], *args: Any, **named: Any) -> dict[str, Any]:
    with pytest.raises(AgentFaultError) as caught:
        call(*args, **named)
    return dict(caught.value.fault)


def blocks(source: FileStore, files: list[Any], held: list[int]) -> list[tuple[int, int, dict[str, Any]]]:
    """What still has to be sent, in order: number of the file, offset, block."""
    return [
        (number, offset, dict(source.read_block(MODEL, entry["name"], offset)))
        for number, entry in enumerate(files)
        for offset in range(held[number], entry["bytes"], BLOCK_BYTES)
    ]


def send(target: FileStore, number: int, offset: int, block: dict[str, Any]) -> int:
    return target.write_block(MODEL, number, offset, block["data"], block["sha256"])


def copy(source: FileStore, target: FileStore) -> list[Any]:
    files = source.list_files(MODEL, 10)["files"]
    begun = target.begin_files(MODEL, files, 10)
    for block in blocks(source, files, begun["held"]):
        send(target, *block)
    assert target.publish_files(MODEL, 10)["state"] == "published"
    return files


def test_an_item_arrives_whole_and_is_not_seen_before(source: FileStore, target: FileStore) -> None:
    make_model(source.home)
    files = source.list_files(MODEL, 10)["files"]
    assert [entry["name"] for entry in files] == ["config.json", "empty", "model.safetensors"]
    begun = target.begin_files(MODEL, files, 10)
    for block in blocks(source, files, begun["held"]):
        assert target.list_files(MODEL, 10)["state"] == "absent"
        send(target, *block)
    assert target.publish_files(MODEL, 10)["state"] == "published"
    assert target.list_files(MODEL, 10)["files"] == files
    assert (target.home / "models" / MODEL["id"] / "model.safetensors").read_bytes() == WEIGHTS
    assert not (target.home / INCOMING / f"model-{MODEL['id']}").exists()
    assert target.begin_files(MODEL, files, 10)["state"] == "present"


def test_a_transfer_goes_on_behind_the_blocks_that_a_killed_home_holds(source: FileStore, target: FileStore) -> None:
    make_model(source.home)
    files = source.list_files(MODEL, 10)["files"]
    to_send = blocks(source, files, target.begin_files(MODEL, files, 10)["held"])
    for block in to_send[:-1]:
        send(target, *block)
    staged = target.home / INCOMING / f"model-{MODEL['id']}" / FILES / "model.safetensors"
    with staged.open("ab") as stream:
        stream.write(b"torn by a kill in mid-block")
    again = FileStore(target.home, min_free_bytes=0)
    assert again.begin_files(MODEL, files, 10)["held"] == [2, 0, 2 * BLOCK_BYTES]
    assert send(again, *to_send[-2]) == 2 * BLOCK_BYTES, "a block that comes twice changes nothing"
    assert refusal(send, again, 2, 2 * BLOCK_BYTES + 1, to_send[1][2])["code"] == "wrong_offset"
    send(again, *to_send[-1])
    assert again.publish_files(MODEL, 10)["state"] == "published"


def test_a_damaged_block_is_refused_and_one_that_was_damaged_on_the_disk_is_found(
    source: FileStore, target: FileStore
) -> None:
    make_model(source.home)
    files = source.list_files(MODEL, 10)["files"]
    to_send = blocks(source, files, target.begin_files(MODEL, files, 10)["held"])
    number, offset, block = to_send[1]
    flipped = bytearray(base64.b64decode(block["data"]))
    flipped[5] ^= 1
    bad = {**block, "data": base64.b64encode(flipped).decode()}
    assert refusal(send, target, number, offset, bad)["code"] == "damaged_block"
    for one in to_send:
        send(target, *one)
    staged = target.home / INCOMING / f"model-{MODEL['id']}" / FILES / "model.safetensors"
    with staged.open("r+b") as stream:
        stream.write(b"rot")
    damaged = target.publish_files(MODEL, 10)
    assert (damaged["state"], damaged["held"]) == ("damaged", [2, 0, 0])
    assert target.list_files(MODEL, 10)["state"] == "absent"
    copy(source, target)
    assert (target.home / "models" / MODEL["id"] / "model.safetensors").read_bytes() == WEIGHTS


def test_another_version_takes_the_place_of_the_old_one_and_marks_and_exports_stay(
    source: FileStore, target: FileStore
) -> None:
    make_model(target.home, b"old weights")
    (target.home / "models" / MODEL["id"] / "stale.bin").touch()
    make_model(source.home)
    copy(source, target)
    folder = target.home / "models" / MODEL["id"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "empty", "gguf", "model.safetensors"]
    assert (folder / "gguf" / "Q8_0.gguf").exists()


class KilledError(BaseException):
    """A process is gone at this point: nothing that follows in it happens."""


@pytest.mark.parametrize("steps", range(8))
def test_a_kill_while_another_version_takes_its_place_loses_nothing(
    source: FileStore, target: FileStore, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model(target.home, b"old weights")
    make_model(source.home)
    left = [steps]

    def until_killed(done: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **named: Any) -> Any:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            return done(*args, **named)

        return step

    with monkeypatch.context() as deadly, suppress(KilledError):
        for owner, name in ((Path, "rename"), (shutil, "rmtree"), (os, "rename"), (os, "rmdir"), (os, "unlink")):
            deadly.setattr(owner, name, until_killed(getattr(owner, name)))
        copy(source, target)
    again = FileStore(target.home, min_free_bytes=0)
    assert (folder / "gguf" / "Q8_0.gguf").exists()
    assert (folder / "model.safetensors").read_bytes() in (b"old weights", WEIGHTS)
    files = source.list_files(MODEL, 10)["files"]
    if again.begin_files(MODEL, files, 10)["state"] != "present":
        copy(source, again)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "empty", "gguf", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [path.name for path in folder.parent.iterdir()] == [MODEL["id"]]


def test_what_is_in_use_is_not_replaced(source: FileStore, tmp_path: Path) -> None:
    reason = ["job 3 works with it"]
    target = FileStore(tmp_path / "target", in_use=lambda item: reason[0], min_free_bytes=0)
    folder = make_model(target.home, b"old weights")
    make_model(source.home)
    files = source.list_files(MODEL, 10)["files"]
    for block in blocks(source, files, target.begin_files(MODEL, files, 10)["held"]):
        send(target, *block)
    assert refusal(target.publish_files, MODEL, 10)["code"] == "in_use"
    assert (folder / "model.safetensors").read_bytes() == b"old weights"
    reason[0] = ""
    assert target.publish_files(MODEL, 10)["state"] == "published"


def test_a_disk_that_fills_is_a_sentence_and_nothing_half_written_stays(source: FileStore, tmp_path: Path) -> None:
    make_model(source.home)
    files = source.list_files(MODEL, 10)["files"]
    with small_disk(tmp_path / "smaller", 6 << 20):
        target = FileStore(tmp_path / "smaller" / "home", min_free_bytes=0)
        target.home.mkdir()
        told = refusal(target.begin_files, MODEL, files, 10)
        assert (told["code"], "GB more under" in told["message"]) == ("disk_full", True)
    place = tmp_path / "small"
    with small_disk(place, 12 << 20):
        target = FileStore(place / "home", min_free_bytes=0)
        target.home.mkdir()
        to_send = blocks(source, files, target.begin_files(MODEL, files, 10)["held"])
        send(target, *to_send[0])
        send(target, *to_send[1])
        (place / "another's").write_bytes(bytes(5 << 20))
        assert refusal(send, target, *to_send[2])["code"] == "disk_full"
        (place / "another's").unlink()
        assert target.begin_files(MODEL, files, 10)["held"] == [2, 0, BLOCK_BYTES]
        for one in to_send[2:]:
            send(target, *one)
        assert target.publish_files(MODEL, 10)["state"] == "published"


@pytest.mark.parametrize(
    "name", ["../config.json", "/etc/passwd", "a/../../b", ".hidden", "gguf/x", "a\\b", "a\nb", ""]
)
def test_a_name_that_leads_out_is_refused(target: FileStore, name: str) -> None:
    entry = {"name": name, "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    assert refusal(target.begin_files, MODEL, [entry])["code"] == "bad_call"
    assert refusal(target.read_block, MODEL, name, 0)["code"] == "bad_call"


@pytest.mark.parametrize(
    ("kind", "value"),
    [("model", "../.."), ("dataset", "abc"), ("checkpoint", "1/../2"), ("results", "0"), ("secret", "1"), ("model", 7)],
)
def test_an_id_that_can_not_be_is_refused(target: FileStore, kind: str, value: Any) -> None:
    assert refusal(target.list_files, {"kind": kind, "id": value})["code"] == "bad_call"


def test_what_is_in_use_stays_and_what_is_removed_is_gone(tmp_path: Path) -> None:
    reason = ["job 3 works with it"]
    store = FileStore(tmp_path, in_use=lambda item: reason[0])
    folder = make_model(tmp_path)
    assert refusal(store.remove_files, MODEL)["code"] == "in_use"
    reason[0] = ""
    assert store.remove_files(MODEL) == len(WEIGHTS) + 2
    assert [path.name for path in folder.iterdir()] == ["gguf"], "exports are an item of their own"
    store.remove_files({"kind": "exports", "id": MODEL["id"]})
    assert not folder.exists()


def test_results_come_file_by_file_into_a_folder_that_others_share(source: FileStore, target: FileStore) -> None:
    item = {"kind": "results", "id": "7"}
    attempt = source.home / "jobs" / "7" / "attempts" / "2"
    attempt.mkdir(parents=True)
    for name in ("examples.jsonl", "events.jsonl", "secret", "log.txt"):
        (attempt / name).write_text(name)
    mine = target.home / "jobs" / "7" / "attempts" / "1"
    mine.mkdir(parents=True)
    (mine / "log.txt").write_text("stays")
    files = source.list_files(item, 10)["files"]
    assert [entry["name"] for entry in files] == ["attempts/2/examples.jsonl"]
    target.begin_files(item, files, 10)
    block = source.read_block(item, files[0]["name"], 0)
    target.write_block(item, 0, 0, block["data"], block["sha256"])
    assert target.publish_files(item, 10)["state"] == "published"
    assert (target.home / "jobs/7/attempts/2/examples.jsonl").read_text() == "examples.jsonl"
    assert (mine / "log.txt").read_text() == "stays"


def test_hashes_are_computed_once_and_again_for_a_file_that_has_changed(source: FileStore) -> None:
    folder = make_model(source.home)
    first = source.list_files(MODEL, 10)["files"]
    noted = source.home / "tmp" / "file-hashes" / f"model-{MODEL['id']}.json"
    noted.write_text(noted.read_text().replace(first[0]["sha256"], "f" * 64))
    assert source.list_files(MODEL, 10)["files"][0]["sha256"] == "f" * 64, "the note is believed: nothing is read"
    (folder / "config.json").write_text("[]")
    assert source.list_files(MODEL, 10)["files"][0]["sha256"] == hashlib.sha256(b"[]").hexdigest()


def test_places_and_items_are_the_same_thing_said_twice() -> None:
    for kind, value in (("dataset", "a" * 64), ("model", MODEL["id"]), ("checkpoint", "3/40")):
        item = Item(kind, value)
        assert item_at(item.place) == item
    for place in ("models", "models/x", "runs/3/checkpoints/step-", "runs/3/other/step-4", "../models/x", "jobs/3"):
        assert item_at(place) is None


def test_a_home_keeps_its_id(tmp_path: Path) -> None:
    assert home_id(tmp_path / "a") == home_id(tmp_path / "a") != home_id(tmp_path / "b")
