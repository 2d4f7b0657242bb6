"""Health and facts over the API: every field of api.md, with GPUs and without, and nothing that must stay secret."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.test import Client
from pytest_django import Settings

from controlplane.fleet.local import LocalCarrier
from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError
from controlplane.models import Attempt, Gpu
from controlplane.models.jobs import Status
from controlplane.services import health, leases
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]


@pytest.fixture(autouse=True)
def dispatching() -> None:
    """Somebody dispatches: on SQLite the web process does."""
    if connection.vendor == "postgresql":
        leases.take(leases.DISPATCHER, "somebody")


@pytest.fixture
def reader(home: Path) -> Client:
    """A client that may look."""
    return factories.make_client("read")


def test_health_without_a_key_says_ok_and_no_more() -> None:
    factories.make_host("secret-name", online=False)
    assert Client().get("/api/health").json() == {"status": "ok"}
    assert Client(headers={"X-API-Key": "wrong"}).get("/api/health").status_code == 401


def test_health_with_a_key(reader: Client) -> None:
    factories.make_host("one", gpus=2)
    factories.make_deployment(factories.make_model("m"), is_active=True)
    assert reader.get("/api/health").json() == {
        "status": "ok",
        "gpu": {
            "available": True, "device_count": 2, "device_name": "NVIDIA GeForce RTX 3090",
            "memory_allocated_gb": 12.0, "memory_reserved_gb": None,
        },
        "active_model": "m", "worker_busy": False, "hosts": {"online": 1, "total": 1},
        "dispatching": True,
    }  # fmt: skip


def test_health_is_degraded_while_a_host_is_away(reader: Client) -> None:
    factories.make_host("here")
    assert reader.get("/api/health").json()["status"] == "ok"
    factories.make_host("away", online=False, gpus=1)
    answer = reader.get("/api/health").json()
    assert (answer["status"], answer["hosts"]) == ("degraded", {"online": 1, "total": 2})
    assert answer["gpu"]["available"] is False


@pytest.mark.parametrize(("kind", "busy"), [("train", True), ("serve", False)])
def test_the_worker_is_busy_while_a_job_runs_that_is_no_engine(reader: Client, kind: str, busy: bool) -> None:
    factories.make_job(kind, Status.RUNNING)
    assert reader.get("/api/health").json()["worker_busy"] is busy


def test_info_names_paths_and_limits(reader: Client) -> None:
    answer = reader.get("/api/info").json()
    assert answer["name"] == "Pilothouse"
    assert answer["base_paths"]["openai"] == ["/v1", "/api/v1"]
    assert answer["limits"]["upload_part_bytes"] == 4 << 20
    assert answer["limits"]["form_upload_bytes"] == 32 << 20
    assert (answer["limits"]["queue_length"], answer["limits"]["max_tokens"]) == (1000, None)


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({"architectures": []}, None),
    ],
)
def test_info_tells_the_context_of_the_active_model(reader: Client, config: dict[str, Any], tokens: int | None) -> None:
    base = factories.make_model()
    (base.folder / "config.json").write_text(json.dumps(config))
    factories.make_deployment(factories.make_model(kind="adapter", base=base), is_active=True)
    assert reader.get("/api/info").json()["limits"]["max_tokens"] == tokens


def test_versions_are_read_without_importing_torch(reader: Client) -> None:
    answer = reader.get("/api/version").json()
    assert answer["torch_version"].startswith("2.")
    assert answer["transformers_version"].startswith("5.")
    assert answer["python_version"].startswith("3.")
    assert (answer["api_version"], answer["cuda_available"], answer["cuda_version"]) == ("1", False, None)
    factories.make_host(gpus=1)
    again = reader.get("/api/version").json()
    assert (again["cuda_available"], again["cuda_version"]) == (True, "12.4")


def test_without_a_gpu_the_answer_is_empty(reader: Client) -> None:
    factories.make_host()
    answer = reader.get("/api/gpu").json()
    assert (answer["name"], answer["gpus"], answer["power_limit_w"]) == (None, [], None)


def test_the_first_gpu_and_each(reader: Client) -> None:
    host = factories.make_host("one", gpus=1)
    factories.make_gpu(host, 1, "NVIDIA A100", fan_speed_percent=None, temperature_celsius=None)
    answer = reader.get("/api/gpu").json()
    first, second = answer.pop("gpus")
    assert answer == first
    assert {**first, "uuid": ""} == {
        "host": "one", "index": 0, "uuid": "", "name": "NVIDIA GeForce RTX 3090", "driver_version": "550.1",
        "memory_total_mb": 24576, "memory_used_mb": 6144, "utilization_gpu": 40, "utilization_mem": 20,
        "temperature_gpu": 61, "power_draw_w": 180.5, "power_limit_w": 350.0, "fan_speed_pct": 35, "fault": None,
    }  # fmt: skip
    assert (second["name"], second["fan_speed_pct"], second["temperature_gpu"]) == ("NVIDIA A100", None, None)
    assert reader.get("/api/gpu?host=one&index=1").json()["name"] == "NVIDIA A100"
    assert reader.get("/api/gpu?index=7").status_code == 404
    assert reader.get("/api/gpu?host=none").status_code == 404


def test_a_gpu_that_its_host_no_longer_names_is_gone(reader: Client) -> None:
    host = factories.make_host(gpus=1)
    host.reading = {**host.reading, "gpus": []}
    host.save()
    assert Gpu.objects.count() == 1
    assert reader.get("/api/gpu").json()["gpus"] == []


def test_the_system_of_a_host(reader: Client) -> None:
    factories.make_host("one")
    assert reader.get("/api/system").json() == {
        "host": "one", "online": True, "cpu_load": 0.4, "cpu_percent": 12.5, "cpu_count": 2, "ram_used_gb": 4.0,
        "ram_total_gb": 16.0, "ram_percent": 25.0,
        "disk": [{"mount": "/", "used_gb": 50.0, "total_gb": 100.0, "percent": 50.0}],
    }  # fmt: skip
    assert reader.get("/api/system?host=two").status_code == 404


def test_before_any_host_has_reported_there_is_no_system(reader: Client) -> None:
    assert reader.get("/api/system").status_code == 404


# --- Configuration ----------------------------------------------------------------------------------------------------


def test_the_configuration_masks_what_opens_doors(reader: Client, settings: Settings) -> None:
    settings.SECRET_KEY = "top-secret-key"
    settings.DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": "pilot", "HOST": "db", "USER": "u", "PASSWORD": "pw-1234"
        }
    }  # fmt: skip
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "a.b.Layer", "CONFIG": {"hosts": ["redis://user:pw-5678@redis:6379/0"]}}
    }
    config = health.effective_config()
    text = str(config)
    assert "top-secret-key" not in text
    assert "pw-" not in text
    assert config["database"]["password"] == config["secret_key"] == "********"
    assert config["channel_layer"]["redis"] == ["redis://user:********@redis:6379/0"]
    assert config["settings"]["uploads.max_bytes"] == 64 << 30


def test_the_configuration_over_the_api(reader: Client, home: Path) -> None:
    answer = reader.get("/api/config").json()
    assert answer["home"] == str(home)
    assert django_settings.SECRET_KEY not in str(answer)


# --- Logs -------------------------------------------------------------------------------------------------------------


class FakeAgent:
    """Stands for an agent's logs."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.asked: list[Any] = []

    def read_log(self, *asked: Any, **named: Any) -> dict[str, Any]:
        self.asked.append((*asked, named))
        if self.fails:
            raise self.fails
        return {"lines": ["one", "two"], "start": 0, "end": 8, "size": 8}


def write_web_log(home: Path) -> None:
    lines = [
        "2026-01-01 00:00:00,000 INFO controlplane.api.errors: a request",
        "2026-01-01 00:00:01,000 INFO controlplane.dispatch: job 1 launched",
        "2026-01-01 00:00:02,000 WARNING controlplane.services.ingest: a torn line",
        "2026-01-01 00:00:03,000 INFO django.request: another",
    ]
    (home / "logs" / "web.log").write_text("\n".join(lines) + "\n")


def test_the_log_of_the_web_server_and_of_the_dispatcher(reader: Client, home: Path) -> None:
    write_web_log(home)
    answer = reader.get("/api/logs/api_server?lines=2").json()
    assert answer["component"] == "api_server"
    assert [line.rpartition(": ")[2] for line in answer["lines"]] == ["a torn line", "another"]
    jobs = reader.get("/api/logs/jobs").json()["lines"]
    assert [line.rpartition(": ")[2] for line in jobs] == ["job 1 launched", "a torn line"]


def test_a_large_log_is_not_read_whole(reader: Client, home: Path) -> None:
    with (home / "logs" / "web.log").open("w") as stream:
        for index in range(100_000):
            stream.write(f"line {index} {'x' * 100}\n")
    lines = reader.get("/api/logs/api_server?lines=5000").json()["lines"]
    assert len(lines) == 5000
    assert lines[-1].startswith("line 99999 ")


@pytest.mark.parametrize("component", ["run", "deployment"])
def test_the_log_of_a_run_and_of_a_deployment(reader: Client, component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row: Any = factories.make_run() if component == "run" else factories.make_deployment()
    assert reader.get(f"/api/logs/{component}-{row.pk}").json()["lines"] == []
    host = factories.make_host()
    for number in (1, 2):
        Attempt.objects.create(job=row.job, number=number, host=host)
    agent = FakeAgent()
    monkeypatch.setattr("controlplane.services.logs.carrier", lambda _host: agent)
    assert reader.get(f"/api/logs/{component}-{row.pk}?lines=7").json()["lines"] == ["one", "two"]
    assert agent.asked == [(row.job_id, 2, {"lines": 7})]


def test_the_log_of_the_active_engine(reader: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reader.get("/api/logs/gpu_worker").json()["lines"] == []
    deployment = factories.make_deployment(is_active=True)
    Attempt.objects.create(job=deployment.job, number=1, host=factories.make_host())
    monkeypatch.setattr("controlplane.services.logs.carrier", lambda _host: FakeAgent())
    assert reader.get("/api/logs/gpu_worker").json()["lines"] == ["one", "two"]


def test_a_log_that_is_not_there_yet_is_empty_and_a_host_that_is_away_is_503(
    reader: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = factories.make_run()
    Attempt.objects.create(job=run.job, number=1, host=factories.make_host("gpu-box"))
    path = f"/api/logs/run-{run.pk}"
    refuses = FakeAgent(AgentRefusedError("no_log", "nothing there"))
    monkeypatch.setattr("controlplane.services.logs.carrier", lambda _host: refuses)
    assert reader.get(path).json()["lines"] == []
    away = FakeAgent(HostUnreachableError("refused"))
    monkeypatch.setattr("controlplane.services.logs.carrier", lambda _host: away)
    response = reader.get(path)
    assert response.status_code == 503
    assert "gpu-box" in response.json()["detail"]
    assert int(response["Retry-After"]) > 0


def test_the_agents_log_of_a_machine_without_one_is_503(reader: Client, home: Path) -> None:
    with pytest.raises(HostUnreachableError):
        LocalCarrier(home).describe()
    assert reader.get("/api/logs/agent").status_code == 503


@pytest.mark.parametrize(
    "component",
    ["nothing", "run-x", "run-", "run-999", "deployment-999", "run--1", "..", "%2e%2e%2fsecret_key", "run-²"],
)
def test_an_unknown_component_is_404_and_never_a_path(reader: Client, component: str) -> None:
    assert reader.get(f"/api/logs/{component}").status_code == 404


@pytest.mark.parametrize("lines", [0, 5001, -1])
def test_lines_lie_between_1_and_5000(reader: Client, lines: int) -> None:
    assert reader.get(f"/api/logs/api_server?lines={lines}").status_code == 422


def test_logging_writes_lines_that_the_dispatchers_log_finds(reader: Client, home: Path) -> None:
    """The format of the settings and the filter belong together."""
    logging_settings: Any = django_settings.LOGGING
    form = logging_settings["formatters"]["line"]
    record = logging.LogRecord("controlplane.dispatch", logging.INFO, "", 0, "hello there", None, None)
    line = logging.Formatter(form["format"], style=form["style"]).format(record)
    (home / "logs" / "web.log").write_text(line + "\n")
    assert reader.get("/api/logs/jobs").json()["lines"] == [line]
