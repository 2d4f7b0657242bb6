"""Alerts: fired, said again, ended, acknowledged. Runs in the web process.

The same trouble is one alert: while it goes on, firing it again only counts. Who is told by mail or messenger is
decided in the same transaction and sent later, outside of it.
"""

from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from controlplane.live.announce import publish
from controlplane.models import Alert


def fire(rule: str, subject: str, severity: str, message: str, *, fix: str = "", url: str = "") -> Alert:
    """Says that something is wrong, or goes on being wrong: an alert that is open already is counted, not made anew.

    `message` is a sentence that names the thing; `fix` what mends it; `url` the page that shows it.
    """
    now = timezone.now()
    with transaction.atomic():
        again = Alert.objects.filter(rule=rule, subject=subject, ended_at=None)
        if again.update(count=F("count") + 1, last_at=now, severity=severity, message=message, fix=fix):
            alert = again.get()
        else:
            alert = Alert.objects.create(
                rule=rule, subject=subject, severity=severity, message=message, fix=fix, url=url, last_at=now
            )
            publish("alerts", "alert", facts(alert))
    return alert


def end(rule: str, subject: str) -> bool:
    """Says that it is over. Returns whether such an alert was open."""
    with transaction.atomic():
        alert = Alert.objects.filter(rule=rule, subject=subject, ended_at=None).first()
        if alert is None:
            return False
        alert.ended_at = timezone.now()
        alert.save(update_fields=["ended_at"])
        publish("alerts", "alert", facts(alert))
    return True


def facts(alert: Alert) -> dict[str, Any]:
    """An alert as the API and the live topic tell it."""
    return {
        "id": alert.pk, "rule": alert.rule, "subject": alert.subject, "severity": alert.severity,
        "message": alert.message, "fix": alert.fix, "url": alert.url, "count": alert.count,
        "created_at": alert.created_at.isoformat(), "last_at": alert.last_at.isoformat(),
        "ended_at": alert.ended_at.isoformat() if alert.ended_at else None,
        "acknowledged_at": alert.acknowledged_at.isoformat() if alert.acknowledged_at else None,
        "acknowledged_by": alert.acknowledged_by,
    }  # fmt: skip
