"""Every call of the API as `contract` has it: who may make it, its fields and their types, what is refused and how.

What an engine answers to /v1 is judged on a real one, in `tests/e2e/test_api_clients.py`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.test import Client, override_settings

from controlplane.models import AuditLine, DataGeneration, Deployment, Gpu, Job, LanguageModel
from controlplane.models.jobs import Status
from controlplane.services import power_agent
from tests import factories
from tests.controlplane.contract import (
    ACTIVE,
    BASE,
    COMING,
    DONE,
    FAILED,
    GENERATED,
    KEYED,
    PENDING,
    REFUSALS,
    ROWS,
    TUNED,
    Refusal,
    Row,
    matches,
)
from tests.controlplane.data_generations import make_generation, some_rows
from tests.controlplane.hosts import AbsentHost

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "remote-inference.md"
SMALLER = {"read": None, "use": "read", "admin": "use"}
Ids = dict[str, int]


@pytest.fixture(scope="module")
def scene(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ids]:
    """Something of everything, made once; yields the ids of the jobs by the words that stand for them."""
    home = tmp_path_factory.mktemp("contract")
    with (
        override_settings(HOME=home), pytest.MonkeyPatch.context() as patch,
        django_db_blocker.unblock(), transaction.atomic(),
    ):  # fmt: skip
        patch.setattr(power_agent, "carrier", lambda _host: AbsentHost())
        factories.make_host("box", gpus=2)
        factories.make_deployment(factories.make_model(ACTIVE), is_active=True, port=9)
        base = factories.make_model(BASE)
        factories.make_model(TUNED, kind="adapter", base=base)
        factories.make_model(COMING, state="fetching")
        factories.make_dataset("seeds")
        yield {
            PENDING: factories.make_job("fetch").pk, DONE: factories.make_job("clean", Status.DONE).pk,
            FAILED: factories.make_job("fetch", Status.FAILED).pk,
            GENERATED: make_generation(some_rows()).job_id,
        }  # fmt: skip
        transaction.set_rollback(True)


def ask(client: Client, method: str, path: str, body: Any, ids: Ids) -> Any:
    """Makes a call; a body that isn't bytes yet is sent as JSON."""
    for word, number in ids.items():
        path = path.replace(word, str(number))
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return client.generic(method, path, data, content_type="application/json")


@pytest.mark.parametrize("row", KEYED, ids=str)
def test_a_key_is_needed_and_its_role_suffices(scene: Ids, row: Row) -> None:
    if row.path != "/api/health":
        nobody = ask(Client(), row.method, row.path, row.body, scene)
        assert nobody.status_code == 401, nobody.content
        assert "X-API-Key" in nobody.content.decode()
        assert nobody["WWW-Authenticate"] == "Bearer"
    smaller = SMALLER[row.role]
    if smaller is not None:
        refused = ask(factories.make_client(smaller), row.method, row.path, row.body, scene)
        assert refused.status_code == 403, refused.content
        told = refused.json()
        assert f"role {row.role}" in (told["error"]["message"] if "/v1/" in row.path else told["detail"])


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_answer_has_its_fields(scene: Ids, row: Row) -> None:
    client = factories.make_client(row.role, name="mine")
    Job.objects.update(created_by="key mine")
    LanguageModel.objects.update(created_by="key mine")
    response = ask(client, row.method, row.path, row.body, scene)
    assert response.status_code == row.status, response.content
    if row.fields is not None:
        matches(response.json(), row.fields)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: str(refusal)[:80])
def test_a_refusal_is_a_sentence_and_changes_nothing(scene: Ids, refusal: Refusal) -> None:
    client = factories.make_client(refusal.role)
    before = counts()
    response = ask(client, refusal.method, refusal.path, refusal.body, scene)
    assert response.status_code == refusal.status, response.content
    told = response.json()
    assert refusal.word in told["detail"]
    assert [fault["path"] for fault in told.get("faults", ())][:1] == [refusal.at_fault] or refusal.at_fault is None
    assert refusal.status != 503 or int(response["Retry-After"]) > 0
    assert counts() == before


def counts() -> tuple[Any, ...]:
    """What a call could have changed."""
    return (
        AuditLine.objects.count(), LanguageModel.objects.count(), DataGeneration.objects.count(),
        list(Job.objects.order_by("pk").values_list("pk", "status", "priority")),
        list(Deployment.objects.order_by("pk").values_list("pk", "status", "is_active")),
    )  # fmt: skip


def test_without_a_key_health_tells_its_status_alone(scene: Ids) -> None:
    assert Client().get("/api/health").json() == {"status": "ok"}


def test_without_a_gpu_its_figures_are_null(scene: Ids) -> None:
    Gpu.objects.all().delete()
    told = factories.make_client("read").get("/api/gpu").json()
    assert (told["name"], told["gpus"]) == (None, [])


def test_the_guide_has_every_call() -> None:
    guide = GUIDE.read_text()
    for row in KEYED:
        path = row.path.partition("?")[0].removeprefix("/api")
        for word in (ACTIVE, TUNED, PENDING, DONE, FAILED, GENERATED):
            path = path.replace(f"/{word}", "/ID")
        path = re.sub(r"^/logs/\w+$", "/logs/COMPONENT", path)
        assert re.search(rf"`{row.method} {re.escape(path)}[`?]", guide), f"{row.method} {path}"


def test_the_guide_has_every_field() -> None:
    guide = GUIDE.read_text()
    names = {name for row in ROWS for name in _names(row.fields)} | {
        name for row in ROWS if isinstance(row.body, dict) for name in row.body
    }
    assert [name for name in sorted(names) if f"`{name}`" not in guide] == []


def _names(shape: Any) -> set[str]:
    if isinstance(shape, list):
        return _names(shape[0])
    if not isinstance(shape, dict) or list(shape) == [str]:
        return set()
    return set(shape).union(*(_names(inner) for inner in shape.values()))
