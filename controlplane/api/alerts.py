"""Alerts, their rules and their routes: /api/alerts. Runs in the web process."""

from typing import Annotated, Any

from ninja import Query, Router, Status
from ninja.params import functions

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas import alerts as schemas
from controlplane.api.schemas.tables import AlertQuery
from controlplane.services import alert_routes, alert_rules, alerts, notifications, settings
from controlplane.services.alert_routes import RouteWish
from controlplane.services.tables import alerts as asked
from controlplane.services.tables import keyset

router = Router(tags=["Alerts"])


@router.get("/alerts", response=schemas.AlertList)
def list_alerts(
    request: ActorRequest, query: Query[AlertQuery], limit: Annotated[int, functions.Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """Alerts, newest first, or in the order of `sort`: `open=true` what goes on, `open=false` what is over."""
    question = keyset.required(asked.ask(request.GET, is_open=query.is_open))
    found = keyset.page(keyset.older_than(question, query.before_id), limit)
    return {
        "alerts": [alerts.facts(row) for row in found.rows], "unacknowledged": alerts.unseen_count(), **found.place,
    }  # fmt: skip


@router.post("/alerts/{int:alert_id}/acknowledge", response=schemas.Alert)
def acknowledge(request: ActorRequest, alert_id: int) -> dict[str, Any]:
    """Says that somebody has seen it: no reminder goes out any more, and an event's alert ends (use)."""
    return alerts.facts(alerts.acknowledge(request.actor, alert_id))


# --- Rules ------------------------------------------------------------------------------------------------------------


def _rule(rule: alert_rules.Rule) -> dict[str, Any]:
    return {
        "key": rule.key, "title": rule.title, "severity": rule.severity, "description": rule.description,
        "is_event": rule.is_event, "is_on": alert_rules.is_on(rule.key),
        "limits": {key: settings.get(key) for key in rule.limits},
    }  # fmt: skip


@router.get("/alerts/rules", response=schemas.AlertRuleList)
def list_rules(request: ActorRequest) -> dict[str, Any]:
    """What is watched, and by which limits."""
    return {"rules": [_rule(rule) for rule in alert_rules.RULES]}


@router.patch("/alerts/rules/{key}", response=schemas.AlertRule)
def switch_rule(request: ActorRequest, key: str, payload: schemas.SwitchAlertRule) -> dict[str, Any]:
    """Switches a rule on or off (admin). Its limits are settings: PUT /api/settings/KEY."""
    return _rule(alert_rules.switch(request.actor, key, payload.is_on))


# --- Routes -----------------------------------------------------------------------------------------------------------


@router.get("/alerts/routes", response=schemas.AlertRouteList)
def list_routes(request: ActorRequest) -> dict[str, Any]:
    """Where alerts are sent (admin)."""
    return {"routes": [alert_routes.facts(row) for row in alert_routes.list_routes(request.actor)]}


@router.post("/alerts/routes", response={201: schemas.AlertRoute})
def create_route(request: ActorRequest, payload: schemas.CreateAlertRoute) -> Status[dict[str, Any]]:
    """Makes a route (admin). Apprise checks the address; one that stays on the server is refused."""
    wish = RouteWish(**{**payload.dict(), "rules": tuple(payload.rules)})
    return Status(201, alert_routes.facts(alert_routes.create(request.actor, wish)))


@router.patch("/alerts/routes/{int:route_id}", response=schemas.AlertRoute)
def change_route(request: ActorRequest, route_id: int, payload: schemas.ChangeAlertRoute) -> dict[str, Any]:
    """Changes a route (admin); `quiet_from` and `quiet_until` null: no quiet hours."""
    given = payload.dict(exclude_unset=True)
    nullable = {"quiet_from", "quiet_until"}
    changes = {name: value for name, value in given.items() if value is not None or name in nullable}
    if "rules" in changes:
        changes["rules"] = tuple(changes["rules"])
    wish = RouteWish.of(alert_routes.get(request.actor, route_id), **changes)
    return alert_routes.facts(alert_routes.change(request.actor, route_id, wish))


@router.delete("/alerts/routes/{int:route_id}", response={204: None})
def delete_route(request: ActorRequest, route_id: int) -> Status[None]:
    """Deletes a route with what waits on it (admin)."""
    alert_routes.delete(request.actor, route_id)
    return Status(204, None)


@router.post("/alerts/routes/{int:route_id}/test", response=schemas.AlertRouteTest)
def test_route(request: ActorRequest, route_id: int) -> notifications.RouteTest:
    """Sends a real message now and says what became of it (admin); answers within half a minute."""
    return notifications.test(request.actor, route_id)


@router.get("/alerts/deliveries", response=schemas.AlertDeliveryList)
def list_deliveries(
    request: ActorRequest, limit: Annotated[int, functions.Query(ge=1, le=500)] = 100
) -> dict[str, Any]:
    """What was sent and is to be sent, newest first (admin)."""
    return {"deliveries": alert_routes.deliveries(request.actor, limit)}
