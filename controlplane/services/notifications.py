"""Alerts on their way to mail and messengers. Runs in the web process, in the duty `notifications`.

What is due for a route goes out together, as one message in a process of its own: a service that hangs holds up neither
the others nor the web process. Deliveries are claimed by compare-and-set with a lease: what a web server that was
killed had begun is sent again when the lease is over, so a message may come twice in that case, and is never lost.
"""

import logging
import time
from datetime import timedelta
from typing import TypedDict

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from controlplane.live.announce import publish
from controlplane.models import Alert, AlertDelivery, AlertRoute
from controlplane.models.access import Actor
from controlplane.models.alerts import RANK, DeliveryEvent, DeliveryStatus, Severity
from controlplane.services import alert_routes, alert_rules, sending, settings
from controlplane.services.access import audit

log = logging.getLogger(__name__)
BACK_OFF_SECONDS = (10, 60, 300, 900, 3600)
MAX_TRIES = 10
AT_ONCE = 4
"""How many messages are on their way at the same time: each takes a second of a core to start."""

LEASE = timedelta(seconds=sending.DEADLINE_SECONDS + 2 * sending.GRACE_SECONDS)
TEST_DEADLINE_SECONDS = 12.0
MAX_LINES = 20
KINDS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}


class RouteTest(TypedDict):
    """What became of a test message. `error` is a sentence where it was not taken."""

    sent: bool
    error: str
    seconds: float


class _Sender:
    """The messages that are on their way, by route. What it forgets when the process ends, the leases bring back."""

    def __init__(self) -> None:
        self._going: dict[int, tuple[sending.Sending, list[int]]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether anything is on its way."""
        return bool(self._going)

    def round(self) -> None:
        """Writes down what has arrived or failed, then starts what is due."""
        for route_id, (message, delivery_ids) in list(self._going.items()):
            error = message.error()
            if error is not None:
                del self._going[route_id]
                _record(route_id, delivery_ids, error)
        for route in _routes_with_something_due():
            if len(self._going) >= AT_ONCE:
                return
            if route.pk not in self._going:
                self._start(route)

    def _start(self, route: AlertRoute) -> None:
        claimed = _claim(route)
        if claimed:
            title, body, kind = compose(claimed)
            message = sending.Sending(route.url, title, body, kind)
            self._going[route.pk] = (message, [delivery.pk for delivery in claimed])


_sender = _Sender()


def send_pending() -> bool:
    """One round of sending; returns whether anything is on its way. Only one thread calls it (the duty)."""
    _sender.round()
    return _sender.is_busy


def test(actor: Actor, route_id: int) -> RouteTest:
    """Sends a real message over a route now (admin), and waits for what becomes of it."""
    route = alert_routes.get(actor, route_id)
    began = time.monotonic()
    body = f"This is a test of the route “{route.name}”, asked for by {actor.name}. Alerts will come this way."
    error = sending.Sending(route.url, "Pilothouse: test", body, "info", TEST_DEADLINE_SECONDS).wait()
    with transaction.atomic():
        fields = {"last_error": error} if error else {"last_error": "", "last_sent_at": timezone.now()}
        AlertRoute.objects.filter(pk=route_id).update(**fields)
        audit(actor, "alert_route.test", route.name, sent=not error)
    return RouteTest(sent=not error, error=error, seconds=round(time.monotonic() - began, 2))


def _due() -> "QuerySet[AlertDelivery]":
    waiting = Q(status__in=(DeliveryStatus.WAITING, DeliveryStatus.SENDING), not_before__lte=timezone.now())
    return AlertDelivery.objects.filter(waiting, route__is_enabled=True)


def _routes_with_something_due() -> list[AlertRoute]:
    """Whoever has waited longest first."""
    order: dict[int, None] = dict.fromkeys(_due().order_by("not_before").values_list("route_id", flat=True))
    routes = AlertRoute.objects.in_bulk(list(order))
    return [routes[pk] for pk in order if pk in routes]


def _claim(route: AlertRoute) -> list[AlertDelivery]:
    """What is due for a route, taken by us until the lease is over."""
    with transaction.atomic():
        rows = list(_due().filter(route=route).select_related("alert").order_by("id"))
        until = timezone.now() + LEASE
        return [
            row for row in rows
            if AlertDelivery.objects.filter(pk=row.pk, status=row.status, not_before=row.not_before).update(
                status=DeliveryStatus.SENDING, not_before=until, tries=F("tries") + 1
            )
        ]  # fmt: skip


def _record(route_id: int, delivery_ids: list[int], error: str) -> None:
    now = timezone.now()
    with transaction.atomic():
        rows = AlertDelivery.objects.filter(pk__in=delivery_ids, status=DeliveryStatus.SENDING)
        if not error:
            rows.update(status=DeliveryStatus.SENT, sent_at=now, error="")
            AlertRoute.objects.filter(pk=route_id).update(last_error="", last_sent_at=now)
        else:
            for row in rows:
                _record_failure(row, error)
            AlertRoute.objects.filter(pk=route_id).update(last_error=error)
        publish("alerts", "delivery", {"route": route_id})
    if error:  # why is for admins alone to read, where the log and the topic are everybody's: it names hosts
        log.warning("route %s: %d alerts could not be sent; Alerts › Routes says why", route_id, len(delivery_ids))


def _record_failure(row: AlertDelivery, error: str) -> None:
    given_up = row.tries >= MAX_TRIES
    pause = BACK_OFF_SECONDS[min(row.tries, len(BACK_OFF_SECONDS)) - 1]
    AlertDelivery.objects.filter(pk=row.pk).update(
        status=DeliveryStatus.FAILED if given_up else DeliveryStatus.WAITING,
        not_before=timezone.now() + timedelta(seconds=pause), error=error,
    )  # fmt: skip


# --- What a message says ----------------------------------------------------------------------------------------------


def compose(deliveries: list[AlertDelivery]) -> tuple[str, str, str]:
    """Title, text and Apprise's kind of the one message that tells these deliveries."""
    begun = [row.alert for row in deliveries if row.event != DeliveryEvent.ENDED]
    over = len(begun) == 0 or all(alert.ended_at and not alert_rules.is_event(alert.rule) for alert in begun)
    worst = max((row.alert.severity for row in deliveries), key=lambda word: RANK[word])
    kind = "success" if over else KINDS[Severity(worst)]
    if len(deliveries) == 1:
        return f"Pilothouse: {_headline(deliveries[0])}", _text(deliveries[0]), kind
    lines = [f"{_headline(row)}\n{_text(row)}" for row in deliveries[:MAX_LINES]]
    if len(deliveries) > MAX_LINES:
        lines.append(f"… and {len(deliveries) - MAX_LINES} more: see the page Alerts.")
    counts = ", ".join(
        f"{sum(alert.severity == word for alert in begun)} {word}"
        for word in sorted({alert.severity for alert in begun}, key=lambda word: -RANK[word])
    )
    return f"Pilothouse: {len(deliveries)} alerts" + (f" ({counts})" if counts else ""), "\n\n".join(lines), kind


def _headline(row: AlertDelivery) -> str:
    alert = row.alert
    title = f"{alert_rules.title(alert.rule)}: {alert.subject}"
    if row.event == DeliveryEvent.ENDED:
        return f"[over] {title}"
    return f"[{alert.severity}] {title}" + (" (still)" if row.event == DeliveryEvent.REMINDER else "")


def _text(row: AlertDelivery) -> str:
    alert = row.alert
    began = timezone.localtime(alert.created_at)
    lines = [alert.message, alert.fix] if row.event != DeliveryEvent.ENDED else [f"It was: {alert.message}"]
    if alert.ended_at and not alert_rules.is_event(alert.rule):
        ended = timezone.localtime(alert.ended_at)
        lines.append(f"It went on from {began:%Y-%m-%d %H:%M:%S} to {ended:%H:%M:%S}.")
    else:
        lines.append(f"Since {began:%Y-%m-%d %H:%M:%S %Z}.")
    return "\n".join([*filter(None, lines), *_link(alert)])


def _link(alert: Alert) -> list[str]:
    base = str(settings.get("alerts.public_url")).rstrip("/")
    return [base + (alert.url or "/alerts/")] if base else []
