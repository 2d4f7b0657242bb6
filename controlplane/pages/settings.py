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
from controlplane.models import ApiKey, AuditLine, Setting, User
from controlplane.models.access import ROLE_CHOICES, Role
from controlplane.pages.actors import actor, person
from controlplane.pages.forms.people import KeyForm, PersonForm
from controlplane.services import access, health, settings

AUDIT_LINES = 100


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
    context = {"form": form, "rows": rows, "made": made, "password": password, "roles": ROLE_CHOICES}
    return render(request, "settings/people.html", context, status=422 if form.errors else 200)


@require_POST
def person_change(request: HttpRequest, user_id: int) -> HttpResponse:
    """Another role for somebody, or their account switched off or on."""
    if "active" in request.POST:
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
    form, made, plain = KeyForm(request.POST or None), None, ""
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["days"]
        ends = timezone.now() + timedelta(days=days) if days else None
        try:
            made, plain = access.create_key(who, form.cleaned_data["name"], form.cleaned_data["role"], ends)
            form = KeyForm()
        except InvalidInputError as error:
            form.add_error("name", error.message)
    context = {"form": form, "rows": ApiKey.objects.order_by("-id"), "made": made, "plain": plain}
    return render(request, "settings/keys.html", context, status=422 if form.errors else 200)


@require_POST
def key_revoke(request: HttpRequest, key_id: int) -> HttpResponse:
    """Makes a key useless at once."""
    key = access.revoke_key(actor(request), key_id)
    messages.success(request, f"The key {key.name} no longer opens anything.")
    return redirect("settings-keys")


def values(request: HttpRequest) -> HttpResponse:
    """Every setting with its value; admins change them one by one."""
    who = actor(request)
    key, typed, fault = request.POST.get("key", ""), request.POST.get("value", ""), ""
    if request.method == "POST":
        try:
            settings.put(who, key, typed)
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
        "key": key, "typed": value, "fault": "", "definition": definition, "is_changed": is_changed,
        "id": "setting-" + key.replace(".", "-"), "mode": "text" if isinstance(definition.default, str) else "decimal",
    }  # fmt: skip


def audit(request: HttpRequest) -> HttpResponse:
    """Who did what, newest first."""
    actor(request).require(Role.ADMIN)
    before = request.GET.get("before", "")
    lines = AuditLine.objects.all()
    if before.isdecimal() and len(before) < 19:
        lines = lines.filter(pk__lt=int(before))
    shown = list(lines[: AUDIT_LINES + 1])
    more = shown[AUDIT_LINES - 1].pk if len(shown) > AUDIT_LINES else None
    return render(request, "settings/audit.html", {"lines": shown[:AUDIT_LINES], "more": more})
