"""Alerts: what goes on, what went on, the rules, the routes. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.models.access import Role
from controlplane.pages.actors import actor
from controlplane.pages.forms.alerts import RouteForm
from controlplane.pages.forms.edits import one_at_a_time
from controlplane.pages.middleware import referrer
from controlplane.pages.setting_values import put_as_seen, setting_id
from controlplane.pages.tables import shown
from controlplane.pages.topics import mark
from controlplane.services import alert_routes, alert_rules, alerts, bulk, notifications, settings
from controlplane.services.alert_routes import RouteWish
from controlplane.services.tables import alerts as asked

DELIVERIES_SHOWN = 20


def alert_list(request: HttpRequest) -> HttpResponse:
    """What goes on, the most urgent first; below it what is over, as the address asks for it."""
    live = mark("alerts")
    table = shown(
        request.GET, asked.ask(request.GET, is_open=False), "alerts", placeholder="Search alerts that are over",
        first="severity",
    )  # fmt: skip
    context = {"live": live, "table": table, "history": table.page.rows}
    if request.headers.get("HX-Request"):
        return render(request, "alerts/over.html", context)
    return render(request, "alerts/list.html", {**context, **_going_on()})


def alert_open(request: HttpRequest) -> HttpResponse:
    """What goes on alone: drawn anew when something has become of it."""
    return render(request, "alerts/going_on.html", _going_on())


def _going_on() -> dict[str, Any]:
    going_on = list(alerts.open_alerts())
    unseen = [alert for alert in going_on if alert.acknowledged_at is None][: bulk.MOST]
    return {"open_alerts": going_on, "unseen": unseen}


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
    return _rules(request)


def _rules(request: HttpRequest, fault: str = "") -> HttpResponse:
    """The page; with a `fault`, that beside the limit that was typed."""
    off, typed = alert_rules.switched_off(), request.POST if fault else QueryDict()
    rows = [
        {"rule": rule, "is_on": rule.key not in off, "limits": [_limit(key, typed, fault) for key in rule.limits]}
        for rule in alert_rules.RULES
    ]
    return render(request, "alerts/rules.html", {"rows": rows}, status=422 if fault else 200)


def _limit(key: str, typed: QueryDict, fault: str) -> dict[str, Any]:
    now, is_meant = settings.get(key), typed.get("limit") == key
    return {
        "key": key, "now": now, "value": typed.get("value") if is_meant else now, "fault": fault if is_meant else "",
        "id": setting_id(key), "definition": settings.DEFAULTS[key],
    }  # fmt: skip


@require_POST
def rule_change(request: HttpRequest, key: str) -> HttpResponse:
    """Switches a rule (`on`: yes or no), or changes one of its limits (`limit`, `value`)."""
    who, rule = actor(request), alert_rules.get(key)
    limit = request.POST.get("limit", "")
    if limit in rule.limits:
        try:
            value = put_as_seen(request, limit)
        except InvalidInputError as error:
            return _rules(request, error.message)
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
    names = ("name", "minimum_severity", "rules", "quiet_from", "quiet_until")
    with one_at_a_time(request):
        route = alert_routes.get(actor(request), route_id)
        now = {name: getattr(route, name) for name in names}
        form = RouteForm(request.POST or None, is_new=False, initial=now)
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
