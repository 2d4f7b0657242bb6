"""Each rule of something that goes on: when it fires, when it holds on, when it ends."""

import time
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from controlplane.models import Alert, Attempt, Deployment, Gpu, Host, InboxFile, Job
from controlplane.models.access import SYSTEM
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.jobs import Status
from controlplane.services import alert_routes, alert_rules, alert_watch, alerts, run_alerts, settings
from tests import factories

pytestmark = pytest.mark.django_db
GIB = 1 << 30


@pytest.fixture(autouse=True)
def new_watch(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web process that has just started: it remembers nothing."""
    monkeypatch.setitem(alert_watch.CHECKS, "queue_stuck", alert_watch.QueueWatch().findings)


def look() -> list[tuple[str, str, str]]:
    """Looks, and says what is open then: rule, subject, severity."""
    alert_watch.look()
    return sorted(Alert.objects.filter(ended_at=None).values_list("rule", "subject", "severity"))


def be_calm() -> None:
    """As if everything had been well for a while."""
    Alert.objects.filter(ended_at=None).update(last_at=timezone.now() - alert_watch.CALM)


def ago(seconds: float) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


def test_where_all_is_well_there_is_no_alert() -> None:
    factories.make_host("tower", gpus=2)
    factories.make_deployment(is_active=True)
    factories.make_run(status=Status.RUNNING)
    assert look() == []


# --- Hosts ------------------------------------------------------------------------------------------------------------


def test_a_host_that_does_not_answer_is_offline_after_a_while_and_comes_back() -> None:
    host = factories.make_host("tower", fault="The agent does not answer.", last_seen_at=ago(59))
    assert look() == []
    Host.objects.filter(pk=host.pk).update(last_seen_at=ago(61))
    assert look() == [("host_offline", "tower", "critical")]
    alert = Alert.objects.get()
    assert "The agent does not answer." in alert.message
    assert alert.url == "/hosts/tower/"
    Host.objects.filter(pk=host.pk).update(last_seen_at=timezone.now(), fault="")
    assert look() == [("host_offline", "tower", "critical")], "it ends when it has been well for a while"
    be_calm()
    assert look() == []


def test_a_web_server_that_has_just_started_finds_nobody_offline() -> None:
    factories.make_host("tower", last_seen_at=ago(3600))
    assert look() == []


def test_trouble_that_goes_on_is_one_alert_across_restarts() -> None:
    factories.make_host("tower", fault="Away.", last_seen_at=ago(100))
    for _ in range(3):
        look()
    assert Alert.objects.get().count == 1


# --- GPUs -------------------------------------------------------------------------------------------------------------


def change_reading(host: Host, **fields: Any) -> None:
    host.refresh_from_db()
    Host.objects.filter(pk=host.pk).update(reading={**host.reading, **fields})


def test_a_card_that_reports_a_fault_is_lost() -> None:
    host = factories.make_host("tower", gpus=2)
    cards = list(host.reading["gpus"])
    cards[1] = {**cards[1], "fault": "GPU is lost."}
    change_reading(host, gpus=cards)
    assert look() == [("gpu_lost", "GPU 1 on tower", "critical")]
    assert "GPU is lost." in Alert.objects.get().message
    cards[1] = {**cards[1], "fault": None}
    change_reading(host, gpus=cards)
    be_calm()
    assert look() == []


def test_a_card_that_its_host_no_longer_names_is_lost_until_it_counts_as_taken_out() -> None:
    host = factories.make_host("tower", gpus=2)
    change_reading(host, gpus=host.reading["gpus"][:1])
    assert look() == [], "it may only be late"
    Gpu.objects.filter(index=1).update(seen_at=ago(11))
    assert look() == [("gpu_lost", "GPU 1 on tower", "critical")]
    Gpu.objects.filter(index=1).update(seen_at=ago(8 * 86400))
    be_calm()
    assert look() == []


def test_a_driver_that_does_not_answer_is_one_alert_and_not_one_a_card() -> None:
    host = factories.make_host("tower", gpus=4)
    cards = [{**card, "fault": "The driver doesn't answer."} for card in host.reading["gpus"]]
    change_reading(host, gpus=cards, gpu_fault="The driver doesn't answer.", gpu_fault_since=ago(9).timestamp())
    assert look() == [], "one late answer is no alert"
    change_reading(host, gpu_fault_since=ago(11).timestamp())
    assert look() == [("gpu_lost", "GPUs of tower", "critical")]


def test_a_driver_that_is_gone_altogether_is_told_where_there_were_cards() -> None:
    host = factories.make_host("tower", gpus=2)
    change_reading(host, gpus=[], gpu_fault="No NVIDIA driver on this host.")
    Gpu.objects.update(seen_at=ago(11))
    assert look() == [("gpu_lost", "GPUs of tower", "critical")]


def test_faults_of_single_cards_are_told_by_card_though_the_host_sums_them_up() -> None:
    host = factories.make_host("tower", gpus=2)
    cards = [{**host.reading["gpus"][0], "fault": "GPU is lost."}, host.reading["gpus"][1]]
    change_reading(host, gpus=cards, gpu_fault="GPU is lost.")
    assert look() == [("gpu_lost", "GPU 0 on tower", "critical")]


def test_a_host_that_never_had_a_card_has_lost_none_and_neither_has_one_that_is_away() -> None:
    factories.make_host("bare")
    away = factories.make_host("away", gpus=1, online=False)
    change_reading(away, gpus=[])
    Gpu.objects.update(seen_at=ago(60))
    assert look() == []


def test_what_is_open_of_a_host_goes_on_while_the_host_does_not_answer_and_is_not_told_again() -> None:
    host = factories.make_host("tower", gpus=2)
    cards = [{**host.reading["gpus"][0], "fault": "GPU is lost."}, host.reading["gpus"][1]]
    Host.objects.filter(pk=host.pk).update(facts={**host.facts, "home": "/data/pilothouse"})
    change_reading(host, gpus=cards)
    set_disk(host, 12)
    open_now = [("disk", "/data on tower", "critical"), ("gpu_lost", "GPU 0 on tower", "critical")]
    assert look() == open_now
    Host.objects.filter(pk=host.pk).update(last_seen_at=ago(50))
    for _ in range(2):
        be_calm()
        assert look() == open_now, "nobody knows that it is well"
    Host.objects.filter(pk=host.pk).update(last_seen_at=timezone.now())
    assert look() == open_now
    assert Alert.objects.count() == 2
    change_reading(host, gpus=[{**cards[0], "fault": None}, cards[1]])
    set_disk(host, 500)
    be_calm()
    assert look() == []


def test_what_is_open_of_a_host_that_was_removed_is_over() -> None:
    host = factories.make_host("tower", gpus=1)
    change_reading(host, gpus=[{**host.reading["gpus"][0], "fault": "GPU is lost."}])
    assert look() == [("gpu_lost", "GPU 0 on tower", "critical")]
    host.delete()
    be_calm()
    assert look() == []


# --- Disks ------------------------------------------------------------------------------------------------------------


def set_disk(host: Host, free_gib: float, total_gib: float = 1000) -> None:
    used = int((total_gib - free_gib) * GIB)
    root = {"mount": "/", "used_bytes": int(total_gib * GIB), "total_bytes": int(total_gib * GIB)}
    data = {"mount": "/data", "used_bytes": used, "total_bytes": int(total_gib * GIB)}
    change_reading(host, disks=[root, data])


def test_the_disk_of_the_home_folder_has_two_limits_and_some_room_between_begin_and_end() -> None:
    host = factories.make_host("tower")
    Host.objects.filter(pk=host.pk).update(facts={**host.facts, "home": "/data/pilothouse"})
    set_disk(host, 51)
    assert look() == [], "the other disk is full, and is nobody's home"
    set_disk(host, 49)
    assert look() == [("disk", "/data on tower", "warning")]
    assert "49.0 GiB left of 1000" in Alert.objects.get().message
    set_disk(host, 52)
    be_calm()
    assert look() == [("disk", "/data on tower", "warning")], "not enough to say that it is well again"
    set_disk(host, 12)
    assert look() == [("disk", "/data on tower", "critical")]
    set_disk(host, 13)
    assert look() == [("disk", "/data on tower", "critical")], "it stays as urgent as it was at its worst"
    assert Alert.objects.get().count == 2
    set_disk(host, 60)
    be_calm()
    assert look() == []


def test_of_a_small_disk_the_room_in_gib_counts() -> None:
    host = factories.make_host("tower")
    Host.objects.filter(pk=host.pk).update(facts={**host.facts, "home": "/data/pilothouse"})
    set_disk(host, 9, total_gib=50)
    assert look() == [("disk", "/data on tower", "warning")]
    settings.put(SYSTEM, "alerts.disk_free_gib", 1)
    be_calm()
    assert look() == []


# --- The queue --------------------------------------------------------------------------------------------------------


def wait_long(job: Job, minutes: float = 31) -> None:
    Job.objects.filter(pk=job.pk).update(created_at=ago(minutes * 60))


def test_a_queue_in_which_nothing_moves_is_stuck_and_says_what_it_waits_for() -> None:
    job = factories.make_job("fetch", title="a model", waiting_reason="waits for a host: none answers")
    wait_long(job, 29)
    assert look() == []
    wait_long(job)
    assert look() == [("queue_stuck", "queue of light jobs", "warning")]
    message = Alert.objects.get().message
    assert "waits for a host: none answers" in message
    assert "“a model”" in message
    Job.objects.filter(pk=job.pk).update(status=Status.RUNNING)
    be_calm()
    assert look() == []


def test_a_file_that_is_never_whole_is_a_stuck_inbox_until_it_is_taken() -> None:
    row = InboxFile.objects.create(filename="chats.jsonl", reason="A program has it open for writing.")
    assert look() == []
    InboxFile.objects.filter(pk=row.pk).update(seen_at=ago(61 * 60))
    assert look() == [("inbox_stuck", f"inbox file {row.pk}", "warning")]
    assert "A program has it open for writing." in Alert.objects.get().message
    InboxFile.objects.filter(pk=row.pk).update(state="validating")
    be_calm()
    assert look() == []


def test_jobs_behind_one_that_works_are_not_stuck_and_another_lane_does_not_help() -> None:
    host = factories.make_host("tower")
    first = factories.make_run(status=Status.RUNNING).job
    Attempt.objects.create(job=first, number=1, host=host)
    wait_long(factories.make_run().job)
    assert look() == []
    wait_long(factories.make_job("fetch"))
    assert look() == [("queue_stuck", "queue of light jobs", "warning")]


def test_jobs_behind_one_that_tells_nothing_any_more_are_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    first = factories.make_run(status=Status.RUNNING).job
    attempt = Attempt.objects.create(job=first, number=1, host=factories.make_host("tower"))
    wait_long(factories.make_run().job)
    clock = [0.0]
    watch = alert_watch.QueueWatch()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    assert list(watch.findings()) == []
    clock[0] = 1801.0
    assert [finding.subject for finding in watch.findings()] == ["queue of train jobs"]
    Attempt.objects.filter(pk=attempt.pk).update(offset=10)
    assert list(watch.findings()) == []


def test_a_job_that_may_not_start_yet_does_not_wait() -> None:
    job = factories.make_job("fetch", not_before=timezone.now())
    wait_long(job, 600)
    assert look() == []


# --- Engines ----------------------------------------------------------------------------------------------------------


def test_an_active_engine_that_does_not_answer_is_down() -> None:
    deployment = factories.make_deployment(factories.make_model("talker"), is_active=True, ready_at=ago(600))
    Deployment.objects.filter(pk=deployment.pk).update(status=DeploymentStatus.STARTING, created_at=ago(700))
    attempt = Attempt.objects.create(job=deployment.job, number=2, host=factories.make_host("tower"))
    assert look() == [], "it has just been started again"
    Attempt.objects.filter(pk=attempt.pk).update(created_at=ago(61))
    assert look() == [("engine_down", "engine of talker", "critical")]
    Deployment.objects.update(status=DeploymentStatus.READY)
    be_calm()
    assert look() == []


def test_an_engine_that_failed_is_told_once_and_ends_with_the_next_activation() -> None:
    model = factories.make_model("talker")
    failed = factories.make_deployment(model, status=DeploymentStatus.FAILED, error="No memory.", ended_at=ago(1))
    assert look() == [("engine_failed", f"deployment {failed.pk}", "critical")]
    assert "No memory." in Alert.objects.get().message
    alerts.acknowledge(SYSTEM, Alert.objects.get().pk)
    assert look() == []
    factories.make_deployment(model, status=DeploymentStatus.FAILED, error="No memory.", ended_at=ago(1))
    look()
    factories.make_deployment(model, status=DeploymentStatus.STARTING)
    assert look() == []
    assert Alert.objects.count() == 2


def test_a_failed_activation_beside_an_engine_that_serves_is_less_urgent() -> None:
    factories.make_deployment(factories.make_model("old"), is_active=True)
    factories.make_deployment(factories.make_model("new"), status=DeploymentStatus.FAILED, ended_at=ago(1))
    assert [severity for _rule, _subject, severity in look()] == ["warning"]
    assert "old serves meanwhile" in Alert.objects.get().message


# --- All of them ------------------------------------------------------------------------------------------------------


def test_a_check_that_fails_does_not_keep_the_others_from_being_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> list[alert_watch.Finding]:
        raise RuntimeError("a reading of another kind")

    monkeypatch.setitem(alert_watch.CHECKS, "gpu_lost", broken)
    factories.make_host("tower", fault="Away.", last_seen_at=ago(100))
    assert look() == [("host_offline", "tower", "critical")]
    assert "gpu_lost" in caplog.text


@pytest.mark.parametrize(
    ("module", "step", "still_open"),
    [
        (alerts, "end_switched_off", {"host_offline", "engine_failed", "power_drift"}),
        (alert_watch, "fire_failed_engines", {"host_offline"}),
        (run_alerts, "end_of_deleted_runs", {"host_offline", "engine_failed", "run_failed"}),
        (alert_routes, "plan_reminders", {"host_offline", "engine_failed"}),
    ],
)
def test_a_step_that_fails_does_not_keep_the_others_from_being_made(
    module: Any, step: str, still_open: set[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("a row of another kind")

    factories.make_host("tower", fault="Away.", last_seen_at=ago(100))
    factories.make_deployment(factories.make_model("talker"), status=DeploymentStatus.FAILED, ended_at=ago(1))
    Alert.objects.create(rule="run_failed", subject="run 99", severity="warning", message="Of a run that is gone.")
    Alert.objects.create(rule="power_drift", subject="GPU 0", severity="warning", message="Of a rule that is off.")
    settings.put(SYSTEM, alert_rules.OFF, "power_drift")
    monkeypatch.setattr(module, step, broken)
    assert {rule for rule, _subject, _severity in look()} == still_open
    assert "a row of another kind" in caplog.text


def test_a_rule_that_is_switched_off_looks_in_vain() -> None:
    factories.make_host("tower", fault="Away.", last_seen_at=ago(100))
    look()
    alert_rules.switch(SYSTEM, "host_offline", False)
    assert look() == []


def test_every_check_belongs_to_a_rule() -> None:
    assert set(alert_watch.CHECKS) <= set(alert_rules.BY_KEY)
