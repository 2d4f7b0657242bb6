"""Uploads in parts over the API: resume, wrong hash, short parts, doubles, and the small form."""

import hashlib
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from controlplane.models import Dataset, Job, Upload
from controlplane.models.datasets import PART_BYTES
from controlplane.services import dataset_intake, settings, uploads
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]
JSON = "application/json"


@pytest.fixture
def client(home: Path) -> Client:
    """A client that may upload, and a home to upload to."""
    return factories.make_client("use", name="uploader")


def big_file() -> bytes:
    """Two parts and a bit, of JSONL."""
    row = factories.jsonl([{"text": "x" * 1000 + str(index)} for index in range(10)])
    return (row * (2 * PART_BYTES // len(row) + 5))[: 2 * PART_BYTES + 1234]


def begin(client: Client, data: bytes, **fields: Any) -> dict[str, Any]:
    body = {"filename": "chats.jsonl", "bytes": len(data), **fields}
    response = client.post("/api/uploads", body, content_type=JSON)
    assert response.status_code == 201, response.content
    answer: dict[str, Any] = response.json()
    return answer


def put(client: Client, upload: str, number: int, data: bytes) -> Any:
    return client.put(f"/api/uploads/{upload}/parts/{number}", data, content_type="application/octet-stream")


def part(data: bytes, number: int) -> bytes:
    return data[(number - 1) * PART_BYTES : number * PART_BYTES]


def complete(client: Client, upload: str, **fields: Any) -> Any:
    return client.post(f"/api/uploads/{upload}/complete", {"name": "chats", **fields}, content_type=JSON)


def test_parts_become_a_dataset_that_is_validated(client: Client, home: Path) -> None:
    data = big_file()
    upload = begin(client, data, sha256=hashlib.sha256(data).hexdigest())
    assert (upload["part_bytes"], upload["part_count"], upload["parts"]) == (4 << 20, 3, [])
    for number in (3, 1, 2):
        assert put(client, upload["id"], number, part(data, number)).status_code == 200
    response = complete(client, upload["id"], eval_fraction=0.1)
    assert response.status_code == 201, response.content
    answer = response.json()
    dataset = Dataset.objects.get(pk=answer["id"])
    assert answer["sha256"] == hashlib.sha256(data).hexdigest()
    assert (answer["name"], answer["version"], answer["bytes"]) == ("chats", 1, len(data))
    assert (dataset.status, dataset.eval_fraction, dataset.created_by) == ("validating", 0.1, "key uploader")
    assert (home / "datasets" / answer["sha256"] / "source.jsonl").read_bytes() == data
    job = Job.objects.get(pk=answer["job_id"])
    assert (job.kind, job.status, job.config) == ("validate", "pending", {"dataset": dataset.pk, "level": "standard"})
    assert not Upload.objects.exists()
    assert list((home / "tmp" / "uploads").iterdir()) == []


def test_after_a_break_the_server_says_what_it_has(client: Client) -> None:
    data = big_file()
    upload = begin(client, data)
    put(client, upload["id"], 2, part(data, 2))
    again = factories.make_client("admin")
    assert again.get(f"/api/uploads/{upload['id']}").json()["parts"] == [2]
    early = complete(client, upload["id"])
    assert early.status_code == 409
    assert "2 of 3 parts are missing: 1, 3" in early.json()["detail"]
    for number in (1, 3):
        put(client, upload["id"], number, part(data, number))
    assert complete(client, upload["id"]).status_code == 201


def test_a_wrong_hash_is_refused_and_nothing_is_lost(client: Client, home: Path) -> None:
    data = big_file()
    upload = begin(client, data, sha256=hashlib.sha256(data).hexdigest())
    broken = bytes([part(data, 2)[0] ^ 1]) + part(data, 2)[1:]
    for number, piece in ((1, part(data, 1)), (2, broken), (3, part(data, 3))):
        put(client, upload["id"], number, piece)
    refused = complete(client, upload["id"])
    assert refused.status_code == 422
    assert hashlib.sha256(data).hexdigest() in refused.json()["detail"]
    assert not Dataset.objects.exists()
    assert not (home / "datasets").exists()
    assert client.get(f"/api/uploads/{upload['id']}").json()["parts"] == [1, 2, 3]
    put(client, upload["id"], 2, part(data, 2))
    assert complete(client, upload["id"]).status_code == 201


@pytest.mark.parametrize(("number", "change"), [(1, -1), (1, 1), (3, -1), (3, 1)])
def test_a_part_of_the_wrong_size_is_refused(client: Client, number: int, change: int) -> None:
    data = big_file()
    upload = begin(client, data)
    piece = part(data, number)
    response = put(client, upload["id"], number, piece[:change] if change < 0 else piece + b"x")
    assert response.status_code == 422
    assert f"must have {len(piece)} bytes" in response.json()["detail"]
    assert client.get(f"/api/uploads/{upload['id']}").json()["parts"] == []


def test_a_body_that_breaks_off_leaves_no_part(client: Client, home: Path) -> None:
    class Breaks:
        """A stream whose client goes away."""

        left = 3

        def read(self, size: int, /) -> bytes:
            self.left -= 1
            if self.left == 0:
                raise OSError("gone")
            return b"x" * size

    data = big_file()
    upload = begin(client, data)
    actor = factories.make_user("admin").actor()
    with pytest.raises(OSError, match="gone"):
        uploads.write_part(actor, upload["id"], 1, Breaks())
    assert list((home / "tmp" / "uploads" / upload["id"]).iterdir()) == []


@pytest.mark.parametrize("number", [0, 4, 10**12])
def test_a_part_that_the_file_does_not_have_is_refused(client: Client, number: int) -> None:
    upload = begin(client, big_file())
    response = put(client, upload["id"], number, b"x")
    assert response.status_code == 422
    assert "parts 1 to 3" in response.json()["detail"]


def test_the_same_bytes_again_are_the_dataset_that_is_here(client: Client) -> None:
    data = factories.jsonl(factories.chat_rows())
    first = begin(client, data)
    put(client, first["id"], 1, data)
    made = complete(client, first["id"])
    second = begin(client, data, filename="other.txt")
    put(client, second["id"], 1, data)
    again = complete(client, second["id"], name="another name")
    assert (made.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == made.json()["id"]
    form = client.post("/api/datasets", {"file": SimpleUploadedFile("a.jsonl", data), "name": "third"})
    assert (form.status_code, form.json()["id"]) == (200, made.json()["id"])
    assert Dataset.objects.count() == Job.objects.count() == 1


def test_the_same_name_again_is_a_new_version(client: Client) -> None:
    versions = []
    for _ in range(3):
        file = SimpleUploadedFile("a.jsonl", factories.jsonl(factories.chat_rows()))
        versions.append(client.post("/api/datasets", {"file": file, "name": "chats"}).json()["version"])
    assert versions == [1, 2, 3]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"filename": "chats.exe"}, ".jsonl"),
        ({"filename": "noend"}, ".jsonl"),
        ({"filename": "a\nb.jsonl"}, "printable"),
        ({"bytes": 0}, "empty"),
        ({"bytes": -5}, "empty"),
        ({"sha256": "xyz"}, "64 hexadecimal"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_at_the_beginning(client: Client, fields: dict[str, Any], word: str) -> None:
    response = client.post("/api/uploads", {"filename": "a.jsonl", "bytes": 10, **fields}, content_type=JSON)
    assert response.status_code == 422
    assert word in response.json()["detail"]
    assert not Upload.objects.exists()


def test_a_name_with_a_path_is_no_path(client: Client, home: Path) -> None:
    data = factories.jsonl(factories.chat_rows())
    upload = begin(client, data, filename="../../etc/passwd/../evil.jsonl")
    assert upload["filename"] == "evil.jsonl"
    put(client, upload["id"], 1, data)
    complete(client, upload["id"])
    files = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert files == {f"datasets/{hashlib.sha256(data).hexdigest()}/source.jsonl"}


def test_a_file_beyond_the_setting_is_413(client: Client) -> None:
    settings.put(factories.make_user("admin").actor(), "uploads.max_bytes", 1 << 20)
    response = client.post("/api/uploads", {"filename": "a.jsonl", "bytes": (1 << 20) + 1}, content_type=JSON)
    assert response.status_code == 413
    assert "uploads.max_bytes" in response.json()["detail"]


def test_a_disk_too_full_is_told_before_anything_is_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=(1 << 30) + 29))
    response = client.post("/api/uploads", {"filename": "a.jsonl", "bytes": 10}, content_type=JSON)
    assert response.status_code == 503
    assert "GB left" in response.json()["detail"]
    assert response["Retry-After"] == "60"


@pytest.mark.parametrize("name", ["", "   ", "x" * 201, "tab\there"])
def test_a_dataset_needs_a_proper_name(client: Client, name: str) -> None:
    data = factories.jsonl(factories.chat_rows())
    upload = begin(client, data)
    put(client, upload["id"], 1, data)
    assert complete(client, upload["id"], name=name).status_code == 422
    assert client.get(f"/api/uploads/{upload['id']}").json()["parts"] == [1]


@pytest.mark.parametrize("fraction", [-0.01, 0.51, "half"])
def test_an_eval_fraction_lies_between_0_and_a_half(client: Client, fraction: object) -> None:
    data = factories.jsonl(factories.chat_rows())
    upload = begin(client, data)
    put(client, upload["id"], 1, data)
    response = complete(client, upload["id"], eval_fraction=fraction)
    assert response.status_code == 422
    assert response.json()["faults"][0]["path"] == "eval_fraction"
    form = {"file": SimpleUploadedFile("a.jsonl", data), "name": "n", "eval_fraction": str(fraction)}
    assert client.post("/api/datasets", form).status_code == 422


def test_an_upload_is_its_owners(client: Client) -> None:
    upload = begin(client, big_file())
    other = factories.make_client("use")
    for response in (
        other.get(f"/api/uploads/{upload['id']}"),
        put(other, upload["id"], 1, b"x"),
        complete(other, upload["id"]),
        other.delete(f"/api/uploads/{upload['id']}"),
    ):
        assert response.status_code == 403
    assert client.delete(f"/api/uploads/{upload['id']}").status_code == 204
    assert client.get(f"/api/uploads/{upload['id']}").status_code == 404


@pytest.mark.parametrize("address", ["/api/uploads/00000000-0000-0000-0000-000000000000", "/api/uploads/not-an-id"])
def test_an_unknown_upload_is_404(client: Client, address: str) -> None:
    assert client.get(address).status_code == 404


def test_the_form_takes_small_files(client: Client, home: Path) -> None:
    data = factories.jsonl(factories.chat_rows())
    response = client.post("/api/datasets", {"file": SimpleUploadedFile("a.ndjson", data), "name": " chats "})
    assert response.status_code == 201, response.content
    answer = response.json()
    assert (answer["name"], answer["version"], answer["status"], answer["bytes"]) == (
        "chats",
        1,
        "validating",
        len(data),
    )
    assert answer["eval_fraction"] == 0.05
    assert (home / "datasets" / answer["sha256"] / "source.ndjson").read_bytes() == data


@pytest.mark.parametrize("form", [{"name": "n"}, {"file": SimpleUploadedFile("a.jsonl", b""), "name": "n"}])
def test_a_form_without_a_file_or_with_an_empty_one_is_refused(client: Client, form: dict[str, Any]) -> None:
    assert client.post("/api/datasets", form).status_code == 422


def test_a_large_form_is_told_the_other_way_without_being_read(client: Client) -> None:
    response = client.post(
        "/api/datasets", b"", content_type="multipart/form-data; boundary=x", headers={"Content-Length": str(40 << 20)}
    )
    assert response.status_code == 413
    assert "POST /api/uploads" in response.json()["detail"]


def test_uploads_that_nobody_completes_are_swept_after_a_day(client: Client, home: Path) -> None:
    old, new = begin(client, big_file()), begin(client, big_file())
    Upload.objects.filter(pk=old["id"]).update(created_at=timezone.now() - timedelta(hours=25))
    orphan = home / "tmp" / "uploads" / "orphan"
    orphan.mkdir()
    os.utime(orphan, (0, 0))
    assert uploads.sweep() == 2
    assert {path.name for path in (home / "tmp" / "uploads").iterdir()} == {new["id"]}
    assert [str(row.pk) for row in Upload.objects.all()] == [new["id"]]


def test_completing_twice_makes_one_dataset(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request comes while the first has put the parts together and not yet made the dataset."""
    data = factories.jsonl(factories.chat_rows())
    upload = begin(client, data)
    put(client, upload["id"], 1, data)
    answers: list[Any] = []
    original: Callable[..., Any] = dataset_intake.adopt

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(dataset_intake, "adopt", original)
        answers.append(complete(client, upload["id"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(dataset_intake, "adopt", meanwhile)
    answers.append(complete(client, upload["id"]))
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert Dataset.objects.count() == 1
