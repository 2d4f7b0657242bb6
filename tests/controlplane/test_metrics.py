"""GET /metrics: it parses, tells every figure by its name, leaves out what isn't known, and waits for no host."""

import json
import math
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controlplane.fleet import registry
from controlplane.fleet.protocol import GpuReading
from controlplane.models import EnergyAccount
from controlplane.models.jobs import Status
from controlplane.services import alerts
from controlplane.services.exposition import hosts as exposed_hosts
from controlplane.services.exposition import text
from controlplane.services.exposition.traffic import Traffic, surface
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]
CHECKOUT = Path(__file__).resolve().parent.parent.parent
DEPLOY = CHECKOUT / "deploy"
DOCS = CHECKOUT / "docs" / "operations.md"
DECIMAL_UNITS = ("_percent", "_mhz", "_ms", "_mb", "_gb", "_milliseconds")


class Page:
    """A scraped page: its metric families by name, and one sample's value by name and labels."""

    def __init__(self, content: bytes) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(content.decode())}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, metric: str, /, **labels: str) -> float | None:
        """The value of the one sample that has these labels; None where there is none."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == f"pilothouse_{metric}" and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1, found
        return found[0] if found else None

    def count(self, name: str) -> int:
        """How many samples a metric has."""
        return sum(sample.name == f"pilothouse_{name}" for sample in self.samples)


def scrape(client: Client | None = None, **headers: str) -> Page:
    """What a scraper with the role `read` gets."""
    response = (client or Client()).get("/metrics", headers={"Authorization": f"Bearer {bearer()}", **headers})
    assert response.status_code == 200, response.content
    return Page(response.content)


def bearer() -> str:
    """A key that may look."""
    return factories.make_key("read")


# --- Who may read it --------------------------------------------------------------------------------------------------


def test_a_key_is_needed() -> None:
    assert Client().get("/metrics").status_code == 401
    assert Client(headers={"Authorization": "Bearer wrong"}).get("/metrics").status_code == 401
    response = Client(headers={"Authorization": f"Bearer {bearer()}"}).get("/metrics")
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain; version=")
    assert Client(headers={"X-API-Key": bearer()}).post("/metrics").status_code == 405


def test_a_scraper_that_asks_for_openmetrics_gets_it() -> None:
    accept = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"
    response = Client(headers={"Authorization": f"Bearer {bearer()}", "Accept": accept}).get("/metrics")
    assert response["Content-Type"].startswith("application/openmetrics-text")
    assert response.content.endswith(b"# EOF\n")


# --- Hosts and GPUs ---------------------------------------------------------------------------------------------------


def test_a_host_that_is_there() -> None:
    factories.make_host("tower", gpus=1, clock_skew_seconds=-0.25)
    page = scrape()
    assert page.value("host_up", host="tower") == 1
    assert page.value("host_cpu_usage_ratio", host="tower") == 0.125
    assert page.value("host_load1", host="tower") == 0.4
    assert page.value("host_memory_used_bytes", host="tower") == 4 << 30
    assert page.value("host_disk_size_bytes", host="tower", mount="/") == 100 << 30
    assert page.value("host_network_receive_bytes_per_second", host="tower", device="eth0") == 12_000
    assert page.value("host_temperature_celsius", host="tower", sensor="Package id 0") == 48
    assert page.value("host_clock_synchronized", host="tower") == 1
    assert page.value("host_clock_skew_seconds", host="tower") == -0.25
    assert page.value("host_info", host="tower", driver_version="550.1", cuda_driver_version="12.4") == 1


def test_of_a_host_that_is_away_only_that_is_told() -> None:
    factories.make_host("away", online=False, gpus=2)
    factories.make_host("silent", gpus=1, fault="The agent doesn't answer.")
    page = scrape()
    assert (page.value("host_up", host="away"), page.value("host_up", host="silent")) == (0, 0)
    assert page.value("host_last_seen_timestamp_seconds", host="away") is None
    assert page.value("host_last_seen_timestamp_seconds", host="silent") == pytest.approx(time.time(), abs=60)
    assert page.count("host_cpu_usage_ratio") == page.count("gpu_up") == page.count("host_clock_skew_seconds") == 0


def test_sensors_of_one_name_are_told_apart() -> None:
    host = factories.make_host("twin")
    host.reading["temperatures"] = [{"label": "core", "celsius": 40.0}, {"label": "core", "celsius": 50.0}]
    host.save()
    page = scrape()
    assert page.value("host_temperature_celsius", sensor="core") == 40
    assert page.value("host_temperature_celsius", sensor="core 2") == 50


def test_a_card_with_its_figures_in_base_units() -> None:
    host = factories.make_host("tower")
    gpu = factories.make_gpu(
        host, 0, throttle_reasons=["sw_power_cap"], ecc_corrected_count=3, persistence_mode=False, performance_state=2
    )
    card = {"host": "tower", "gpu": "0", "uuid": gpu.uuid, "name": "NVIDIA GeForce RTX 3090"}
    page = scrape()
    assert page.value("gpu_up", **card) == 1
    assert page.value("gpu_power_draw_watts", **card) == 180.5
    assert page.value("gpu_utilization_ratio", **card) == pytest.approx(0.4)
    assert page.value("gpu_clock_sm_hertz", **card) == 1695e6
    assert page.value("gpu_persistence_mode", **card) == 0
    assert page.value("gpu_throttle_reason", **card, reason="sw_power_cap") == 1
    assert page.value("gpu_ecc_errors_total", **card, kind="corrected") == 3
    assert page.value("gpu_memory_unowned_bytes", **card) == 0


def test_what_a_card_does_not_tell_is_absent_and_never_0() -> None:
    host = factories.make_host("tower")
    factories.make_gpu(host, 0, fan_speed_percent=None, temperature_celsius=None, throttle_reasons=None)
    factories.make_gpu(host, 1, fault="GPU 1 can't be read.", power_draw_watts=None)
    page = scrape()
    for name in ("gpu_fan_speed_ratio", "gpu_temperature_celsius", "gpu_ecc_enabled", "gpu_ecc_errors_total"):
        assert page.value(name, gpu="0") is None, name
    assert page.count("gpu_throttle_reason") == 0
    assert (page.value("gpu_up", gpu="1"), page.value("gpu_power_draw_watts", gpu="1")) == (0, None)
    assert page.value("gpu_processes", gpu="1") is None


def test_a_card_that_is_no_longer_named_is_gone() -> None:
    host = factories.make_host("tower", gpus=1)
    host.reading["gpus"] = []
    host.save()
    assert scrape().count("gpu_up") == 0


def test_memory_that_no_job_owns_is_counted() -> None:
    owned = {"pid": 10, "job_id": 7, "memory_used_bytes": 1 << 30}
    stray = {"pid": 11, "job_id": None, "memory_used_bytes": 2 << 30}
    factories.make_gpu(factories.make_host("one"), 0, processes=[owned, stray])
    factories.make_gpu(factories.make_host("two"), 0, processes=[{**stray, "memory_used_bytes": None}])
    page = scrape()
    assert page.value("gpu_processes", host="one") == 2
    assert page.value("gpu_memory_unowned_bytes", host="one") == 2 << 30
    assert page.value("gpu_memory_unowned_bytes", host="two") is None


def test_every_figure_that_an_agent_reports_of_a_card_is_told() -> None:
    told = set(exposed_hosts.GPU_FIGURES) | exposed_hosts.GPU_ELSEWHERE
    assert set(GpuReading.__annotations__) == told


# --- Work -------------------------------------------------------------------------------------------------------------


def test_jobs_and_the_queue() -> None:
    factories.make_job("fetch")
    factories.make_job("fetch")
    factories.make_job("train", Status.FAILED)
    page = scrape()
    assert page.value("jobs", kind="fetch", status="pending") == 2
    assert page.value("jobs", kind="train", status="failed") == 1
    assert page.value("jobs", kind="train", status="running") == 0
    assert page.value("queue_length") == 2
    assert page.value("queue_oldest_created_timestamp_seconds") == pytest.approx(time.time(), abs=60)


def test_an_empty_queue_has_no_oldest_job() -> None:
    page = scrape()
    assert (page.value("queue_length"), page.value("queue_oldest_created_timestamp_seconds")) == (0, None)


def test_runs_are_told_while_they_run(home: Path) -> None:
    last = {"loss": 1.5, "tokens_per_second": 950.0, "grad_norm": "Infinity", "eval_loss": "NaN"}
    run = factories.make_run("one", status=Status.RUNNING, last=last, last_step=12, total_steps=100)
    factories.make_run("over", status=Status.DONE, last=last)
    page = scrape()
    labels = {"run": str(run.pk), "name": "one", "model": run.start_model.name}
    assert page.value("run_loss", **labels) == 1.5
    assert page.value("run_tokens_per_second", **labels) == 950
    assert page.value("run_grad_norm", **labels) == math.inf
    assert math.isnan(page.value("run_eval_loss", **labels) or 0)
    assert (page.value("run_step", **labels), page.value("run_steps_planned", **labels)) == (12, 100)
    assert page.value("run_epoch", **labels) is None
    assert page.count("run_loss") == 1


def test_engines_and_what_they_counted(home: Path) -> None:
    statistics = {"requests": 5, "tokens": 640, "running": 1, "waiting": 2, "time_to_first_token_ms_mean": 250.0}
    factories.make_deployment(factories.make_model("m"), is_active=True, statistics=statistics)
    factories.make_deployment(factories.make_model("old"), status="stopped", statistics=statistics)
    page = scrape()
    assert (page.value("engine_up", model="m"), page.value("engine_active", model="m")) == (1, 1)
    assert page.value("engine_requests_total", model="m") == 5
    assert page.value("engine_generated_tokens_total", model="m") == 640
    assert page.value("engine_requests_waiting", model="m") == 2
    assert page.value("engine_time_to_first_token_seconds", model="m") == 0.25
    assert page.value("engine_prompt_tokens_total", model="m") is None
    assert page.count("engine_up") == 1


def test_energy_of_running_jobs_and_alerts_that_go_on() -> None:
    job = factories.make_job("train", Status.RUNNING)
    EnergyAccount.objects.create(job=job, gpu_uuid="GPU-1", joules=1234.5, covered_seconds=10)
    EnergyAccount.objects.create(job=factories.make_job("train", Status.DONE), gpu_uuid="GPU-1", joules=9.0)
    alerts.fire("gpu_lost", "GPU 0 on tower", "critical", "GPU 0 is gone.")
    alerts.fire("disk", "tower", "warning", "The disk is full.")
    alerts.end("disk", "tower")
    page = scrape()
    assert page.value("job_energy_joules_total", job_id=str(job.pk), kind="train", uuid="GPU-1") == 1234.5
    assert page.count("job_energy_joules_total") == 1
    assert (page.value("alerts_open", severity="critical"), page.value("alerts_open", severity="warning")) == (1, 0)


# --- HTTP -------------------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_method_status_and_part_of_the_site() -> None:
    client = Client()
    client.get("/api/health")
    client.get("/api/no-such-call")
    client.post("/v1/chat/completions", {})
    page = scrape(client)
    assert page.value("http_requests_total", method="GET", status="2xx", surface="api") == 1
    assert page.value("http_requests_total", method="GET", status="4xx", surface="api") == 1
    assert page.value("http_requests_total", method="POST", status="4xx", surface="openai") == 1
    assert page.value("http_request_duration_seconds_count", method="GET", surface="api") == 2
    assert page.value("http_request_duration_seconds_bucket", method="GET", surface="api", le="+Inf") == 2


def test_what_a_client_makes_up_becomes_few_labels() -> None:
    traffic = Traffic()
    for number in range(50):
        traffic.count(f"MADE-UP-{number}", f"/{number}", 404, 0.01)
    page = Page(generate_latest(traffic.registry))
    assert page.value("http_requests_total", method="other", status="4xx", surface="page") == 50
    assert [surface(path) for path in ("/", "/static/a.js", "/api/v1/models", "/apis")] == [
        "page", "static", "openai", "page",
    ]  # fmt: skip


# --- The page as a whole ----------------------------------------------------------------------------------------------


def test_names_follow_prometheus_conventions() -> None:
    factories.make_host("tower", gpus=1)
    for family in scrape().families.values():
        assert family.documentation, family.name
        assert re.fullmatch(r"(pilothouse|process)_[a-z0-9_]+", family.name)
        assert not family.name.endswith(DECIMAL_UNITS), family.name
        assert family.type != "gauge" or not family.name.endswith("_total"), family.name


def test_a_label_with_quotes_and_newlines_is_escaped(home: Path) -> None:
    run = factories.make_run('a "quoted"\nname\\', status=Status.RUNNING, last={"loss": 2.0})
    assert scrape().value("run_loss", name=run.name) == 2.0


def test_a_section_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise RuntimeError("a row that nobody foresaw")

    monkeypatch.setitem(text.SECTIONS, "gpus", fails)
    factories.make_host("tower", gpus=1)
    page = scrape()
    assert page.value("exposition_section_success", section="gpus") == 0
    assert page.value("exposition_section_success", section="hosts") == 1
    assert (page.value("host_up", host="tower"), page.count("gpu_up")) == (1, 0)


def test_a_host_that_hangs_delays_nothing(home: Path) -> None:
    """An agent that takes connections and never answers: nobody asks it."""
    host = factories.make_host("hung", gpus=1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(home / "agent.sock"))
        listener.listen()
        listener.settimeout(0)
        assert registry.carrier(host) is not None
        begun = time.monotonic()
        page = scrape()
        assert time.monotonic() - begun < 2.0
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert page.value("host_up", host="hung") == 1


def test_a_large_fleet_costs_few_queries(django_assert_max_num_queries: Any) -> None:
    for number in range(10):
        factories.make_host(f"host-{number:02}", gpus=8)
    with django_assert_max_num_queries(15):
        content, _ = text.exposition(Traffic())
    assert Page(content).count("gpu_up") == 80


def test_no_label_is_one_that_prometheus_sets_itself() -> None:
    """It would rename ours to `exported_job` while it scrapes."""
    factories.make_host("tower", gpus=1)
    job = factories.make_run("one", status=Status.RUNNING, last={"loss": 1.0}).job
    EnergyAccount.objects.create(job=job, gpu_uuid="GPU-1", joules=1.0)
    factories.make_deployment(statistics={"requests": 1})
    page = scrape()
    assert page.count("job_energy_joules_total") == 1
    assert {sample.name for sample in page.samples if {"job", "instance"} & set(sample.labels)} == set()


def test_two_pages_do_not_share_a_registry() -> None:
    """A registry of the library's own would refuse the second, or tell another's counts."""
    first, second = Traffic(), Traffic()
    first.count("GET", "/", 200, 0.01)
    assert Page(text.exposition(second)[0]).count("http_requests_total") == 0
    assert Page(text.exposition(first)[0]).count("http_requests_total") == 1
    assert isinstance(first.registry, CollectorRegistry)


# --- What is shipped for Prometheus and Grafana -----------------------------------------------------------------------


def test_the_dashboard_uses_metrics_that_exist(home: Path) -> None:
    host = factories.make_host("tower")
    factories.make_gpu(host, 0, throttle_reasons=["sw_power_cap"])
    job = factories.make_run("one", status=Status.RUNNING, last={"loss": 1.0, "tokens_per_second": 1.0}).job
    EnergyAccount.objects.create(job=job, gpu_uuid="GPU-1", joules=1.0)
    factories.make_deployment(statistics={"requests": 1, "tokens": 1, "waiting": 0})
    client = Client()
    client.get("/api/health")
    page = scrape(client)
    known = {sample.name for sample in page.samples}
    for family in page.families.values():  # those that have no sample just now
        known.add(f"{family.name}_total" if family.type == "counter" else family.name)
    used = set(re.findall(r"\b(?:pilothouse|process)_[a-z0-9_]+", (DEPLOY / "grafana-dashboard.json").read_text()))
    assert len(used) > 20
    assert used - known == set()


def test_every_metric_is_in_the_docs() -> None:
    factories.make_host("tower", gpus=1)
    section = DOCS.read_text().partition("## Prometheus and Grafana")[2].partition("\n## ")[0]
    named = re.findall(r"`((?:pilothouse|process)_[a-z0-9_]*\*?)`", section)
    missing = [
        family.name
        for family in scrape().families.values()
        if not any(
            family.name.startswith(name[:-1]) if name.endswith("*") else name in (family.name, f"{family.name}_info")
            for name in named
        )
    ]
    assert missing == []


def test_the_dashboard_can_be_imported() -> None:
    """Grafana's import asks for the data source by its name in `__inputs`; every panel takes that one."""
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    assert [entry["name"] for entry in dashboard["__inputs"]] == ["DS_PROMETHEUS"]
    assert dashboard["uid"] == "pilothouse"
    assert dashboard["id"] is None
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
        assert all(target["expr"] for target in panel["targets"]), panel["title"]


def test_the_time_of_the_last_answer_is_told() -> None:
    factories.make_host("tower", last_seen_at=timezone.now())
    assert scrape().value("host_last_seen_timestamp_seconds", host="tower") == pytest.approx(time.time(), abs=60)
