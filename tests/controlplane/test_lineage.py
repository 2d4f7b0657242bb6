"""Where datasets come from: said at the upload, kept, told, and compared by generator."""

import json
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from controlplane.errors import InvalidInputError
from controlplane.kinds.validate import ValidateKind
from controlplane.models import Attempt, Dataset
from controlplane.models.access import SYSTEM
from controlplane.services import dataset_checks, datasets, lineage
from controlplane.services.lineage import Lineage
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
with_api = pytest.mark.urls("controlplane.api.urls")


def send(**fields: str) -> Any:
    """Sends a small file as a form."""
    file = SimpleUploadedFile("chats.jsonl", factories.jsonl(factories.chat_rows()))
    return factories.make_client("use").post("/api/datasets", {"file": file, "name": "chats", **fields})


@with_api
def test_a_form_names_generator_and_parents() -> None:
    first, second = factories.make_dataset("first"), factories.make_dataset("second")
    answer = send(generator=" writer ", generator_version="1.2", parents=f"{second.pk}, {first.pk}")
    assert answer.status_code == 201
    told = factories.make_client("read").get(f"/api/datasets/{answer.json()['id']}").json()["lineage"]
    parents = [{"id": item.pk, "name": item.name, "version": 1, "sha256": item.sha256} for item in (first, second)]
    assert told == {
        "generator": "writer", "generator_version": "1.2", "parents": parents, "rows_accepted": None,
        "rows_rejected": None,
    }  # fmt: skip


@with_api
def test_an_upload_in_parts_names_them_too() -> None:
    parent, data = factories.make_dataset("first"), factories.jsonl(factories.chat_rows())
    client = factories.make_client("use")

    def post(path: str, body: dict[str, Any]) -> Any:
        return client.post(path, body, content_type="application/json")

    upload = post("/api/uploads", {"filename": "a.jsonl", "bytes": len(data)}).json()
    client.put(f"/api/uploads/{upload['id']}/parts/1", data, content_type="application/octet-stream")
    path = f"/api/uploads/{upload['id']}/complete"
    unknown = post(path, {"name": "a", "parents": [999999]})
    assert (unknown.status_code, "There is no dataset 999999 to be a parent" in unknown.json()["detail"]) == (422, True)
    made = post(path, {"name": "a", "generator": "writer", "parents": [parent.pk]})
    assert made.status_code == 201
    dataset = Dataset.objects.get(pk=made.json()["id"])
    assert (dataset.generator, [item["name"] for item in dataset.parents]) == ("writer", ["first"])
    assert lineage.children(parent) == [dataset]


@with_api
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"generator": "x" * 101}, "generator has at most 100"),
        ({"generator": "a\x00b"}, "generator has at most 100"),
        ({"generator_version": "1"}, "needs a generator"),
        ({"parents": "first"}, "must be ids"),
        ({"parents": "999999"}, "There is no dataset 999999"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_made(fields: dict[str, str], words: str) -> None:
    answer = send(**fields)
    assert (answer.status_code, words in answer.json()["detail"]) == (422, True)
    assert not Dataset.objects.exists()


def test_a_dataset_has_a_bounded_number_of_parents() -> None:
    with pytest.raises(InvalidInputError, match="at most 50 parents"):
        Lineage(parents=tuple(range(51))).check()


def test_the_record_outlives_the_parent() -> None:
    parent = factories.make_dataset("first")
    child = factories.make_dataset("child", parents=Lineage(parents=(parent.pk,)).parent_facts())
    sha256 = parent.sha256
    datasets.delete(SYSTEM, parent.pk)
    child.refresh_from_db()
    assert lineage.facts(child)["parents"] == [{"id": parent.pk, "name": "first", "version": 1, "sha256": sha256}]


def test_the_job_is_told_what_was_said() -> None:
    dataset = factories.make_dataset("chats", generator="writer", generator_version="2")
    job = dataset_checks.validate(SYSTEM, dataset)
    spec = ValidateKind().spec(job, Attempt(job=job, number=1, host=factories.make_host()))
    said = spec.config["lineage"]
    assert (said["generator"], said["generator_version"], said["name"]) == ("writer", "2", "chats")
    json.dumps(spec.config)


def finish(generator: str, version: str, accepted: int, faulty: int, status: str = "ready") -> None:
    """A dataset of that generator whose validation has ended."""
    dataset = factories.make_dataset(generator=generator, generator_version=version, status="validating")
    report = {"fault_codes": {"bad_json": faulty} if faulty else {}}
    values = {"status": status, "examples": accepted, "reason": "", "report": report, "faulty": faulty}
    dataset_checks.finished(dataset.pk, values)


@pytest.fixture
def three_generators() -> None:
    finish("careful", "1", 100, 0)
    finish("sloppy", "1", 60, 40, "rejected")
    finish("sloppy", "1", 100, 0)
    finish("sloppy", "2", 95, 5)
    factories.make_dataset("unsaid", status="validating")


@with_api
@pytest.mark.usefixtures("three_generators")
def test_the_generator_whose_data_fails_most_comes_first() -> None:
    found = factories.make_client("read").get("/api/datasets/generators").json()["generators"]
    assert [(item["generator"], item["generator_version"]) for item in found] == [
        ("sloppy", "1"), ("sloppy", "2"), ("careful", "1"), ("", ""),
    ]  # fmt: skip
    assert found[0] == {
        "generator": "sloppy", "generator_version": "1", "datasets": 2, "rejected_datasets": 1,
        "rows_accepted": 160, "rows_rejected": 40, "failed_fraction": 0.2, "fault_codes": {"bad_json": 40},
    }  # fmt: skip
    assert found[3]["failed_fraction"] is None
