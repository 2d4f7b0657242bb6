"""Alerts on their way: to a real web hook through Apprise's own process, or not, and why."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone

from controlplane.models import AlertDelivery, AlertRoute, AuditLine, LiveMessage
from controlplane.models.access import SYSTEM
from controlplane.models.alerts import DeliveryEvent, DeliveryStatus
from controlplane.services import alert_routes, alert_rules, alerts, notifications, sending, settings
from controlplane.services.alert_routes import RouteWish
from tests.controlplane.receivers import Receiver, mail_arriving, receiving
from tests.product import wait_for

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def new_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """A web process that has just started: nothing is on its way."""
    monkeypatch.setattr(notifications, "_sender", notifications._Sender())


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


class PostBox:
    """Takes every message at once, without a process, or `refuses` all: for tests of what is sent when."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        self.refuses = ""

    def __call__(self, _url: str, title: str, body: str, kind: str) -> "PostBox":
        if not self.refuses:
            self.messages.append({"title": title, "message": body, "type": kind})
        return self

    def error(self) -> str:
        return self.refuses

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]


@pytest.fixture
def post_box(monkeypatch: pytest.MonkeyPatch) -> PostBox:
    box = PostBox()
    monkeypatch.setattr(sending, "Sending", box)
    return box


def make_route(url: str = "json://127.0.0.1:9/x", name: str = "hook", /, **fields: Any) -> AlertRoute:
    """A route as `alert_routes.create` stores it, without asking Apprise."""
    known = {"masked_url": "json://127.0.0.1/****", "service": "JSON", "created_by": "somebody"}
    return AlertRoute.objects.create(name=name, url=url, **{**known, **fields})


def deliver() -> None:
    """Rounds of sending until nothing is on its way."""
    notifications.send_pending()
    wait_for("the messages to arrive or fail", lambda: not notifications.send_pending(), 30)


def states() -> list[tuple[str, str]]:
    return list(AlertDelivery.objects.order_by("id").values_list("event", "status"))


def shift(**by: float) -> None:
    """As if that much time had gone by for every delivery."""
    for row in AlertDelivery.objects.all():
        row.not_before -= timedelta(**by)
        row.sent_at = row.sent_at and row.sent_at - timedelta(**by)
        row.save()


# --- What arrives -----------------------------------------------------------------------------------------------------


def test_an_alert_and_its_end_arrive_once_each(receiver: Receiver) -> None:
    make_route(receiver.url)
    settings.put(SYSTEM, "alerts.public_url", "https://panel.example/")
    for _ in range(3):
        alerts.fire("gpu_lost", "GPU 0 on tower", "critical", "GPU 0 is gone.", fix="Reboot.", url="/hosts/tower/")
    deliver()
    alerts.end("gpu_lost", "GPU 0 on tower")
    deliver()
    deliver()
    first, last = receiver.messages
    assert receiver.paths == ["/hook/very-secret-path"] * 2
    assert (first["title"], first["type"]) == ("Pilothouse: [critical] GPU lost: GPU 0 on tower", "failure")
    assert first["message"].splitlines()[:2] == ["GPU 0 is gone.", "Reboot."]
    assert first["message"].splitlines()[-1] == "https://panel.example/hosts/tower/"
    assert (last["title"], last["type"]) == ("Pilothouse: [over] GPU lost: GPU 0 on tower", "success")
    assert states() == [("fired", "sent"), ("ended", "sent")]
    assert AlertRoute.objects.get().last_sent_at is not None


def test_what_comes_together_goes_out_as_one_message(post_box: PostBox) -> None:
    make_route(minimum_severity="info")
    for number in range(25):
        alerts.fire("disk", f"disk {number}", "warning", "Little room.")
    alerts.fire("run_finished", "run 1", "info", "Run 1 is done.")
    deliver()
    (message,) = post_box.messages
    assert message["title"] == "Pilothouse: 26 alerts (25 warning, 1 info)"
    assert "and 6 more" in message["message"]
    assert {status for _event, status in states()} == {"sent"}


def test_a_route_gets_what_it_asks_for(post_box: PostBox) -> None:
    make_route("json://h/x", "all", minimum_severity="info")
    make_route("json://h/x", "urgent", minimum_severity="critical")
    make_route("json://h/x", "runs", minimum_severity="info", rules=["run_failed", "run_finished"])
    make_route("json://h/x", "off", is_enabled=False)
    alerts.fire("run_finished", "run 1", "info", "Done.")
    alerts.fire("disk", "/", "critical", "Full.")
    wanted = AlertDelivery.objects.values_list("route__name", "alert__rule")
    assert set(wanted) == {
        ("all", "run_finished"), ("all", "disk"), ("urgent", "disk"), ("runs", "run_finished")
    }  # fmt: skip


# --- What doesn't -----------------------------------------------------------------------------------------------------


SECRETS = ("hidden-word", "very-secret-path", "also-secret")


def secret_url(receiver: Receiver) -> str:
    """An address of the receiver's with all SECRETS in it."""
    return f"json://somebody:hidden-word@127.0.0.1:{receiver.port}/hook/very-secret-path?-key=also-secret"


def test_a_receiver_that_fails_is_tried_again_later_and_told_then(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    make_route(secret_url(receiver))
    receiver.status = 503
    alerts.fire("disk", "/", "warning", "Little room.")
    deliver()
    row = AlertDelivery.objects.get()
    assert (row.status, row.tries) == (DeliveryStatus.WAITING, 1)
    assert "503" in row.error
    assert "could not be sent" in caplog.text
    assert [word for word in SECRETS if word in row.error + caplog.text] == []
    assert timezone.now() < row.not_before < timezone.now() + timedelta(seconds=11)
    assert AlertRoute.objects.get().last_error == row.error
    deliver()
    assert len(receiver.paths) == 1, "not before its time"
    receiver.status = 200
    shift(seconds=11)
    deliver()
    assert receiver.titles == ["Pilothouse: [warning] Disk nearly full: /"]
    assert states() == [("fired", "sent")]
    assert AlertRoute.objects.get().last_error == ""


def test_after_many_tries_it_is_given_up_and_the_pauses_grow(post_box: PostBox) -> None:
    make_route()
    alerts.fire("disk", "/", "warning", "Little room.")
    row = AlertDelivery.objects.get()
    pauses = []
    for tries in range(1, notifications.MAX_TRIES + 1):
        AlertDelivery.objects.update(status=DeliveryStatus.SENDING, tries=tries)
        notifications._record(row.route_id, [row.pk], "It did not answer.")
        row.refresh_from_db()
        pauses.append(round((row.not_before - timezone.now()).total_seconds(), -1))
    assert pauses[:6] == [10, 60, 300, 900, 3600, 3600]
    assert row.status == DeliveryStatus.FAILED
    alerts.end("disk", "/")
    assert states() == [("fired", "failed")], "nobody hears of the end of what they never heard of"


def give_up(post_box: PostBox) -> None:
    """As many tries as it takes until what is due counts as failed; the service is well again afterwards."""
    post_box.refuses = "It did not answer."
    for _ in range(notifications.MAX_TRIES):
        deliver()
        shift(hours=1)
    assert {status for _event, status in states()} == {"failed"}
    post_box.refuses = ""


@pytest.mark.parametrize("minutes", [60, 0])
def test_what_was_given_up_is_tried_again_for_as_long_as_it_goes_on(post_box: PostBox, minutes: float) -> None:
    make_route()
    settings.put(SYSTEM, "alerts.remind_minutes", minutes)
    alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.")
    alerts.fire("disk", "/", "warning", "Little room.")
    give_up(post_box)
    post_box.refuses = "Still away."
    alert_routes.plan_reminders()
    deliver()
    assert states() == [("fired", "failed")] * 2
    alert_routes.plan_reminders()
    assert states() == [("fired", "failed")] * 2, "not before its time"
    shift(hours=1)
    post_box.refuses = ""
    alert_routes.plan_reminders()
    deliver()
    assert post_box.titles == ["Pilothouse: 2 alerts (1 critical, 1 warning)"]
    alerts.end("gpu_lost", "GPU 0")
    deliver()
    assert post_box.titles[1:] == ["Pilothouse: [over] GPU lost: GPU 0"]


def test_what_was_given_up_rests_where_nobody_would_miss_it(post_box: PostBox) -> None:
    route = make_route()
    seen = alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.")
    alerts.fire("gpu_lost", "GPU 1", "critical", "Gone.")
    alerts.fire("disk", "/", "warning", "Little room.")
    give_up(post_box)
    alerts.acknowledge(SYSTEM, seen.pk)
    alerts.end("gpu_lost", "GPU 1")
    AlertRoute.objects.filter(pk=route.pk).update(minimum_severity="critical")
    alert_routes.plan_reminders()
    assert states() == [("fired", "failed")] * 3


def test_what_was_given_up_and_is_not_critical_waits_for_the_end_of_the_quiet_hours(post_box: PostBox) -> None:
    make_route()
    alerts.fire("disk", "/", "warning", "Little room.")
    give_up(post_box)
    AlertRoute.objects.update(**hours_around_now())
    alert_routes.plan_reminders()
    deliver()
    assert states() == [("fired", "waiting")]
    assert post_box.messages == []


def test_what_was_given_up_and_gets_critical_is_told_at_once_and_so_is_its_end(post_box: PostBox) -> None:
    make_route()
    alerts.fire("disk", "/", "warning", "5 GiB left.")
    give_up(post_box)
    alerts.fire("disk", "/", "critical", "1 GiB left.")
    deliver()
    assert post_box.titles == ["Pilothouse: [critical] Disk nearly full: /"]
    alerts.end("disk", "/")
    deliver()
    assert post_box.titles[1:] == ["Pilothouse: [over] Disk nearly full: /"]


def test_pages_and_the_log_tell_that_something_was_not_sent_and_nothing_of_the_route(
    post_box: PostBox, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody who may read hears the topic and sees the log; what a route's service says is the admins' to see."""
    route = make_route()
    alerts.fire("disk", "/", "warning", "Little room.")
    post_box.refuses = "Connection to intranet-host:8443 refused."
    deliver()
    told = LiveMessage.objects.filter(topic="alerts", kind="delivery").values_list("data", flat=True)
    assert list(told) == [{"route": route.pk}]
    assert "could not be sent" in caplog.text
    assert "intranet-host" not in caplog.text
    assert "intranet-host" in AlertRoute.objects.get().last_error


def test_a_mail_is_plain_text_with_its_lines_whatever_a_run_is_called() -> None:
    with mail_arriving() as (port, mails):
        make_route(f"mailto://user:hidden@127.0.0.1:{port}?from=panel@example.org&to=watch@example.org&mode=insecure")
        alerts.fire(
            "run_failed", "run 7", "warning", "Run 7 “<img src=http://evil.example/x>” has failed.", fix="Try\nagain."
        )
        deliver()
    assert states() == [("fired", "sent")], AlertDelivery.objects.get().error
    (mail,) = mails
    assert [part.get_content_type() for part in mail.walk()] == ["text/plain"]
    lines = mail.get_content().splitlines()
    assert lines[:3] == ["Run 7 “<img src=http://evil.example/x>” has failed.", "Try", "again."]
    assert lines[3].startswith("Since ")


def test_a_hung_receiver_holds_up_nobody_and_is_ended(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sending.Sending
    with receiving() as hung:
        hung.hangs = True
        monkeypatch.setattr(
            sending, "Sending", lambda url, *told: whole(url, *told, *([0.5] if url == hung.url else []))
        )
        make_route(hung.url, "hung")
        make_route(receiver.url, "well")
        alerts.fire("disk", "/", "warning", "Little room.")
        notifications.send_pending()
        assert states() == [("fired", "sending")] * 2, "both are on their way at once"
        deliver()
    hung_row = AlertDelivery.objects.get(route__name="hung")
    assert (hung_row.status, AlertDelivery.objects.get(route__name="well").status) == ("waiting", "sent")
    assert "did not" in hung_row.error, hung_row.error


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither Apprise's own limit nor its alarm has ended it."""
    start = subprocess.Popen
    sleeping = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(subprocess, "Popen", lambda _arguments, **options: start(sleeping, **options))
    monkeypatch.setattr(sending, "GRACE_SECONDS", 0.1)
    message = sending.Sending("json://h/x", "t", "b", "info", 0.1)
    assert wait_for("its end", message.error, 10) == "The service did not answer within 0.1 s."


def test_an_alert_that_is_over_before_it_could_be_told_is_one_message(post_box: PostBox) -> None:
    make_route()
    alerts.fire("disk", "/", "warning", "Little room.")
    alerts.end("disk", "/")
    deliver()
    (message,) = post_box.messages
    assert "It went on from" in message["message"]
    assert message["type"] == "success"
    assert states() == [("fired", "sent")]


def test_what_a_killed_web_server_had_begun_is_sent_when_its_lease_is_over(post_box: PostBox) -> None:
    route = make_route()
    alerts.fire("disk", "/", "warning", "Little room.")
    notifications._claim(route)
    deliver()
    assert post_box.messages == [], "somebody may be sending it still"
    shift(seconds=notifications.LEASE.total_seconds())
    deliver()
    assert (len(post_box.messages), states()) == (1, [("fired", "sent")])


def test_two_who_claim_the_same_get_it_once() -> None:
    route = make_route()
    alerts.fire("disk", "/", "warning", "Little room.")
    assert len(notifications._claim(route)) == 1
    assert notifications._claim(route) == []


# --- Quiet hours ------------------------------------------------------------------------------------------------------

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("clock", "begins", "until", "ends"),
    [
        ("2026-03-10 21:59", time(22), time(7), None),
        ("2026-03-10 22:00", time(22), time(7), "2026-03-11 07:00"),
        ("2026-03-11 06:59", time(22), time(7), "2026-03-11 07:00"),
        ("2026-03-11 07:00", time(22), time(7), None),
        ("2026-03-11 13:30", time(13), time(14), "2026-03-11 14:00"),
        ("2026-03-11 14:30", time(13), time(14), None),
        ("2026-03-29 01:30", time(22), time(7), "2026-03-29 07:00"),
    ],
)
def test_quiet_hours_are_of_the_local_day(clock: str, begins: time, until: time, ends: str | None) -> None:
    route = make_route(quiet_from=begins, quiet_until=until)
    with timezone.override(BERLIN):
        moment = datetime.strptime(clock, "%Y-%m-%d %H:%M").replace(tzinfo=BERLIN)
        found = alert_routes.quiet_until(route, moment.astimezone(ZoneInfo("UTC")))
    assert (found and found.strftime("%Y-%m-%d %H:%M")) == ends


def hours_around_now() -> dict[str, Any]:
    """Quiet hours that began an hour ago and end in an hour."""
    now = timezone.localtime()
    return {"quiet_from": (now - timedelta(hours=1)).time(), "quiet_until": (now + timedelta(hours=1)).time()}


def test_in_quiet_hours_only_what_is_critical_goes_out_and_the_rest_comes_together_afterwards(
    post_box: PostBox,
) -> None:
    make_route(minimum_severity="info", **hours_around_now())
    alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.")
    alerts.fire("disk", "/", "warning", "Little room.")
    alerts.fire("power_drift", "GPU 1", "warning", "Another limit.")
    alerts.fire("run_finished", "run 1", "info", "Done.")
    alerts.end("power_drift", "GPU 1")
    deliver()
    assert post_box.titles == ["Pilothouse: [critical] GPU lost: GPU 0"]
    alerts.end("gpu_lost", "GPU 0")
    deliver()
    assert post_box.titles[1:] == ["Pilothouse: [over] GPU lost: GPU 0"], "who was woken hears that it is over"
    shift(hours=1)
    deliver()
    assert post_box.titles[2:] == ["Pilothouse: 3 alerts (2 warning, 1 info)"]
    assert "It went on from" in post_box.messages[2]["message"]


def test_what_gets_critical_in_quiet_hours_waits_no_longer(post_box: PostBox) -> None:
    make_route(**hours_around_now())
    alerts.fire("disk", "/", "warning", "5 GiB left.")
    deliver()
    assert post_box.titles == []
    alerts.fire("disk", "/", "critical", "1 GiB left.")
    deliver()
    assert post_box.titles == ["Pilothouse: [critical] Disk nearly full: /"]


# --- Told again -------------------------------------------------------------------------------------------------------


def test_what_is_critical_is_told_again_every_hour_until_somebody_has_seen_it(post_box: PostBox) -> None:
    make_route()
    alert = alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.")
    alerts.fire("disk", "/", "warning", "Little room.")
    deliver()
    for minutes, arrived in ((30, 1), (31, 2), (30, 2), (31, 3)):
        shift(minutes=minutes)
        alert_routes.plan_reminders()
        alert_routes.plan_reminders()
        deliver()
        assert len(post_box.messages) == arrived
    assert post_box.titles[1:] == ["Pilothouse: [critical] GPU lost: GPU 0 (still)"] * 2
    shift(minutes=61)
    alert_routes.plan_reminders()
    alerts.acknowledge(SYSTEM, alert.pk)
    deliver()
    alert_routes.plan_reminders()
    assert AlertDelivery.objects.get(event=DeliveryEvent.REMINDER).status == DeliveryStatus.DROPPED


def test_reminders_can_be_switched_off() -> None:
    make_route()
    settings.put(SYSTEM, "alerts.remind_minutes", 0)
    alerts.fire("gpu_lost", "GPU 0", "critical", "Gone.")
    AlertDelivery.objects.update(status=DeliveryStatus.SENT, sent_at=timezone.now() - timedelta(days=9))
    alert_routes.plan_reminders()
    assert AlertDelivery.objects.count() == 1


def test_a_warning_that_was_told_and_gets_critical_is_told_again(post_box: PostBox) -> None:
    make_route()
    alerts.fire("disk", "/", "warning", "5 GiB left.")
    deliver()
    alerts.fire("disk", "/", "critical", "1 GiB left.")
    deliver()
    assert post_box.titles[1:] == ["Pilothouse: [critical] Disk nearly full: / (still)"]


# --- Routes -----------------------------------------------------------------------------------------------------------


def test_the_test_button_sends_a_real_message_and_says_what_became_of_it(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    route = make_route(secret_url(receiver))
    outcome = notifications.test(SYSTEM, route.pk)
    assert (outcome["sent"], outcome["error"]) == (True, "")
    assert receiver.titles == ["Pilothouse: test"]
    receiver.status = 500
    refused = notifications.test(SYSTEM, route.pk)
    assert not refused["sent"]
    assert "500" in refused["error"]
    assert alert_routes.get(SYSTEM, route.pk).last_error == refused["error"]
    assert [line.detail["sent"] for line in AuditLine.objects.filter(action="alert_route.test")] == [False, True]
    said = [caplog.text, refused["error"], str(list(AuditLine.objects.values()))]
    assert [word for word in SECRETS if word in str(said)] == []


def test_what_waits_on_a_route_that_is_switched_off_is_dropped() -> None:
    route = make_route()
    alerts.fire("disk", "/", "warning", "Little room.")
    alert_routes.change(SYSTEM, route.pk, RouteWish.of(route, is_enabled=False))
    assert states() == [("fired", "dropped")]
    assert notifications._routes_with_something_due() == []
    alert_routes.change(SYSTEM, route.pk, RouteWish.of(route, is_enabled=True))
    assert notifications._routes_with_something_due() == []


def test_a_rule_that_is_switched_off_sends_nothing() -> None:
    make_route()
    alert_rules.switch(SYSTEM, "disk", False)
    alerts.fire("disk", "/", "critical", "Full.")
    assert states() == []
