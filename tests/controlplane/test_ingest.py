"""Ingest: events become rows once, whatever comes twice, torn, or broken; an attempt's end decides its job."""

import math
from pathlib import Path
from typing import Any

import pytest

from controlplane.fleet.protocol import AttemptNews, ExitRecord
from controlplane.models import Attempt, Job, Run
from controlplane.models.jobs import Desired, Status
from controlplane.services import curve_reading, ingest, runs
from monitoring import events as ev
from monitoring.events import EventWriter, read_lines
from tests.factories import make_host, make_model, make_run

pytestmark = pytest.mark.django_db


class Stage:
    """A running run whose events lie in a real file."""

    def __init__(self, folder: Path, desired: str = Desired.RUN) -> None:
        self.host = make_host()
        self.run = make_run(status=Status.RUNNING)
        Job.objects.filter(pk=self.run.job_id).update(attempt_count=1, desired=desired, host=self.host)
        self.folder = folder
        self.begin(1)

    def begin(self, number: int) -> None:
        self.number = number
        self.path = self.folder / f"events-{number}.jsonl"
        self.writer = EventWriter(self.path)
        Attempt.objects.create(job_id=self.run.job_id, number=number, host=self.host, launched=True)

    def news(self, offset: int, **more: Any) -> AttemptNews:
        lines, end = read_lines(self.path, offset)
        return AttemptNews(
            job_id=self.run.job_id, attempt=self.number, offset=offset, next_offset=end, lines=lines.decode(),
            drained=True, state=more.get("state", "running"), exit=more.get("exit"),
        )  # fmt: skip

    def attempt(self) -> Attempt:
        return Attempt.objects.get(job_id=self.run.job_id, number=self.number)

    def take(self, **more: Any) -> None:
        ingest.store(self.news(self.attempt().offset, **more))

    def job(self) -> Job:
        return Job.objects.get(pk=self.run.job_id)

    def losses(self) -> list[tuple[int, float | str]]:
        series = curve_reading.answer(Run.objects.get(pk=self.run.pk), ["loss"])["series"].get("loss")
        return list(zip(series["step"], series["value"], strict=True)) if series else []


def ended(code: int | None = None, signal: int | None = None) -> ExitRecord:
    return ExitRecord(code=code, signal=signal, started_at=1.0, ended_at=2.0, max_rss_bytes=1, cpu_seconds=1.0)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def metrics(step: int, loss: float = 1.0) -> ev.Metrics:
    return ev.Metrics(step=step, values={"loss": loss}, epoch=step / 10)


def test_a_batch_that_comes_twice_is_stored_once(stage: Stage) -> None:
    for step in (1, 2, 3):
        stage.writer.emit(metrics(step))
    news = stage.news(0)
    assert ingest.store(news)
    assert not ingest.store(news)
    assert [step for step, _ in stage.losses()] == [1, 2, 3]


def test_a_torn_line_waits_and_a_broken_one_is_passed_over(stage: Stage) -> None:
    stage.writer.emit(metrics(1))
    with stage.path.open("ab") as stream:
        stream.write(b'{"seq": "what"}\n{"seq":2,"time":1,"kind":"metr')
    stage.take()
    assert [step for step, _ in stage.losses()] == [1]
    with stage.path.open("ab") as stream:
        stream.write(b'ics","step":2,"epoch":null,"values":{"loss":"NaN"}}\n')
    stage.take()
    assert stage.losses() == [(1, 1.0), (2, "NaN")]


def test_a_resume_supersedes_the_points_beyond_it(stage: Stage) -> None:
    for step in range(1, 8):
        stage.writer.emit(metrics(step, 1.0))
    stage.take(state="exited", exit=ended(signal=9))
    assert stage.job().status == Status.PENDING
    Job.objects.filter(pk=stage.run.job_id).update(status=Status.RUNNING, attempt_count=2)
    stage.begin(2)
    stage.writer.emit(ev.Resumed(step=5))
    stage.writer.emit(metrics(6, 2.0))
    stage.take()
    assert stage.losses() == [*((step, 1.0) for step in range(1, 6)), (6, 2.0)]


@pytest.mark.parametrize("in_one_batch", [True, False])
def test_a_resume_takes_the_last_values_back_to_its_step(stage: Stage, in_one_batch: bool) -> None:
    stage.writer.emit(metrics(1, 4.0))
    stage.writer.emit(ev.Metrics(step=2, values={"loss": math.nan, "eval_loss": 3.0}, epoch=0.2))
    stage.writer.emit(ev.Metrics(step=3, values={"loss": 2.0, "late": 1.0}, epoch=0.3))
    if not in_one_batch:
        stage.take()
    stage.writer.emit(ev.Resumed(step=2))
    stage.take()
    run = Run.objects.get(pk=stage.run.pk)
    assert (run.last, run.epoch, run.last_step) == ({"loss": "NaN", "eval_loss": 3.0}, None, 2)
    stage.writer.emit(metrics(3, 5.0))
    stage.take()
    run = Run.objects.get(pk=stage.run.pk)
    assert (run.last, run.epoch) == ({"loss": 5.0, "eval_loss": 3.0}, 0.3)


def test_a_result_makes_it_done_even_when_the_exit_was_not_recorded(stage: Stage) -> None:
    stage.writer.emit(ev.Result(values={"steps": 3, "model": None}))
    stage.take(state="lost")
    assert (stage.job().status, stage.job().result) == (Status.DONE, {"steps": 3, "model": None})


def test_an_end_before_all_is_read_decides_nothing(stage: Stage) -> None:
    stage.writer.emit(ev.Result(values={"model": None}))
    news = stage.news(0, state="exited", exit=ended(code=0))
    stage.writer.emit(metrics(9))
    ingest.store({**news, "drained": False})
    assert stage.job().status == Status.RUNNING


def test_an_error_that_was_said_fails_at_once_with_its_fix(stage: Stage) -> None:
    stage.writer.emit(ev.Error(code="dataset_empty", message="No rows.", fix="Upload some."))
    stage.take(state="exited", exit=ended(code=1))
    assert stage.job().status == Status.FAILED
    assert stage.job().error == {"code": "dataset_empty", "message": "No rows.", "fix": "Upload some."}


def test_an_adapter_made_from_an_adapter_stands_on_the_same_base(stage: Stage) -> None:
    base = make_model()
    config = {**stage.run.config, "model": {**stage.run.config["model"], "merge_adapter": False}}
    Run.objects.filter(pk=stage.run.pk).update(model=make_model(kind="adapter", base=base), config=config)
    described = {"kind": "adapter", "architecture": "A", "parameters": 5, "size_bytes": 6, "dtype": "float32"}
    stage.writer.emit(ev.Result(values={"steps": 3, "model": described}))
    stage.take(state="exited", exit=ended(code=0))
    made = stage.run.models.get(source="run")
    assert (made.state, made.kind, made.base, made.checkpoint_step) == ("ready", "adapter", base, 3)


def test_a_process_that_dies_is_tried_again_until_the_limit(stage: Stage) -> None:
    for number in (1, 2, 3):
        if number > 1:
            Job.objects.filter(pk=stage.run.job_id).update(status=Status.RUNNING, attempt_count=number)
            stage.begin(number)
        stage.writer.emit(ev.Started(pid=5))
        stage.take(state="exited", exit=ended(signal=11))
        assert stage.job().status == (Status.PENDING if number < 3 else Status.FAILED)
    error = stage.job().error
    assert error is not None
    assert error["message"] == "The process ended by SIGSEGV."


@pytest.mark.parametrize(("desired", "status"), [(Desired.PAUSE, Status.PAUSED), (Desired.RUN, Status.PENDING)])
def test_an_exit_with_a_checkpoint_pauses_or_waits_to_go_on(tmp_path: Path, desired: str, status: str) -> None:
    stage = Stage(tmp_path, desired)
    stage.take(state="exited", exit=ended(code=ev.EXIT_PAUSED))
    assert stage.job().status == status
    assert stage.job().failures == 0


def test_a_cancelled_process_makes_a_cancelled_job(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Desired.CANCEL)
    stage.take(state="exited", exit=ended(signal=9))
    assert stage.job().status == Status.CANCELLED


def test_news_of_an_older_attempt_changes_no_job(stage: Stage) -> None:
    Job.objects.filter(pk=stage.run.job_id).update(attempt_count=2)
    stage.take(state="lost")
    assert stage.job().status == Status.RUNNING
    assert stage.attempt().ended_at is not None


def test_the_time_left_follows_the_pace_whichever_event_tells_of_a_step_first(stage: Stage) -> None:
    for step in (1, 2, 3):
        stage.writer.emit(ev.Progress(done=step, total=10, unit="steps"))
        stage.writer.emit(metrics(step))
    stage.take()
    progress = runs.facts(runs.get(stage.run.pk))["progress"]
    assert (progress["step"], progress["total_steps"]) == (3, 10)
    assert 0 < progress["eta_seconds"] < 60


def test_checkpoints_come_and_go_and_the_best_is_named(stage: Stage) -> None:
    for step, loss in ((10, 2.0), (20, 1.0), (30, 1.5)):
        stage.writer.emit(ev.Checkpoint(step=step, path=f"checkpoints/step-{step}", bytes=7, eval_loss=loss))
    stage.writer.emit(ev.CheckpointGone(step=10))
    stage.take()
    rows = runs.checkpoints(Run.objects.get(pk=stage.run.pk))
    assert [(row["step"], row["is_best"]) for row in rows] == [(20, True), (30, False)]


@pytest.mark.parametrize(
    ("held", "kills", "code"),
    [(15, 1, "host_out_of_memory"), (15, None, "host_out_of_memory"), (2, 1, "host_out_of_memory"), (2, 0, "killed")],
)
def test_a_kill_is_explained_by_what_the_process_held(held: int, kills: int | None, code: str) -> None:
    told = ingest.explain(
        ExitRecord(
            code=None, signal=9, started_at=0, ended_at=1, max_rss_bytes=held * 10**9, cpu_seconds=1,
            memory_limit_bytes=16 * 10**9, oom_kills=kills,
        )
    )  # fmt: skip
    assert told["code"] == code
    assert f"held {held}.0 GB of 16.0 GB" in told["message"]
    assert ("kernel" in told["message"]) == (code != "killed")
