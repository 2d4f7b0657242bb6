"""Settings: one's own account, people, keys, values, the audit log. Runs in the web process."""

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.models import ApiKey, Setting, User
from controlplane.models.access import ROLE_CHOICES, Role
from controlplane.pages.actors import actor, person
from controlplane.pages.forms.edits import one_at_a_time
from controlplane.pages.forms.people import KeyForm, LimitsForm, PersonForm
from controlplane.pages.setting_values import put_as_seen, setting_id
from controlplane.pages.tables import shown
from controlplane.services import access, audit_seal, guesses, health, models, settings, usage
from controlplane.services.tables import audit as audit_table
from controlplane.services.tables import keys as key_table

MODELS_OFFERED = 100
"""To so many models a form limits keys; the API to any."""


def account(request: HttpRequest) -> HttpResponse:
    """Who one is, and what the server is."""
    return render(request, "settings/account.html", {"person": person(request), "versions": health.versions()})


@never_cache
def people(request: HttpRequest) -> HttpResponse:
    """Who may log in; adding somebody shows their one-time password once."""
    who = actor(request)
    who.require(Role.ADMIN)
    form, made, password = PersonForm(request.POST or None), None, ""
    if request.method == "POST" and form.is_valid():
        try:
            made, password = access.create_user(who, form.cleaned_data["username"], form.cleaned_data["role"])
            form = PersonForm()
        except (ConflictError, InvalidInputError) as error:
            form.add_error("username", error.message)
    rows = User.objects.order_by("username")
    context = {
        "form": form,
        "rows": rows,
        "locked": guesses.locked_names(),
        "made": made,
        "password": password,
        "roles": ROLE_CHOICES,
    }
    return render(request, "settings/people.html", context, status=422 if form.errors else 200)


@require_POST
def person_change(request: HttpRequest, user_id: int) -> HttpResponse:
    """Another role for somebody, or their account switched off or on, or open again after wrong passwords."""
    if "unlock" in request.POST:
        user = guesses.unlock(actor(request), user_id)
        messages.success(request, f"{user.get_username()} may try to log in again.")
    elif "active" in request.POST:
        user = access.set_active(actor(request), user_id, request.POST["active"] == "yes")
        messages.success(request, f"{user.get_username()} may {'' if user.is_active else 'no longer '}log in.")
    else:
        user = access.set_role(actor(request), user_id, request.POST.get("role", ""))
        messages.success(request, f"{user.get_username()} now has the role {user.role}.")
    return redirect("settings-people")


@never_cache
def keys(request: HttpRequest) -> HttpResponse:
    """API keys; making one shows it once."""
    who = actor(request)
    who.require(Role.ADMIN)
    names = models.names(MODELS_OFFERED)
    form, made, plain = KeyForm(names, request.POST or None), None, ""
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["days"]
        ends = timezone.now() + timedelta(days=days) if days else None
        try:
            typed = form.cleaned_data
            made, plain = access.create_key(who, typed["name"], typed["role"], ends, form.limits())
            form = KeyForm(names)
        except InvalidInputError as error:
            form.refuse(error) if error.faults else form.add_error("name", error.message)
    table = shown(request.GET, key_table.ask(who, request.GET), "keys", placeholder="Search keys")
    context = {"form": form, "table": table, "rows": table.page.rows, "made": made, "plain": plain}
    return render(request, "settings/keys.html", context, status=422 if form.errors else 200)


def key_limits(request: HttpRequest, key_id: int) -> HttpResponse:
    """What a key may ask of engines, and how much it has asked lately."""
    who = actor(request)
    with one_at_a_time(request):
        key = access.get_key(who, key_id)
        form = _limits_form(request, key)
        if request.method == "POST" and form.is_valid():
            try:
                access.set_key_limits(who, key_id, form.limits())
                messages.success(request, f"The key {key.name} has these limits from its next request on.")
                return redirect("settings-keys")
            except InvalidInputError as error:
                form.refuse(error)
    month = usage.totals(usage.Question.of_days(30, key_id=key.pk))[0]
    return render(request, "settings/key.html", {"form": form, "key": key, "month": month},
                  status=422 if form.errors else 200)  # fmt: skip


def _limits_form(request: HttpRequest, key: ApiKey) -> LimitsForm:
    names = sorted({*models.names(MODELS_OFFERED), *key.allowed_models})
    now = {
        "requests_per_minute": key.requests_per_minute or None, "tokens_per_minute": key.tokens_per_minute or None,
        "models": key.allowed_models,
    }  # fmt: skip
    return LimitsForm(names, request.POST or None, initial=now)


@require_POST
def key_revoke(request: HttpRequest, key_id: int) -> HttpResponse:
    """Makes a key useless at once."""
    key = access.revoke_key(actor(request), key_id)
    messages.success(request, f"The key {key.name} no longer opens anything.")
    return redirect("settings-keys")


def values(request: HttpRequest) -> HttpResponse:
    """Every setting with its value; admins change them one by one."""
    actor(request)
    key, typed, fault = request.POST.get("key", ""), request.POST.get("value", ""), ""
    if request.method == "POST":
        try:
            put_as_seen(request, key)
            messages.success(request, f"{key} is {typed} now.")
            return redirect("settings-values")
        except InvalidInputError as error:
            fault = error.message
    changed = set(Setting.objects.values_list("key", flat=True))
    rows = [_row(name, value, name in changed) for name, value in settings.effective().items()]
    for row in rows:
        if fault and row["key"] == key:
            row.update(typed=typed, fault=fault)
    return render(request, "settings/values.html", {"rows": rows}, status=422 if fault else 200)


def _row(key: str, value: Any, is_changed: bool) -> dict[str, Any]:
    definition = settings.DEFAULTS[key]
    return {
        "key": key, "now": value, "typed": value, "fault": "", "definition": definition, "is_changed": is_changed,
        "id": setting_id(key), "mode": "text" if isinstance(definition.default, str) else "decimal",
    }  # fmt: skip


def audit(request: HttpRequest) -> HttpResponse:
    """Who did what, as the address asks for it."""
    asked = audit_table.ask(actor(request), request.GET)
    table = shown(request.GET, asked, "audit", placeholder="Search who, what, to what")
    return render(request, "settings/audit.html", {"table": table, "lines": table.page.rows})


def audit_seals(request: HttpRequest) -> HttpResponse:
    """What the seals of the audit log tell (admin)."""
    actor(request).require(Role.ADMIN)
    return render(request, "settings/audit_seals.html", {"finding": audit_seal.examine()})
