"""Routes of alerts: where they are sent, and which alert goes over which route when. Runs in the web process.

An address holds secrets: it is stored, checked by Apprise, shown masked, and read again by `services.notifications`
alone. What is to be sent is written down as deliveries in the transaction that fires the alert.
"""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.models import Alert, AlertDelivery, AlertRoute
from controlplane.models.access import Actor, Role
from controlplane.models.alerts import RANK, DeliveryEvent, DeliveryStatus, Severity
from controlplane.services import alert_rules, sending, settings
from controlplane.services.access import audit

MAX_URL_CHARACTERS = 4000


@dataclass(frozen=True)
class RouteWish:
    """A route as somebody wants it. An empty `url` leaves the address as it is."""

    name: str
    url: str = ""
    minimum_severity: str = Severity.WARNING
    rules: tuple[str, ...] = ()
    quiet_from: time | None = None
    quiet_until: time | None = None
    is_enabled: bool = True

    @classmethod
    def of(cls, route: AlertRoute, **changes: Any) -> "RouteWish":
        """A route as it is, but for `changes`."""
        names = ("name", "minimum_severity", "quiet_from", "quiet_until", "is_enabled")
        return cls(**{**{name: getattr(route, name) for name in names}, "rules": tuple(route.rules), **changes})


# --- Made, changed, deleted -------------------------------------------------------------------------------------------


def list_routes(actor: Actor) -> list[AlertRoute]:
    """All routes by name (admin)."""
    actor.require(Role.ADMIN)
    return list(AlertRoute.objects.all())


def get(actor: Actor, route_id: int) -> AlertRoute:
    """The route (admin). Raises NotFoundError."""
    actor.require(Role.ADMIN)
    route = AlertRoute.objects.filter(pk=route_id).first()
    if route is None:
        raise NotFoundError(f"There is no route {route_id}.")
    return route


def create(actor: Actor, wish: RouteWish) -> AlertRoute:
    """Makes a route (admin). Raises InvalidInputError where it could never send, ConflictError for a name taken."""
    actor.require(Role.ADMIN)
    faults = _faults(wish)
    if not wish.url:
        faults.append(FieldFault("url", "a route needs an address, as in ntfy://HOST/TOPIC"))
    _refuse(faults)
    _refuse_taken(wish.name)  # before a process is started for it, and again when nobody else can take it
    described = _described(wish.url)
    with transaction.atomic():
        _refuse_taken(wish.name)
        route = AlertRoute.objects.create(created_by=actor.name, url=wish.url, **described, **_columns(wish))
        audit(actor, "alert_route.create", route.name, service=route.service)
    return route


def change(actor: Actor, route_id: int, wish: RouteWish) -> AlertRoute:
    """Changes a route (admin). What waits on one that is switched off is dropped: it would come out of season."""
    route = get(actor, route_id)
    _refuse(_faults(wish))
    _refuse_taken(wish.name, route_id)
    fields = {**_columns(wish), **({"url": wish.url, "last_error": "", **_described(wish.url)} if wish.url else {})}
    with transaction.atomic():
        _refuse_taken(wish.name, route_id)
        AlertRoute.objects.filter(pk=route_id).update(**fields)
        if not wish.is_enabled:
            _drop(AlertDelivery.objects.filter(route_id=route_id))
        changed = [name for name in fields if name != "url" and getattr(route, name) != fields[name]]
        audit(actor, "alert_route.change", wish.name, changed=[*changed, *(["address"] if wish.url else [])])
    return get(actor, route_id)


def delete(actor: Actor, route_id: int) -> None:
    """Deletes a route with what waits on it (admin)."""
    with transaction.atomic():
        route = get(actor, route_id)
        route.delete()
        audit(actor, "alert_route.delete", route.name)


def deliveries(actor: Actor, limit: int = 30) -> list[AlertDelivery]:
    """What was sent and is to be sent, newest first (admin)."""
    actor.require(Role.ADMIN)
    return list(AlertDelivery.objects.select_related("alert", "route").order_by("-id")[: max(1, min(limit, 500))])


def facts(route: AlertRoute) -> dict[str, Any]:
    """A route as the API tells it: without its address."""
    return {
        "id": route.pk, "name": route.name, "service": route.service, "masked_url": route.masked_url,
        "minimum_severity": route.minimum_severity, "rules": route.rules, "quiet_from": route.quiet_from,
        "quiet_until": route.quiet_until, "is_enabled": route.is_enabled, "last_error": route.last_error,
        "last_sent_at": route.last_sent_at, "created_by": route.created_by, "created_at": route.created_at,
    }  # fmt: skip


def _columns(wish: RouteWish) -> dict[str, Any]:
    return {
        "name": wish.name.strip(), "minimum_severity": wish.minimum_severity, "rules": list(wish.rules),
        "quiet_from": wish.quiet_from, "quiet_until": wish.quiet_until, "is_enabled": wish.is_enabled,
    }  # fmt: skip


def _described(url: str) -> dict[str, str]:
    """What may be shown of an address. Raises InvalidInputError where it can't be a route."""
    described = sending.describe(url.strip())
    if "refused" in described:
        _refuse([FieldFault("url", described["refused"])])
    return described


def _faults(wish: RouteWish) -> list[FieldFault]:
    faults = []
    if not wish.name.strip() or len(wish.name) > 100:
        faults.append(FieldFault("name", "a route needs a name of 1 to 100 characters"))
    if len(wish.url) > MAX_URL_CHARACTERS or not wish.url.isprintable():
        faults.append(FieldFault("url", f"an address has at most {MAX_URL_CHARACTERS} printable characters"))
    if wish.minimum_severity not in RANK:
        faults.append(FieldFault("minimum_severity", f"choose {', '.join(RANK)}"))
    unknown = [key for key in wish.rules if key not in alert_rules.BY_KEY]
    if unknown:
        faults.append(FieldFault("rules", f"there is no rule {unknown[0]!r}"))
    elif wish.minimum_severity in RANK:
        faults += _mute_rules(wish)
    if (wish.quiet_from is None) != (wish.quiet_until is None):
        faults.append(FieldFault("quiet_until", "quiet hours have a beginning and an end, or neither"))
    elif wish.quiet_from is not None and wish.quiet_from == wish.quiet_until:
        faults.append(FieldFault("quiet_until", "quiet hours that end when they begin would never end"))
    return faults


def _mute_rules(wish: RouteWish) -> list[FieldFault]:
    """Rules that were chosen and could never be sent, because they only ever say what is less urgent."""
    mute = [
        key for key in wish.rules
        if alert_rules.BY_KEY[key].severity == Severity.INFO and RANK[wish.minimum_severity] > RANK[Severity.INFO]
    ]  # fmt: skip
    return [
        FieldFault("minimum_severity", f"{alert_rules.title(key)!r} is info and would never be sent: choose info")
        for key in mute
    ]


def _refuse(faults: list[FieldFault]) -> None:
    if faults:
        raise InvalidInputError(" ".join(_sentence(fault.message) for fault in faults), tuple(faults))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _refuse_taken(name: str, but_id: int | None = None) -> None:
    same = AlertRoute.objects.filter(name=name.strip())
    if (same if but_id is None else same.exclude(pk=but_id)).exists():
        raise ConflictError(f"There is already a route called {name.strip()}.")


# --- Which alert goes over which route, and when ----------------------------------------------------------------------


def wants(route: AlertRoute, alert: Alert) -> bool:
    """Whether a route is there for an alert."""
    urgent = RANK[alert.severity] >= RANK[route.minimum_severity]
    return route.is_enabled and urgent and (not route.rules or alert.rule in route.rules)


def quiet_until(route: AlertRoute, moment: datetime) -> datetime | None:
    """When the quiet hours that `moment` lies in end; None where it lies in none."""
    if route.quiet_from is None or route.quiet_until is None:
        return None
    local = timezone.localtime(moment)
    for begins_on in (local.date() - timedelta(days=1), local.date()):
        begins = datetime.combine(begins_on, route.quiet_from, local.tzinfo)
        ends_on = begins_on + timedelta(days=1) if route.quiet_until <= route.quiet_from else begins_on
        ends = datetime.combine(ends_on, route.quiet_until, local.tzinfo)
        if begins <= local < ends:
            return ends
    return None


def due_at(route: AlertRoute, alert: Alert, moment: datetime) -> datetime:
    """When an alert may go out over a route: now, or when its quiet hours end (a critical one doesn't wait)."""
    if alert.severity == Severity.CRITICAL:
        return moment
    return quiet_until(route, moment) or moment


def plan(alert: Alert, *, worse: bool = False) -> None:
    """Writes down over which routes an alert goes out. Inside the transaction that fires it.

    `worse`: it has been told before and is more urgent now. Who waits for it gets it earlier, who has it is reminded.
    """
    now = timezone.now()
    for route in AlertRoute.objects.filter(is_enabled=True):
        if not wants(route, alert):
            continue
        due = due_at(route, alert, now)
        told, is_new = AlertDelivery.objects.get_or_create(
            alert=alert, route=route, event=DeliveryEvent.FIRED, defaults={"not_before": due}
        )
        if is_new or not worse:
            continue
        if told.status == DeliveryStatus.FAILED:
            AlertDelivery.objects.filter(pk=told.pk).update(**_anew(due))
        elif told.status == DeliveryStatus.WAITING:
            AlertDelivery.objects.filter(pk=told.pk, not_before__gt=due).update(not_before=due)
        else:
            _remind(alert, route, due)


def plan_end(alert: Alert) -> None:
    """Whoever was told that it began is told that it is over; who has yet to be told hears both at once."""
    now = timezone.now()
    drop_reminders(alert)
    told = AlertDelivery.objects.filter(alert=alert, event=DeliveryEvent.FIRED, route__is_enabled=True)
    heard = told.filter(status__in=(DeliveryStatus.SENDING, DeliveryStatus.SENT))
    for delivery in heard.select_related("route"):
        AlertDelivery.objects.get_or_create(
            alert=alert, route=delivery.route, event=DeliveryEvent.ENDED,
            defaults={"not_before": due_at(delivery.route, alert, now)},
        )  # fmt: skip


def drop_reminders(alert: Alert) -> None:
    """No further word of it goes out."""
    _drop(AlertDelivery.objects.filter(alert=alert, event=DeliveryEvent.REMINDER))


def plan_reminders() -> None:
    """What nobody has acknowledged is told: what was given up is tried again, what is critical is said again every
    `alerts.remind_minutes`."""
    _take_up_failed()
    minutes = settings.get("alerts.remind_minutes")
    if not minutes:
        return
    before = timezone.now() - timedelta(minutes=minutes)
    going_on = AlertDelivery.objects.filter(
        alert__ended_at=None, alert__acknowledged_at=None, alert__severity=Severity.CRITICAL, route__is_enabled=True
    )
    lately = going_on.filter(sent_at__gt=before)
    rows = going_on.filter(event=DeliveryEvent.FIRED, sent_at__lte=before).select_related("alert", "route")
    told_lately = set(lately.values_list("alert_id", "route_id"))
    for told in rows:
        if (told.alert_id, told.route_id) not in told_lately:
            with transaction.atomic():
                _remind(told.alert, told.route, timezone.now())


def _take_up_failed() -> None:
    """What was given up is tried once more when its last pause is over, and so on for as long as the alert goes on."""
    now = timezone.now()
    given_up = AlertDelivery.objects.filter(
        event=DeliveryEvent.FIRED, status=DeliveryStatus.FAILED, not_before__lte=now, alert__ended_at=None,
        alert__acknowledged_at=None,
    ).select_related("alert", "route")  # fmt: skip
    for told in given_up:
        if wants(told.route, told.alert):
            AlertDelivery.objects.filter(pk=told.pk, status=DeliveryStatus.FAILED).update(
                status=DeliveryStatus.WAITING, not_before=due_at(told.route, told.alert, now)
            )


def _anew(due: datetime) -> dict[str, Any]:
    """The columns of a delivery that has yet to be tried."""
    return {"status": DeliveryStatus.WAITING, "tries": 0, "not_before": due, "error": ""}


def _remind(alert: Alert, route: AlertRoute, due: datetime) -> None:
    fields = _anew(due)
    mine = AlertDelivery.objects.filter(alert=alert, route=route, event=DeliveryEvent.REMINDER)
    if not mine.exists():
        AlertDelivery.objects.create(alert=alert, route=route, event=DeliveryEvent.REMINDER, **fields)
    else:  # one that is on its way is left alone
        mine.exclude(status__in=(DeliveryStatus.WAITING, DeliveryStatus.SENDING)).update(**fields)


def _drop(rows: "QuerySet[AlertDelivery]") -> None:
    rows.filter(status=DeliveryStatus.WAITING).update(status=DeliveryStatus.DROPPED)
