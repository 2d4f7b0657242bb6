"""Where jobs go in a fleet, why there, and why they wait: host by host."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane import dispatch
from controlplane.models import Attempt, Host, Job, Run
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Status
from controlplane.placement import Place, place
from controlplane.services import hosts, jobs
from tests import factories
from tests.controlplane.hosts import AbsentHost

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def run_asking(**environment: Any) -> Job:
    run = factories.make_run()
    Run.objects.filter(pk=run.pk).update(config={**run.config, "environment": environment})
    return jobs.get(run.job_id)


def placed(job: Job) -> str:
    """The host's name, or why there is none."""
    found = place(job, hosts.list_hosts())
    return found.host.name if isinstance(found, Place) else found


def test_a_run_goes_where_its_labels_are() -> None:
    factories.make_host("a", gpus=1)
    factories.make_host("b", gpus=1, labels=["nvlink"])
    assert placed(run_asking(labels=["nvlink"])) == "b"
    assert placed(run_asking(labels=["nvlink", "ssd"])) == (
        "asks for the label nvlink, which a doesn't have, and none of the 2 hosts will do"
    )


def test_a_host_that_only_serves_gets_no_run_and_one_that_only_trains_no_engine() -> None:
    factories.make_host("a", gpus=1, role="serve")
    factories.make_host("b", gpus=1, role="train")
    assert placed(run_asking()) == "b"
    assert placed(factories.make_job("serve")) == "a"
    Host.objects.filter(name="b").delete()
    assert placed(run_asking()) == "waits for another host than a, which only serves models"


def test_a_job_may_name_its_host() -> None:
    factories.make_host("a", gpus=1)
    busy = factories.make_host("b", gpus=1)
    factories.make_job("train", status=Status.RUNNING, host=busy, gpus=[busy.gpus.get().uuid])
    assert placed(run_asking(host="b")) == "waits for a free GPU on b: GPU 0 (max) takes 1 at a time"
    assert placed(run_asking(host="nowhere")) == "waits for nowhere, which does not answer"
    engine = jobs.create(SYSTEM, "serve", "serve it", {}, host=busy)
    assert (placed(engine), engine.is_pinned) == ("b", True)


def test_the_host_that_holds_the_files_comes_first_then_the_one_with_least_to_do() -> None:
    busy = factories.make_host("a", gpus=2)
    factories.make_host("b", gpus=2)
    factories.make_job("train", status=Status.RUNNING, host=busy, gpus=[busy.gpus.first().uuid])  # type: ignore[union-attr]
    assert placed(run_asking()) == "b"
    Host.objects.filter(name="b").update(facts={**busy.facts, "home_id": "another"})
    found = place(run_asking(), hosts.list_hosts())
    assert isinstance(found, Place)
    assert found.because.startswith("a: 2 of 2 hosts have room; ")
    assert found.because.endswith("of its files lie there")


def test_a_run_takes_the_card_with_most_free_memory() -> None:
    host = factories.make_host("a")
    factories.make_gpu(host, 0, memory_used_bytes=20 << 30)
    empty = factories.make_gpu(host, 1, memory_used_bytes=1 << 30)
    found = place(run_asking(), hosts.list_hosts())
    assert isinstance(found, Place)
    assert found.gpus == (empty.uuid,)


def test_a_job_that_ran_before_waits_for_its_host_but_not_while_that_is_in_maintenance() -> None:
    away = factories.make_host("a", gpus=1, online=False)
    factories.make_host("b", gpus=1)
    job = run_asking()
    Job.objects.filter(pk=job.pk).update(host=away, attempt_count=1)
    online = [host for host in hosts.list_hosts() if host.is_online]
    assert place(jobs.get(job.pk), online) == "waits for a, which does not answer"
    Host.objects.filter(pk=away.pk).update(state="maintenance")
    assert placed(jobs.get(job.pk)) == "b"


def test_what_drains_gets_nothing_new_host_or_card() -> None:
    host = factories.make_host("a", gpus=2)
    first, second = hosts.gpus_of(host)
    type(first).objects.filter(pk=first.pk).update(state="draining", upkeep_note={"by": "anna", "reason": "new fans"})
    found = place(run_asking(), hosts.list_hosts())
    assert isinstance(found, Place)
    assert found.gpus == (second.uuid,)
    assert placed(run_asking(gpus=2)) == "waits for GPU 0 on a, which is draining (by anna: new fans)"
    Host.objects.update(state="maintenance")
    for job in (run_asking(), factories.make_job("fetch"), factories.make_job("serve")):
        assert placed(job) == "waits for a, which is in maintenance"


def test_of_many_reasons_the_one_that_goes_away_soonest_is_told() -> None:
    factories.make_host("a", gpus=1, state="draining")
    busy = factories.make_host("b", gpus=1)
    factories.make_host("c", gpus=1, labels=["other"], role="serve")
    factories.make_job("train", status=Status.RUNNING, host=busy, gpus=[busy.gpus.get().uuid])
    assert placed(run_asking()) == (
        "waits for a free GPU on b: GPU 0 (max) takes 1 at a time; 2 more have no room either"
    )


# --- A whole queue ----------------------------------------------------------------------------------------------------


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> AbsentHost:
    host = AbsentHost()
    monkeypatch.setattr(dispatch, "carrier", lambda _host: host)
    return host


def test_a_long_queue_of_equal_runs_costs_no_more_questions_than_a_short_one(absent: AbsentHost) -> None:
    factories.make_host("a", gpus=1)
    dataset, model = factories.make_dataset(), factories.make_model()
    for _ in range(3):
        factories.make_run(dataset=dataset, model=model)
    dispatch.launch_pending()
    with CaptureQueriesContext(connection) as short:
        dispatch.launch_pending()
    for _ in range(40):
        factories.make_run(dataset=dataset, model=model)
    dispatch.launch_pending()
    with CaptureQueriesContext(connection) as long:
        dispatch.launch_pending()
    assert len(long) == len(short)
    reasons = set(Job.objects.filter(status=Status.PENDING).values_list("waiting_reason", flat=True))
    assert reasons == {"waits for a free GPU on a: GPU 0 (max) takes 1 at a time"}


def test_one_round_fills_all_hosts_in_the_order_of_the_queue_and_says_why_there(absent: AbsentHost) -> None:
    for name in ("a", "b"):
        factories.make_host(name, gpus=2)
    made = [factories.make_run().job for _ in range(5)]
    jobs.set_priority(SYSTEM, made[4].pk, "high")
    dispatch.launch_pending()
    assert [job_id for job_id, _ in absent.launched] == [made[index].pk for index in (4, 0, 1, 2)]
    assert Job.objects.filter(status=Status.RUNNING).count() == 4
    pairs = {(attempt.host_id, attempt.gpus[0]) for attempt in Attempt.objects.all()}
    assert len(pairs) == 4, "no card twice"
    assert all("hosts have room" in attempt.placed_because for attempt in Attempt.objects.all())


def test_a_run_that_asks_for_what_nobody_has_holds_up_none_behind_it(absent: AbsentHost) -> None:
    factories.make_host("a", gpus=1)
    stuck, behind = run_asking(labels=["h200"]), factories.make_run().job
    dispatch.launch_pending()
    assert jobs.get(behind.pk).status == Status.RUNNING
    assert jobs.get(stuck.pk).waiting_reason == "asks for the label h200, which a doesn't have"
