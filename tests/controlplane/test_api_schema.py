"""Schemathesis over the OpenAPI schema: whatever is sent to an operation, as it allows or not, the server doesn't fail.

In this process, against a data base that is rolled back after each request. The same examples come each time.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from controlplane.api import generate, models
from controlplane.services import power_agent
from tests import factories
from tests.controlplane.hosts import AbsentHost

EXAMPLES = 2
Known = dict[str, Any]


@pytest.fixture
def known(home: object, monkeypatch: pytest.MonkeyPatch) -> Known:
    """Something of everything; returns what stands in paths for it, by the names of the parameters."""
    monkeypatch.setattr(power_agent, "carrier", lambda _host: AbsentHost())
    monkeypatch.setattr("channels.db.close_old_connections", lambda: None)  # they would close the one transaction's
    for module in (models, generate):
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    host = factories.make_host("box", gpus=1)
    deployment = factories.make_deployment(is_active=True, port=9)  # nobody answers there
    run = factories.make_run(status="done")
    key, _ = factories.make_key_row()
    return {
        "run_id": run.pk, "dataset_id": run.dataset_id, "model_id": deployment.model.name, "job_id": run.job_id,
        "deployment_id": deployment.pk, "key_id": key.pk, "name": host.name, "component": f"run-{run.pk}",
        "key": "jobs.max_failures",
    }  # fmt: skip


@pytest.fixture(autouse=True)
def open_connection() -> Iterator[None]:
    """A request leaves the connection of the test's transaction open."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume asynchronous iterators")  # without ASGI
@pytest.mark.django_db
@pytest.mark.urls("controlplane.api.urls")
def test_no_operation_of_the_schema_makes_the_server_fail(known: Known) -> None:
    import schemathesis  # large: whoever only collects the tests doesn't load it

    headers = {"X-API-Key": factories.make_key("admin")}
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", get_wsgi_application(), headers=headers)
    found: list[Any] = list(schema.get_all_operations())
    operations = [result.ok() for result in found]
    assert len(operations) > 100
    failures: list[str] = []
    for operation in operations:
        failures.extend(failures_of(operation, headers, known))
    assert failures == []


def failures_of(operation: Any, headers: dict[str, str], known: Known) -> list[str]:
    """The requests of an operation to which the server answered that it failed."""
    from schemathesis import GenerationMode

    found: list[str] = []
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy(mode), stands_for_something=st.booleans())
        def attempt(case: Any, stands_for_something: bool) -> None:
            if stands_for_something:
                case.path_parameters.update({name: known[name] for name in case.path_parameters if name in known})
            with transaction.atomic():
                response = case.call(headers=headers)
                transaction.set_rollback(True)
            may_ask_again = response.status_code == 503 and "retry-after" in response.headers
            if response.status_code >= 500 and not may_ask_again:
                found.append(f"{response.status_code}: {case.as_curl_command()}")

        try:
            attempt()
        except Unsatisfiable:  # nothing can be wrong about an operation that takes nothing
            continue
    return found[:1]
