"""Deployments: the last one asked wins, a failed check keeps its reason, an engine comes back with its host."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from django.db import transaction

from controlplane.models import Attempt, Deployment, Job
from controlplane.models.access import SYSTEM
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.jobs import Status
from controlplane.services import activation, deployments, engine_watch, ingest, jobs
from monitoring.events import EXIT_PAUSED
from tests.factories import make_host, make_model

pytestmark = pytest.mark.django_db(transaction=True)


class Answering(BaseHTTPRequestHandler):
    """A port that answers a chat, or refuses it."""

    status = 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = {"choices": [{"message": {"content": "Hello."}}], "usage": {"completion_tokens": 2}}
        body = json.dumps(answer if self.status == 200 else {"error": {"message": "broken"}}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_what: object) -> None:
        """Quiet."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def started(model_name: str, port: int) -> Deployment:
    """A deployment whose engine says that it is ready."""
    deployment = activation.activate(SYSTEM, model_name)
    host = make_host()
    jobs.transition(deployment.job_id, Status.RUNNING, reason="test", host=host, attempt_count=1)
    attempt = Attempt.objects.create(job_id=deployment.job_id, number=1, host=host, launched=True)
    job = jobs.get(deployment.job_id)
    with transaction.atomic():
        activation.launching(job, attempt)
        activation.engine_ready(job, attempt, port)
    return deployments.get(deployment.pk)


def ready(model_name: str, port: int) -> Deployment:
    deployment = started(model_name, port)
    engine_watch.check(deployment)
    return deployments.get(deployment.pk)


def end(deployment: Deployment, *, code: int | None = None, signal: int | None = None) -> None:
    """Its process ends."""
    number = jobs.get(deployment.job_id).attempt_count
    ingest.store({
        "job_id": deployment.job_id, "attempt": number, "offset": 0, "next_offset": 0, "lines": "", "drained": True,
        "state": "exited", "exit": {"code": code, "signal": signal, "started_at": 1.0, "ended_at": 2.0,
                                    "max_rss_bytes": 1, "cpu_seconds": 1.0},
    })  # fmt: skip


def test_an_engine_that_answers_takes_over_and_the_old_one_drains(port: int) -> None:
    old = ready(make_model().name, port)
    assert (old.status, old.is_active, old.check_text) == (DeploymentStatus.READY, True, "Hello.")
    new = ready(make_model().name, port)
    old.refresh_from_db()
    assert (new.is_active, old.is_active, old.status) == (True, False, DeploymentStatus.DRAINING)
    assert jobs.get(old.job_id).desired == "stop"


def test_an_engine_that_fails_its_check_keeps_the_reason_and_the_old_one_its_place(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ready(make_model().name, port)
    monkeypatch.setattr(Answering, "status", 500)
    new = started(make_model().name, port)
    engine_watch.check(new)
    end(new, signal=9)
    new.refresh_from_db()
    assert (new.status, "broken" in new.error) == (DeploymentStatus.FAILED, True)
    assert Job.objects.get(pk=new.job_id).status == Status.CANCELLED
    active = deployments.active()
    assert active is not None
    assert active.pk == old.pk


def test_the_last_one_asked_wins(port: int) -> None:
    first = ready(make_model().name, port)
    other = activation.activate(SYSTEM, make_model().name)
    assert activation.activate(SYSTEM, first.model.name).pk == first.pk
    other.refresh_from_db()
    assert other.status == DeploymentStatus.STOPPED
    assert Job.objects.get(pk=other.job_id).status == Status.CANCELLED


def test_an_engine_whose_host_went_down_is_started_again_and_stays_active(port: int) -> None:
    deployment = ready(make_model().name, port)
    end(deployment, code=EXIT_PAUSED)
    assert jobs.get(deployment.job_id).status == Status.PENDING
    assert deployments.active() is not None


def test_one_that_was_told_to_stop_is_not(port: int) -> None:
    deployment = ready(make_model().name, port)
    activation.stop(SYSTEM, deployment.pk)
    end(deployment, signal=15)
    deployment.refresh_from_db()
    assert (deployment.status, deployment.is_active) == (DeploymentStatus.STOPPED, False)
    assert deployments.active() is None


def test_a_check_that_ends_after_a_new_attempt_began_kills_nothing(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answering, "status", 500)
    stale = started(make_model().name, port)
    Deployment.objects.filter(pk=stale.pk).update(attempt_number=2, status=DeploymentStatus.STARTING)
    engine_watch.check(stale)
    stale.refresh_from_db()
    assert stale.status == DeploymentStatus.STARTING
    assert jobs.get(stale.job_id).desired == "run"
