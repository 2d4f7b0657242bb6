"""Alerts: one for one trouble, counted, ended, acknowledged, switched off, forgotten."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.errors import ForbiddenError, NotFoundError
from controlplane.models import Alert, AuditLine, LiveMessage
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.services import alert_rules, alerts, settings

pytestmark = pytest.mark.django_db
READER = Actor("reader", Role.READ)
USER = Actor("user", Role.USE)


def told() -> list[LiveMessage]:
    return list(LiveMessage.objects.filter(topic_id="alerts").order_by("seq"))


def test_the_same_trouble_is_one_alert_that_is_counted() -> None:
    first = alerts.fire("disk", "/ on tower", "warning", "Little room.", fix="Delete runs.", url="/hosts/tower/")
    again = alerts.fire("disk", "/ on tower", "warning", "Little room.", fix="Delete runs.", url="/hosts/tower/")
    assert (again.pk, again.count, again.url) == (first.pk, 2, "/hosts/tower/")
    assert again.last_at > first.last_at
    assert len(told()) == 1, "pages are told of what is new alone"


def test_what_is_new_about_an_open_alert_is_told() -> None:
    alerts.fire("disk", "/ on tower", "warning", "5 GiB left.")
    alerts.fire("disk", "/ on tower", "critical", "1 GiB left.")
    assert [(message.data["severity"], message.data["count"]) for message in told()] == [
        ("warning", 1),
        ("critical", 2),
    ]


def test_an_alert_that_gets_worse_wants_to_be_seen_again() -> None:
    alert = alerts.fire("disk", "/ on tower", "warning", "5 GiB left.")
    alerts.acknowledge(USER, alert.pk)
    assert alerts.unseen_count() == 0
    assert alerts.fire("disk", "/ on tower", "critical", "1 GiB left.").acknowledged_at is None
    assert alerts.unseen_count() == 1


def test_other_subjects_and_what_comes_after_an_end_are_alerts_of_their_own() -> None:
    first = alerts.fire("gpu_lost", "GPU 0 on tower", "critical", "Gone.")
    assert alerts.fire("gpu_lost", "GPU 1 on tower", "critical", "Gone.").pk != first.pk
    assert alerts.end("gpu_lost", "GPU 0 on tower")
    assert not alerts.end("gpu_lost", "GPU 0 on tower"), "it is over already"
    assert alerts.fire("gpu_lost", "GPU 0 on tower", "critical", "Gone.").pk != first.pk
    assert Alert.objects.filter(subject="GPU 0 on tower").count() == 2


def test_keeping_an_alert_open_counts_nothing_and_tells_nobody() -> None:
    alert = alerts.fire("engine_down", "engine of m", "critical", "It is failed.")
    assert alerts.keep("engine_down", "engine of m")
    alert.refresh_from_db()
    assert (alert.count, len(told())) == (1, 1)
    assert not alerts.keep("engine_down", "engine of another")


def test_good_news_never_stands_open_and_an_event_ends_when_it_is_acknowledged() -> None:
    assert alerts.fire("run_finished", "run 1", "info", "Done.").ended_at is not None
    failed = alerts.fire("run_failed", "run 2", "warning", "Out of memory.")
    assert failed.ended_at is None
    assert alerts.acknowledge(USER, failed.pk).ended_at is not None


def test_a_state_that_is_acknowledged_goes_on() -> None:
    alert = alerts.fire("host_offline", "tower", "critical", "Away.")
    seen = alerts.acknowledge(USER, alert.pk)
    assert (seen.ended_at, seen.acknowledged_by) == (None, "user")
    assert AuditLine.objects.get().action == "alert.acknowledge"
    alerts.acknowledge(SYSTEM, alert.pk)
    assert alerts.get(alert.pk).acknowledged_by == "user", "whoever was first has seen it"
    with pytest.raises(ForbiddenError):
        alerts.acknowledge(READER, alert.pk)
    with pytest.raises(NotFoundError):
        alerts.acknowledge(USER, 999)


def test_a_rule_that_is_switched_off_makes_no_alert_and_ends_what_is_open() -> None:
    alerts.fire("disk", "/ on tower", "warning", "Little room.")
    alert_rules.switch(SYSTEM, "disk", False)
    alert_rules.switch(SYSTEM, "gpu_lost", False)
    assert alert_rules.switched_off() == {"disk", "gpu_lost"}
    assert alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.").pk is None
    alerts.end_switched_off()
    assert not alerts.open_alerts().exists()
    alert_rules.switch(SYSTEM, "gpu_lost", True)
    assert alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.").pk
    with pytest.raises(ForbiddenError):
        alert_rules.switch(USER, "disk", True)
    with pytest.raises(NotFoundError):
        alert_rules.switch(SYSTEM, "nothing", True)


def test_open_alerts_stand_in_order_of_urgency() -> None:
    for rule, severity in (("disk", "warning"), ("gpu_lost", "critical"), ("power_drift", "info")):
        alerts.fire(rule, "x", severity, "A sentence.")
    assert [alert.severity for alert in alerts.open_alerts()] == ["critical", "warning", "info"]


def test_alerts_that_ended_long_ago_are_forgotten() -> None:
    for name, days in (("old", 91), ("young", 89)):
        alerts.fire("disk", name, "warning", "Little room.")
        alerts.end("disk", name)
        Alert.objects.filter(subject=name).update(ended_at=timezone.now() - timedelta(days=days))
    alerts.fire("disk", "open", "warning", "Little room.")
    Alert.objects.filter(subject="open").update(created_at=timezone.now() - timedelta(days=400))
    assert alerts.prune() == 1
    assert set(Alert.objects.values_list("subject", flat=True)) == {"young", "open"}
    settings.put(SYSTEM, "alerts.keep_days", 10)
    assert alerts.prune() == 1


def test_every_rule_has_a_title_and_limits_that_are_settings() -> None:
    for rule in alert_rules.RULES:
        assert rule.title and rule.description.endswith(".")
        assert all(key in settings.DEFAULTS for key in rule.limits)
    assert len(alert_rules.BY_KEY) == len(alert_rules.RULES)
    assert alert_rules.title("some_other") == "Some other"
