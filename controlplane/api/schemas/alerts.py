"""What the calls about alerts, their rules and their routes take and answer."""

from datetime import datetime, time
from typing import Any

from ninja import Schema

from controlplane.api.schemas.tables import Listed


class Alert(Schema):
    """An alert. It goes on while `ended_at` is null; `count` says how often it was said meanwhile.

    `severity`: info, warning or critical. `url` is the page that shows what it is about.
    """

    id: int
    rule: str
    title: str
    subject: str
    severity: str
    message: str
    fix: str
    url: str
    count: int
    created_at: datetime
    last_at: datetime
    ended_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str


class AlertList(Listed):
    """Alerts, newest first, and how many are open that nobody has acknowledged."""

    alerts: list[Alert]
    unacknowledged: int


class AlertRule(Schema):
    """What is watched. `limits`: the settings that bound it, with their values.

    `is_event`: it tells of something that happened, and ends when it is acknowledged.
    """

    key: str
    title: str
    severity: str
    description: str
    is_event: bool
    is_on: bool
    limits: dict[str, Any]


class AlertRuleList(Schema):
    """All rules."""

    rules: list[AlertRule]


class SwitchAlertRule(Schema):
    """Whether the rule makes alerts."""

    is_on: bool


class CreateAlertRoute(Schema):
    """A route. `url` is an address of Apprise's (ntfy://HOST/TOPIC, mailto://…); it is never shown again in full.

    `rules` empty: all. Between `quiet_from` and `quiet_until` (local time) only what is critical goes out at once.
    """

    name: str
    url: str
    minimum_severity: str = "warning"
    rules: list[str] = []
    quiet_from: time | None = None
    quiet_until: time | None = None
    is_enabled: bool = True


class ChangeAlertRoute(Schema):
    """What is to change; what isn't named stays as it is."""

    name: str | None = None
    url: str | None = None
    minimum_severity: str | None = None
    rules: list[str] | None = None
    quiet_from: time | None = None
    quiet_until: time | None = None
    is_enabled: bool | None = None


class AlertRoute(Schema):
    """A route, its address masked. `last_error` is empty when the last message arrived."""

    id: int
    name: str
    service: str
    masked_url: str
    minimum_severity: str
    rules: list[str]
    quiet_from: time | None
    quiet_until: time | None
    is_enabled: bool
    last_error: str
    last_sent_at: datetime | None
    created_by: str
    created_at: datetime


class AlertRouteList(Schema):
    """All routes by name."""

    routes: list[AlertRoute]


class AlertRouteTest(Schema):
    """What became of a test message; `error` says why it was not taken."""

    sent: bool
    error: str
    seconds: float


class AlertDelivery(Schema):
    """One alert over one route.

    `event`: fired, reminder or ended; `status`: waiting, sending, sent, failed (given up), dropped.
    """

    id: int
    alert_id: int
    route_id: int
    event: str
    status: str
    tries: int
    not_before: datetime
    error: str
    created_at: datetime
    sent_at: datetime | None


class AlertDeliveryList(Schema):
    """What was sent and is to be sent, newest first."""

    deliveries: list[AlertDelivery]
