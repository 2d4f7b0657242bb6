"""Power and heat: profiles, persistence mode, schedules, the thermal guard. Runs in the web process."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings as django_settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from controlplane.errors import InvalidInputError
from controlplane.models import Gpu, Host, Job, PowerSchedule
from controlplane.pages.actors import actor
from controlplane.pages.forms.edits import one_at_a_time
from controlplane.pages.forms.power import GuardForm, RulesForm, ScheduleForm
from controlplane.pages.instruments import PowerButton
from controlplane.pages.power_notes import Note, notes
from controlplane.pages.topics import mark
from controlplane.services import hosts, persistence, power, power_profiles, schedules, settings, thermal

NOT_KNOWN = "not known"
HEAT_WORDS = ("cool", "power stepped down", "new jobs wait", "runs paused")
HEAT_TONES = ("ok", "warn", "warn", "bad")


@dataclass(frozen=True)
class PowerCard:
    """One GPU as the page shows it."""

    gpu: Gpu
    reading: Mapping[str, Any]
    buttons: list[PowerButton]
    answer: Mapping[str, Any]
    persistence: Mapping[str, Any]
    notes: list[Note]
    clamped: str
    heat: str
    heat_tone: str
    paused: list[Job]


@dataclass(frozen=True)
class HostCards:
    """A host with its GPUs. `profile`: the one that all of them have, or nothing."""

    host: Host
    cards: list[PowerCard]
    profile: str


@dataclass(frozen=True)
class ScheduleRow:
    """One schedule in words."""

    schedule: PowerSchedule
    scope: str
    days: str
    is_open: bool
    next_edge: datetime | None


def overview(request: HttpRequest) -> HttpResponse:
    """The whole page."""
    return _page(request)


def cards(request: HttpRequest) -> HttpResponse:
    """The part with the GPUs, drawn anew when their power or heat has changed."""
    return render(request, "power/cards.html", _cards())


@require_POST
def set_profile(request: HttpRequest) -> HttpResponse:
    """Sets a profile on all GPUs, one host's (`host`), or one (`gpu`); shows what was read back of each."""
    host, gpu = _scope(request)
    outcomes = power.request(actor(request), request.POST.get("profile", ""), host=host, gpu=gpu)
    said = [(item, _limit_words(item)) for item in outcomes if item["power_limit_w"] is not None]
    return _after_press(request, said, [item for item in outcomes if item["power_limit_w"] is None])


def _limit_words(outcome: power.Outcome) -> str:
    gpu = Gpu.objects.filter(host__name=outcome["host"], uuid=outcome["uuid"]).first()
    return (power_profiles.clamped_words(gpu) if gpu else "") or f"{outcome['power_limit_w']:g} W"


@require_POST
def set_persistence(request: HttpRequest) -> HttpResponse:
    """Sets persistence mode in the same way."""
    host, gpu = _scope(request)
    wanted = request.POST.get("enabled") == "yes"
    outcomes = persistence.request(actor(request), wanted, host=host, gpu=gpu)
    said = [(item, f"persistence mode {'on' if item['enabled'] else 'off'}") for item in outcomes]
    return _after_press(request, said, [])


def _scope(request: HttpRequest) -> tuple[str | None, int | None]:
    """Which GPUs are meant. Raises InvalidInputError for an index that is none: all would be meant then."""
    index = request.POST.get("gpu", "")
    if index and not (index.isdecimal() and len(index) < 9):
        raise InvalidInputError(f"{index!r} is no index of a GPU.")
    return request.POST.get("host") or None, int(index) if index else None


def _after_press(request: HttpRequest, said: Iterable[tuple[Any, str]], others: Iterable[Any]) -> HttpResponse:
    """The cards tell it all where they are drawn anew; a page that is loaded anew gets it as sentences."""
    if request.headers.get("HX-Request"):
        return cards(request)
    for item, words in [*said, *((item, "") for item in others)]:
        where = f"GPU {item['index']} on {item['host']}"
        if item["set"]:
            messages.success(request, f"{where}: {words}, set and read back.")
        else:
            messages.error(request, f"{where}: {item['reason']}")
    return redirect("power")


# --- Schedules --------------------------------------------------------------------------------------------------------


@require_POST
def schedule_add(request: HttpRequest) -> HttpResponse:
    """Makes a schedule by the form."""
    form = ScheduleForm(request.POST, places=_places())
    if form.is_valid():
        try:
            row = schedules.create(actor(request), form.values())
            messages.success(request, f"From now on: {schedules.describe(row)}.")
            return redirect("power")
        except InvalidInputError as error:
            form.refuse(error, {"host": "where"})
    return _page(request, schedule_form=form)


@require_POST
def schedule_switch(request: HttpRequest, schedule_id: int) -> HttpResponse:
    """Switches a schedule on or off."""
    row = schedules.update(actor(request), schedule_id, {"is_enabled": request.POST.get("enabled") == "yes"})
    messages.success(request, f"The schedule is {'on' if row.is_enabled else 'off'}: {schedules.describe(row)}.")
    return redirect("power")


@require_POST
def schedule_delete(request: HttpRequest, schedule_id: int) -> HttpResponse:
    """Forgets a schedule."""
    schedules.delete(actor(request), schedule_id)
    messages.success(request, "The schedule is gone. The GPUs keep the profile that they have.")
    return redirect("power")


# --- Settings ---------------------------------------------------------------------------------------------------------


@require_POST
def rules(request: HttpRequest) -> HttpResponse:
    """Changes how many runs a profile takes, and what becomes of limits that others change."""
    with one_at_a_time(request):
        form = RulesForm(request.POST)
        if form.is_valid():
            for key, value in form.cleaned_data.items():
                if settings.get(key) != value:
                    settings.put(actor(request), key, value)
            messages.success(request, "Saved. Counts hold from the next job on, the rest within a minute.")
            return redirect("power")
    return _page(request, rules_form=form)


@require_POST
def guard(request: HttpRequest) -> HttpResponse:
    """Changes the thermal guard."""
    with one_at_a_time(request):
        form = GuardForm(request.POST)
        if form.is_valid():
            try:
                thermal.configure(actor(request), form.cleaned_data)
                messages.success(request, "Saved. The guard looks every five seconds.")
                return redirect("power")
            except InvalidInputError as error:
                form.refuse(error)
    return _page(request, guard_form=form)


# --- What is shown ----------------------------------------------------------------------------------------------------


def _page(
    request: HttpRequest, *, schedule_form: ScheduleForm | None = None, rules_form: RulesForm | None = None,
    guard_form: GuardForm | None = None,
) -> HttpResponse:  # fmt: skip
    forms = (schedule_form, rules_form, guard_form)
    context = {
        "live": mark("hosts"), **_cards(), "rows": [_schedule_row(row) for row in schedules.list_schedules()],
        "schedule_form": schedule_form or ScheduleForm(places=_places()), "rules_form": rules_form or RulesForm(),
        "guard_form": guard_form or GuardForm(), "profiles": power_profiles.PROFILES.values(),
        "time_zone": django_settings.TIME_ZONE, "now": timezone.now(), "sweeps_url": _sweeps_url(),
    }  # fmt: skip
    return render(request, "power/page.html", context, status=422 if any(forms) else 200)


def _sweeps_url(name: str = "sweeps") -> str:
    try:
        return reverse(name)
    except NoReverseMatch:
        return ""


def _cards() -> dict[str, Any]:
    planned = [row for row in schedules.list_schedules() if row.is_enabled]
    groups = []
    for host in hosts.list_hosts():
        found = [_card(gpu) for gpu in hosts.gpus_of(host)]
        if found:
            groups.append(HostCards(host, found, _common(card.gpu for card in found)))
    shown = [card for group in groups for card in group.cards]
    draws = [card.reading.get("power_draw_watts") for card in shown]
    allowed = [card.reading.get("power_limit_watts") for card in shown]
    hottest = max((card for card in shown if card.reading.get("temperature_celsius") is not None),
                  key=lambda card: card.reading["temperature_celsius"], default=None)  # fmt: skip
    return {
        "groups": groups, "count": len(shown), "profile": _common(card.gpu for card in shown), "hottest": hottest,
        "drawn": sum(filter(None, draws)) if any(draw is not None for draw in draws) else None,
        "allowed": sum(filter(None, allowed)) if any(limit is not None for limit in allowed) else None,
        "next_change": min(filter(None, (schedules.next_edge(row) for row in planned)), default=None),
        "names": list(power_profiles.PROFILES), "limits": thermal.limits(),
    }  # fmt: skip


def _common(gpus: Iterable[Gpu]) -> str:
    names = {gpu.power_profile for gpu in gpus}
    return names.pop() if len(names) == 1 else ""


def _card(gpu: Gpu) -> PowerCard:
    watts, heat = power_profiles.watts_by_profile(gpu), gpu.heat or {}
    buttons = [PowerButton(name, watts[name], gpu.power_profile == name) for name in power_profiles.PROFILES]
    heat_words, heat_tone = _heat(gpu)
    return PowerCard(
        gpu=gpu, reading=gpu.reading, buttons=buttons, answer=gpu.power_answer or {},
        persistence=power.persistence_facts(gpu), notes=notes(gpu),
        clamped=power_profiles.clamped_words(gpu), heat=heat_words, heat_tone=heat_tone,
        paused=list(Job.objects.filter(pk__in=heat.get("paused_jobs", [])).select_related("run")),
    )  # fmt: skip


def _heat(gpu: Gpu) -> tuple[str, str]:
    """How hot it is, in a word and a colour. Not known is not cool; what the guard holds, it holds."""
    is_told = gpu.reading.get("temperature_celsius") is not None and not gpu.reading.get("fault")
    if gpu.heat_level == 0 and not is_told:
        return NOT_KNOWN, "idle"
    return HEAT_WORDS[gpu.heat_level], HEAT_TONES[gpu.heat_level]


def _places() -> list[tuple[str, str]]:
    """Where a schedule may hold: the form's value and its words."""
    found = [("", "every GPU")]
    for host in hosts.list_hosts():
        gpus = hosts.gpus_of(host)
        if gpus:
            found.append((f"{host.name}/", f"every GPU of {host.name}"))
            found += [(f"{host.name}/{gpu.index}", f"GPU {gpu.index} on {host.name}, {gpu.name}") for gpu in gpus]
    return found


def _schedule_row(row: PowerSchedule) -> ScheduleRow:
    now = timezone.now()
    is_open = row.is_enabled and schedules.current_window(row, now) is not None
    return ScheduleRow(row, schedules.scope(row), schedules.days_in_words(row), is_open, schedules.next_edge(row, now))
