"""Alerts: fired, said again, ended, acknowledged, forgotten. Runs in the web process.

The same trouble is one alert: while it goes on, firing it again only counts. Who is told by mail or messenger is
decided in the same transaction (`services.alert_routes`) and sent later, outside of it (`services.notifications`).
"""

from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Case, F, QuerySet, Value, When
from django.utils import timezone

from controlplane.errors import NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Alert
from controlplane.models.access import Actor, Role
from controlplane.models.alerts import RANK, Severity
from controlplane.moments import iso
from controlplane.services import alert_routes, alert_rules, pruning, settings
from controlplane.services.access import audit

MAX_SUBJECT_CHARACTERS = 200


def fire(rule: str, subject: str, severity: str, message: str, *, fix: str = "", url: str = "") -> Alert:
    """Says that something is wrong, or goes on being wrong: an alert that is open already is counted, not made anew.

    `message` is a sentence that names the thing; `fix` what mends it; `url` the page that shows it. Of a rule that is
    switched off nothing is stored: the alert that comes back has no `pk` then.
    """
    told = {"severity": severity, "message": message, "fix": fix, "url": url[:200]}
    subject = subject[:MAX_SUBJECT_CHARACTERS]
    if not alert_rules.is_on(rule):
        return Alert(rule=rule, subject=subject, **told)
    with transaction.atomic():
        return _again(rule, subject, told) or _first(rule, subject, told)


def _first(rule: str, subject: str, told: dict[str, str]) -> Alert:
    now = timezone.now()
    ended = now if told["severity"] == Severity.INFO and alert_rules.is_event(rule) else None
    try:
        with transaction.atomic():
            alert = Alert.objects.create(
                rule=rule, subject=subject, created_at=now, last_at=now, ended_at=ended, **told
            )
    except IntegrityError:  # somebody else has fired it in this very moment
        return _again(rule, subject, told) or _first(rule, subject, told)
    alert_routes.plan(alert)
    publish("alerts", "alert", facts(alert))
    return alert


def _again(rule: str, subject: str, told: dict[str, str]) -> Alert | None:
    """Counts an alert that is open; tells pages and routes only what is new about it."""
    alert = Alert.objects.select_for_update().filter(rule=rule, subject=subject, ended_at=None).first()
    if alert is None:
        return None
    before = facts(alert)
    Alert.objects.filter(pk=alert.pk).update(count=F("count") + 1, last_at=timezone.now(), **told)
    alert.refresh_from_db()
    if any(before[name] != value for name, value in told.items()):
        publish("alerts", "alert", facts(alert))
    if RANK[alert.severity] > RANK[before["severity"]]:
        Alert.objects.filter(pk=alert.pk).update(acknowledged_at=None, acknowledged_by="")
        alert.refresh_from_db()
        alert_routes.plan(alert, worse=True)
    return alert


def keep(rule: str, subject: str) -> bool:
    """Says that an open alert still holds, without counting it. Returns whether it was open."""
    return bool(Alert.objects.filter(rule=rule, subject=subject, ended_at=None).update(last_at=timezone.now()))


def end(rule: str, subject: str) -> bool:
    """Says that it is over. Returns whether such an alert was open."""
    with transaction.atomic():
        alert = open_alerts().select_for_update().filter(rule=rule, subject=subject).first()
        if alert is None:
            return False
        _end(alert)
        if not alert_rules.is_event(rule) and alert_rules.is_on(rule):
            alert_routes.plan_end(alert)
    return True


def _end(alert: Alert) -> None:
    alert.ended_at = timezone.now()
    alert.save(update_fields=["ended_at"])
    publish("alerts", "alert", facts(alert))


def acknowledge(actor: Actor, alert_id: int) -> Alert:
    """Somebody has seen it: it is no longer counted, and no reminder goes out. An event's alert ends with that."""
    actor.require(Role.USE)
    with transaction.atomic():
        Alert.objects.select_for_update().filter(pk=alert_id).first()
        alert = get(alert_id)
        if alert.acknowledged_at is not None:
            return alert
        alert.acknowledged_at, alert.acknowledged_by = timezone.now(), actor.name
        alert.save(update_fields=["acknowledged_at", "acknowledged_by"])
        alert_routes.drop_reminders(alert)
        audit(actor, "alert.acknowledge", f"alert {alert.pk}", rule=alert.rule, subject=alert.subject)
        if alert.ended_at is None and alert_rules.is_event(alert.rule):
            _end(alert)
        else:
            publish("alerts", "alert", facts(alert))
    return alert


def end_switched_off() -> None:
    """Ends what is open of rules that have been switched off; nobody is told of it."""
    off = alert_rules.switched_off()
    if not off:
        return
    with transaction.atomic():
        for alert in open_alerts().filter(rule__in=off):
            _end(alert)


def prune() -> int:
    """Forgets alerts that ended long ago, with their deliveries. Returns how many."""
    before = timezone.now() - timedelta(days=settings.get("alerts.keep_days"))
    return pruning.delete_slowly(Alert.objects.filter(ended_at__lt=before), pruning.AT_ONCE)


# --- Looking ----------------------------------------------------------------------------------------------------------


def get(alert_id: int) -> Alert:
    """The alert. Raises NotFoundError."""
    alert = Alert.objects.filter(pk=alert_id).first()
    if alert is None:
        raise NotFoundError(f"There is no alert {alert_id}.")
    return alert


def open_alerts() -> "QuerySet[Alert]":
    """What goes on now: the most urgent first, of those the newest."""
    urgency = Case(*(When(severity=word, then=Value(-rank)) for word, rank in RANK.items()), default=Value(0))
    return Alert.objects.filter(ended_at=None).order_by(urgency, "-created_at", "-id")


def unseen_count() -> int:
    """How many are open that nobody has acknowledged."""
    return Alert.objects.filter(ended_at=None, acknowledged_at=None).count()


def facts(alert: Alert) -> dict[str, Any]:
    """An alert as the API and the live topic tell it."""
    return {
        "id": alert.pk, "rule": alert.rule, "title": alert_rules.title(alert.rule), "subject": alert.subject,
        "severity": alert.severity, "message": alert.message, "fix": alert.fix, "url": alert.url,
        "count": alert.count, "created_at": alert.created_at.isoformat(), "last_at": alert.last_at.isoformat(),
        "ended_at": iso(alert.ended_at), "acknowledged_at": iso(alert.acknowledged_at),
        "acknowledged_by": alert.acknowledged_by,
    }  # fmt: skip
