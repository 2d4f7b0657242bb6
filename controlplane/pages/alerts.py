"""Alerts: what goes on, what went on, the rules, the routes. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.models.access import Role
from controlplane.models.alerts import Severity
from controlplane.pages.actors import actor
from controlplane.pages.forms.alerts import RouteForm
from controlplane.pages.middleware import referrer
from controlplane.pages.topics import mark
from controlplane.row_ids import row_id
from controlplane.services import alert_routes, alert_rules, alerts, notifications, settings
from controlplane.services.alert_routes import RouteWish

HISTORY_ROWS = 30
DELIVERIES_SHOWN = 20


def alert_list(request: HttpRequest) -> HttpResponse:
    """What goes on, the most urgent first; below it what is over, by rule and severity, thirty a page."""
    live = mark("alerts")
    template = "alerts/body.html" if request.headers.get("HX-Request") else "alerts/list.html"
    return render(request, template, {"live": live, **_lists(request.GET)})


def _lists(asked: QueryDict) -> dict[str, Any]:
    rule = asked.get("rule", "") if asked.get("rule") in alert_rules.BY_KEY else ""
    severity = asked.get("severity", "") if asked.get("severity") in Severity.values else ""
    before_id = row_id(asked.get("before", ""))
    rows = alerts.list_alerts(
        is_open=False, rule=rule, severity=severity, limit=HISTORY_ROWS + 1, before_id=before_id
    )  # fmt: skip
    more = rows[HISTORY_ROWS - 1].pk if len(rows) > HISTORY_ROWS else None
    return {
        "open_alerts": alerts.open_alerts(), "history": rows[:HISTORY_ROWS], "more": more, "before": before_id,
        "rule": rule, "severity": severity, "rules": alert_rules.RULES, "severities": Severity.values,
    }  # fmt: skip


@require_POST
def alert_acknowledge(request: HttpRequest, alert_id: int) -> HttpResponse:
    """Somebody has seen it."""
    alert = alerts.acknowledge(actor(request), alert_id)
    if request.headers.get("HX-Request"):
        return render(request, "alerts/alert.html", {"alert": alert})
    return redirect(referrer(request) or reverse("alerts"))


# --- Rules ------------------------------------------------------------------------------------------------------------


def rule_list(request: HttpRequest) -> HttpResponse:
    """What is watched, with its limits; admins switch rules on and off and change limits."""
    off = alert_rules.switched_off()
    rows = [
        {"rule": rule, "is_on": rule.key not in off, "limits": [_limit(key) for key in rule.limits]}
        for rule in alert_rules.RULES
    ]
    return render(request, "alerts/rules.html", {"rows": rows})


def _limit(key: str) -> dict[str, Any]:
    return {"key": key, "value": settings.get(key), "definition": settings.DEFAULTS[key]}


@require_POST
def rule_change(request: HttpRequest, key: str) -> HttpResponse:
    """Switches a rule (`on`: yes or no), or changes one of its limits (`limit`, `value`)."""
    who, rule = actor(request), alert_rules.get(key)
    limit = request.POST.get("limit", "")
    if limit in rule.limits:
        value = settings.put(who, limit, request.POST.get("value", ""))
        messages.success(request, f"{limit} is {value} now.")
    else:
        is_on = request.POST.get("on") == "yes"
        alert_rules.switch(who, key, is_on)
        messages.success(request, f"{rule.title}: {'watched again' if is_on else 'no longer watched'}.")
    return redirect("alert-rules")


# --- Routes -----------------------------------------------------------------------------------------------------------


def route_list(request: HttpRequest) -> HttpResponse:
    """Where alerts are sent, and the form that adds a route."""
    who = actor(request)
    who.require(Role.ADMIN)
    form = RouteForm(request.POST or None)
    if request.method == "POST" and form.is_valid() and _saved(request, form, None):
        return redirect("alert-routes")
    live = mark("alerts")
    if request.headers.get("HX-Request"):
        return render(request, "alerts/route_rows.html", _routes(request))
    context = {"live": live, "form": form, **_routes(request)}
    return render(request, "alerts/routes.html", context, status=422 if form.errors else 200)


def _routes(request: HttpRequest) -> dict[str, Any]:
    who = actor(request)
    return {
        "routes": alert_routes.list_routes(who), "deliveries": alert_routes.deliveries(who, DELIVERIES_SHOWN),
        "titles": {rule.key: rule.title for rule in alert_rules.RULES},
    }  # fmt: skip


def _saved(request: HttpRequest, form: RouteForm, route_id: int | None) -> bool:
    """Makes or changes the route; a refusal stands beside its field."""
    who = actor(request)
    try:
        if route_id is None:
            route = alert_routes.create(who, form.wish())
            messages.success(request, f"Alerts go to {route.name} too. Press Test to see one arrive.")
        else:
            is_enabled = alert_routes.get(who, route_id).is_enabled
            route = alert_routes.change(who, route_id, form.wish(is_enabled))
            messages.success(request, f"{route.name} is changed.")
    except ConflictError as error:
        form.add_error("name", error.message)
        return False
    except InvalidInputError as error:
        form.refuse(error)
        return False
    return True


def route_page(request: HttpRequest, route_id: int) -> HttpResponse:
    """The form that changes a route."""
    route = alert_routes.get(actor(request), route_id)
    names = ("name", "minimum_severity", "rules", "quiet_from", "quiet_until")
    form = RouteForm(
        request.POST or None, is_new=False, initial={name: getattr(route, name) for name in names}
    )  # fmt: skip
    if request.method == "POST" and form.is_valid() and _saved(request, form, route_id):
        return redirect("alert-routes")
    return render(
        request, "alerts/route.html", {"route": route, "form": form}, status=422 if form.errors else 200
    )  # fmt: skip


@require_POST
def route_switch(request: HttpRequest, route_id: int) -> HttpResponse:
    """Switches a route on or off."""
    who = actor(request)
    is_enabled = request.POST.get("enabled") == "yes"
    route = alert_routes.get(who, route_id)
    alert_routes.change(who, route_id, RouteWish.of(route, is_enabled=is_enabled))
    messages.success(request, f"{route.name} is switched {'on' if is_enabled else 'off'}.")
    return redirect("alert-routes")


@require_POST
def route_test(request: HttpRequest, route_id: int) -> HttpResponse:
    """Sends a real message and shows what became of it, beside the button that asked."""
    outcome = notifications.test(actor(request), route_id)
    if request.headers.get("HX-Request"):
        return render(request, "alerts/tested.html", {"outcome": outcome})
    if outcome["sent"]:
        messages.success(request, f"The message was taken in {outcome['seconds']} s.")
    else:
        messages.error(request, outcome["error"])
    return redirect("alert-routes")


@require_POST
def route_delete(request: HttpRequest, route_id: int) -> HttpResponse:
    """Deletes a route."""
    alert_routes.delete(actor(request), route_id)
    messages.success(request, "The route is deleted.")
    return redirect("alert-routes")
