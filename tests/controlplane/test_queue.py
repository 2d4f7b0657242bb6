"""The queue's order by hand, its pause, and GPUs that are really free."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError
from controlplane.kinds.registry import kind_of
from controlplane.models import AuditLine, Gpu, Job, LanguageModel
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import Priority, Status
from controlplane.placement import Place, place
from controlplane.services import hosts, jobs, queue, settings
from tests.factories import gpu_process, make_client, make_host, make_job, make_model, make_run

pytestmark = pytest.mark.django_db
STRANGER = Actor(name="stranger", role=Role.USE)
GIB = 1 << 30


def order() -> list[int]:
    return [job.pk for job in jobs.queue()]


# --- Order ------------------------------------------------------------------------------------------------------------


def test_a_job_is_moved_among_those_of_its_priority_and_new_ones_stand_behind() -> None:
    high = make_job(priority=Priority.HIGH)
    first, second, third = (make_job() for _ in range(3))
    queue.move(SYSTEM, third.pk, "top")
    assert order() == [high.pk, third.pk, first.pk, second.pk]
    queue.move(SYSTEM, third.pk, "down")
    queue.move(SYSTEM, second.pk, "up")
    assert order() == [high.pk, first.pk, second.pk, third.pk]
    newest = make_job()
    queue.move(SYSTEM, first.pk, "bottom")
    assert order() == [high.pk, second.pk, third.pk, newest.pk, first.pk]
    line = AuditLine.objects.filter(action="job.move").first()
    assert line is not None
    assert line.detail == {"to": "bottom", "place": 4}


def test_a_place_given_by_hand_is_left_behind_with_the_priority() -> None:
    high, first, second = make_job(priority=Priority.HIGH), make_job(), make_job()
    queue.move(SYSTEM, second.pk, "top")
    jobs.set_priority(SYSTEM, second.pk, "high")
    assert order() == [high.pk, second.pk, first.pk]


@pytest.mark.parametrize("to", ["up", "top"])
def test_the_first_one_stays_the_first(to: str) -> None:
    first, second = make_job(), make_job()
    queue.move(SYSTEM, first.pk, to)
    assert order() == [first.pk, second.pk]
    assert queue.ends(jobs.queue()) == {first.pk: (True, False), second.pk: (False, True)}


def test_what_cannot_be_moved_is_refused() -> None:
    waiting, running = make_job(), make_job(status=Status.RUNNING)
    with pytest.raises(ConflictError, match="running"):
        queue.move(SYSTEM, running.pk, "up")
    with pytest.raises(InvalidInputError, match="sideways"):
        queue.move(SYSTEM, waiting.pk, "sideways")
    with pytest.raises(ForbiddenError, match="somebody"):
        queue.move(STRANGER, waiting.pk, "up")


def test_a_job_that_was_moved_and_failed_goes_to_the_end_when_it_is_retried() -> None:
    moved, other = make_job(), make_job()
    queue.move(SYSTEM, moved.pk, "top")
    Job.objects.filter(pk=moved.pk).update(status=Status.FAILED)
    newest = make_job()
    queue.move(SYSTEM, newest.pk, "top")
    jobs.retry(SYSTEM, moved.pk)
    assert order() == [newest.pk, other.pk, moved.pk]


# --- Pause ------------------------------------------------------------------------------------------------------------


def test_a_paused_queue_starts_no_run_but_everything_else() -> None:
    run, fetch = make_run(), make_job("fetch")
    queue.pause(SYSTEM, "a new card comes")
    assert kind_of(run.job).waits_for(run.job) == "the queue is paused: a new card comes"
    assert kind_of(fetch).waits_for(fetch) is None
    queue.resume(SYSTEM)
    assert kind_of(run.job).waits_for(run.job) is None
    assert set(AuditLine.objects.values_list("action", flat=True)) >= {"queue.pause", "queue.resume"}
    with pytest.raises(ForbiddenError):
        queue.pause(STRANGER)


@pytest.mark.parametrize("go_on", [True, False])
def test_a_failed_run_pauses_the_queue_only_where_that_is_set(go_on: bool) -> None:
    settings.put(SYSTEM, "queue.continue_on_error", go_on)
    failing = make_run("first", status=Status.RUNNING)
    jobs.transition(failing.job_id, Status.FAILED, reason="test", error={"code": "x", "message": "y", "fix": ""})
    assert ("first has failed" in queue.paused_because()) is not go_on


def test_a_failed_fetch_pauses_nothing() -> None:
    settings.put(SYSTEM, "queue.continue_on_error", False)
    jobs.transition(make_job(status=Status.RUNNING).pk, Status.FAILED, reason="test")
    assert queue.paused_because() == ""


# --- GPUs that are really free ----------------------------------------------------------------------------------------


def read(gpu: Gpu, **reading: Any) -> None:
    Gpu.objects.filter(pk=gpu.pk).update(reading={**gpu.reading, **reading})


def test_a_run_waits_for_a_gpu_that_anothers_program_fills_and_takes_the_free_one() -> None:
    host = make_host("tower", gpus=1)
    gpu = Gpu.objects.get()
    run = make_run()
    read(gpu, processes=[gpu_process(4242, memory_used_bytes=20_100_000_000, command="python")])
    assert place(run.job, [host]) == "waits for GPU 0 on tower: 20.1 GB held by python (pid 4242)"
    read(gpu, processes=[gpu_process(4242, memory_used_bytes=GIB)])
    assert isinstance(place(run.job, [host]), Place), "a desktop may hold a little"
    read(gpu, processes=[gpu_process(4242, memory_used_bytes=20 * GIB, job_id=7, is_ours=True)])
    assert isinstance(place(run.job, [host]), Place), "a job's own memory is no stranger's"


def test_the_card_that_nobody_fills_is_taken() -> None:
    host = make_host("tower", gpus=2)
    first, second = Gpu.objects.order_by("index")
    read(first, processes=[gpu_process(4242, memory_used_bytes=20 * GIB)])
    found = place(make_run().job, [host])
    assert isinstance(found, Place)
    assert found.gpus == (second.uuid,)


def test_a_run_waits_until_the_weights_of_its_model_fit() -> None:
    host = make_host("tower", gpus=1)
    model = make_model(parameters=8_000_000_000, size_bytes=16_000_000_000)
    run = make_run(model=model)
    read(Gpu.objects.get(), memory_used_bytes=10 * GIB, processes=[
        gpu_process(77, memory_used_bytes=10 * GIB, job_id=3, is_ours=True, command="inference"),
    ])  # fmt: skip
    assert place(run.job, [host]) == (
        "waits for GPU 0 on tower: the model needs 16.0 GB, 15.0 GB are free; it is held by inference (job 3)"
    )
    run.config["model"]["load_in_4bit"] = True
    run.save()
    assert isinstance(place(run.job, [host]), Place)
    run.config["model"]["load_in_4bit"] = False
    run.save()
    LanguageModel.objects.update(parameters=None)
    assert isinstance(place(jobs.get(run.job_id), [host]), Place), "what isn't known holds nothing up"


# --- API and pages ----------------------------------------------------------------------------------------------------


def test_a_waiting_run_is_read_once_however_many_hosts_are_looked_at() -> None:
    for _ in range(3):
        make_host(gpus=2)
    make_run(model=make_model(size_bytes=40 * GIB, parameters=20 * GIB))
    seen = hosts.list_hosts()
    with CaptureQueriesContext(connection) as asked:
        waiting = jobs.queue()[0]
        assert kind_of(waiting).waits_for(waiting) is None
        assert "the model needs" in str(place(waiting, seen))
    assert sum("controlplane_run" in query["sql"] for query in asked) == 1


def test_the_api_moves_pauses_and_goes_on() -> None:
    admin, use = make_client("admin"), make_client("use")
    first, second = make_job(), make_job()
    answer = admin.post(f"/api/jobs/{second.pk}/move", {"to": "top"}, content_type="application/json")
    assert answer.status_code == 200
    assert [job["id"] for job in use.get("/api/queue").json()["jobs"]] == [second.pk, first.pk]
    assert use.post("/api/queue/pause", {}, content_type="application/json").status_code == 403
    paused = admin.post("/api/queue/pause", {"reason": "a new card"}, content_type="application/json").json()
    assert (paused["paused"], paused["reason"]) == (True, "a new card")
    assert admin.post("/api/queue/resume").json()["paused"] is False
