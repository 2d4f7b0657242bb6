"""Alerts of runs: fired with what happened, once an attempt, whatever is stored twice."""

import json
import time
from typing import Any, cast

import pytest

from controlplane.fleet.protocol import AttemptNews
from controlplane.models import Alert, Attempt, Run
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Status
from controlplane.services import alerts, ingest, jobs, run_alerts
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def running() -> tuple[Run, Attempt]:
    """A run whose first attempt is there."""
    run = factories.make_run("harbour", status=Status.PENDING)
    return run, begin(run)


def begin(run: Run) -> Attempt:
    """Another attempt of a run."""
    number = run.job.attempts.count() + 1
    host = run.job.attempts.first().host if number > 1 else factories.make_host()  # type: ignore[union-attr] # it has one
    jobs.transition(run.job_id, Status.RUNNING, reason="placed", host=host, attempt_count=number)
    return Attempt.objects.create(job=run.job, number=number, host=host, launched=True)


def news(attempt: Attempt, *bodies: dict[str, Any], state: str = "running", code: int | None = None) -> AttemptNews:
    """What the agent tells of an attempt: these events."""
    attempt.refresh_from_db()
    first = attempt.last_seq + 1
    lines = [{"seq": first + index, "time": time.time(), **body} for index, body in enumerate(bodies)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    ended = {
        "code": code, "signal": None, "started_at": 0.0, "ended_at": 1.0, "max_rss_bytes": 1, "cpu_seconds": 1.0
    }  # fmt: skip
    return cast(AttemptNews, {
        "job_id": attempt.job_id, "attempt": attempt.number, "offset": attempt.offset,
        "next_offset": attempt.offset + len(text.encode()), "lines": text, "drained": True, "state": state,
        "exit": ended if code is not None else None,
    })  # fmt: skip


def metrics(step: int, **values: Any) -> dict[str, Any]:
    return {"kind": "metrics", "step": step, "epoch": 0.1, "values": values}


def rules() -> list[str]:
    return list(Alert.objects.order_by("id").values_list("rule", flat=True))


def test_a_run_that_ends_well_is_told_once() -> None:
    run, attempt = running()
    told = news(attempt, metrics(3, loss=0.25), {"kind": "result", "values": {"steps": 3}}, state="exited", code=0)
    ingest.store(told)
    ingest.store(told)
    alert = Alert.objects.get()
    assert (alert.rule, alert.subject, alert.severity) == ("run_finished", f"run {run.pk}", "info")
    assert "“harbour” is done after 3 steps with a loss of 0.25" in alert.message
    assert (alert.url, alert.ended_at is None) == (f"/runs/{run.pk}/", False)


def test_a_run_that_fails_is_told_with_its_reason_and_again_when_a_retry_fails() -> None:
    run, attempt = running()
    error = {"kind": "error", "code": "no_memory", "message": "The GPU is full.", "fix": "Take a smaller batch."}
    told = news(attempt, error, state="exited", code=1)
    ingest.store(told)
    ingest.store(told)
    alert = Alert.objects.get()
    assert (alert.rule, alert.severity, alert.ended_at) == ("run_failed", "warning", None)
    assert (alert.message.endswith("The GPU is full."), alert.fix) == (True, "Take a smaller batch.")
    jobs.retry(SYSTEM, run.job_id)
    alert.refresh_from_db()
    assert alert.ended_at is not None
    ingest.store(news(begin(run), error, state="exited", code=1))
    assert rules() == ["run_failed", "run_failed"]
    assert Alert.objects.filter(ended_at=None).count() == 1


def test_an_attempt_that_is_tried_again_by_itself_is_no_failed_run() -> None:
    run, attempt = running()
    ingest.store(news(attempt, metrics(1, loss=1.0), state="exited", code=9))
    assert jobs.get(run.job_id).status == Status.PENDING
    assert rules() == []


@pytest.mark.parametrize(("value", "word"), [("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity")])
def test_a_loss_that_is_no_number_is_told_once_an_attempt(value: str, word: str) -> None:
    run, attempt = running()
    ingest.store(news(attempt, metrics(1, loss=1.0), metrics(2, loss=value), metrics(3, loss=0.5)))
    ingest.store(news(attempt, metrics(4, loss=value)))
    alert = Alert.objects.get()
    assert (alert.rule, alert.count) == ("loss_nan", 1)
    assert f"loss is {word} at step 2" in alert.message
    alerts.acknowledge(SYSTEM, alert.pk)
    ingest.store(news(attempt, metrics(5, loss=value)))
    assert Alert.objects.count() == 1, "who has seen it isn't told at each step"
    ingest.store(news(attempt, state="exited", code=9))
    ingest.store(news(begin(run), metrics(2, eval_loss=value)))
    assert rules() == ["loss_nan", "loss_nan"]


def test_what_is_open_about_a_deleted_run_is_over() -> None:
    run, attempt = running()
    ingest.store(news(attempt, metrics(1, loss="NaN")))
    run_alerts.end_of_deleted_runs()
    assert Alert.objects.get().ended_at is None
    run.delete()
    run_alerts.end_of_deleted_runs()
    assert Alert.objects.get().ended_at is not None


def test_other_figures_may_be_anything() -> None:
    _run, attempt = running()
    ingest.store(news(attempt, metrics(1, loss=1.0, grad_norm="NaN")))
    assert rules() == []


def test_jobs_that_are_no_runs_make_no_alert() -> None:
    job = factories.make_job("fetch", Status.RUNNING)
    jobs.transition(job.pk, Status.FAILED, reason="x", error={"message": "Gone."})
    assert rules() == []


def test_an_alert_that_can_not_be_made_does_not_keep_a_run_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_told: Any, **_more: Any) -> Alert:
        raise RuntimeError("no room")

    run, _attempt = running()
    monkeypatch.setattr(alerts, "fire", broken)
    assert jobs.transition(run.job_id, Status.FAILED, reason="x", error={"message": "y"}).status == Status.FAILED
    assert "no alert could be made" in caplog.text
