"""How figures, times and states are written on pages: one way each. Runs in the web process (template built-ins).

Memory is counted in GiB as the cards and the kernel do, files and disks in GB as shops do; the unit always says which.
What isn't known is a dash.
"""

import math
from datetime import UTC, datetime
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from controlplane.services import alert_rules

register = template.Library()
DASH = "–"

TONES = {
    "running": "run", "active": "run", "pending": "idle", "paused": "warn", "done": "ok", "failed": "bad",
    "cancelled": "idle", "ready": "ok", "rejected": "bad", "validating": "run", "receiving": "run", "fetching": "run",
    "making": "run", "starting": "run", "checking": "run", "draining": "warn", "stopped": "idle", "waiting": "idle",
    "cancelling": "warn", "online": "ok", "offline": "bad",
    "evaluating": "run", "registering": "run", "activated": "ok", "refused": "idle",
    "settling": "idle", "taking": "run", "queued": "idle",
    "info": "idle", "warning": "warn", "critical": "bad", "sending": "run", "sent": "ok",
}  # fmt: skip
"""State to colour; the word always stands beside it."""


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _scaled(value: Any, step: int, units: tuple[str, ...]) -> tuple[str, str] | None:
    number = _number(value)
    if number is None:
        return None
    rank = 0
    while abs(number) >= step and rank < len(units) - 1:
        number /= step
        rank += 1
    text = f"{number:.0f}" if rank == 0 or number >= 100 else f"{number:.1f}"
    return text, units[rank]


@register.filter
def filesize(value: Any) -> str:
    """Bytes of a file: 38.1 MB."""
    parts = _scaled(value, 1000, ("B", "kB", "MB", "GB", "TB"))
    return f"{parts[0]} {parts[1]}" if parts else DASH


@register.filter
def gib(value: Any) -> str:
    """Bytes of memory as a bare figure in GiB: 17.2."""
    number = _number(value)
    return DASH if number is None else f"{number / 2**30:.1f}"


@register.filter
def gib_total(value: Any) -> str:
    """Bytes of memory that doesn't change, as a bare figure in GiB: 24."""
    number = _number(value)
    if number is None:
        return DASH
    gib = number / 2**30
    return f"{gib:,.0f}" if gib >= 1000 else f"{gib:.3g}"


@register.filter
def figure(value: Any, digits: int = 4) -> str:
    """A measured figure with so many significant digits: 0.4718, 6.1e-05, 11,840. "NaN" stays NaN."""
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return value
    number = _number(value)
    if number is None:
        return DASH
    if number != 0 and (abs(number) < 1e-3 or abs(number) >= 1e9):
        return f"{number:.{max(digits - 2, 1)}e}"
    if abs(number) >= 1000 or number == int(number):
        return f"{number:,.0f}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    return f"{number:.{min(decimals, digits)}f}"


@register.filter
def count(value: Any) -> str:
    """A whole number with its thousands apart."""
    number = _number(value)
    return DASH if number is None else f"{number:,.0f}"


@register.filter
def short_count(value: Any) -> str:
    """A large number in a few characters: 135 M, 11.8 k."""
    parts = _scaled(value, 1000, ("", "k", "M", "B"))
    return f"{parts[0]} {parts[1]}".strip() if parts else DASH


@register.filter
def percent(value: Any, total: Any) -> str:
    """The share of `total` as a bare figure from 0 to 100, for bars; 0 where either is unknown."""
    part, whole = _number(value), _number(total)
    if part is None or not whole:
        return "0"
    return f"{min(100.0, max(0.0, 100 * part / whole)):.1f}"


@register.filter
def money(value: Any) -> str:
    """An amount of money without its currency: 1.20; a small one isn't made nothing."""
    number = _number(value)
    if number is None:
        return DASH
    return "under 0.01" if 0 < number < 0.01 else f"{number:,.2f}"


@register.filter
def duration(seconds: Any) -> str:
    """Seconds in words: 6 min 12 s. Where a clock ran backwards between begin and end: 0 s."""
    number = _number(seconds)
    if number is None:
        return DASH
    whole = max(0, round(number))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@register.filter
def took(start: datetime | None, end: datetime | None = None) -> str:
    """How long from one moment to another (now where there is none)."""
    return DASH if start is None else duration(((end or timezone.now()) - start).total_seconds())


@register.filter
def moment(value: Any) -> SafeString:
    """A time, relative, with the exact one on hover; time.js keeps it true."""
    if isinstance(value, (int, float)):
        value = datetime.fromtimestamp(value, UTC)
    elif isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value is None:
        return format_html("<span>{}</span>", DASH)
    return format_html(
        '<time datetime="{}" title="{}" data-ago>{}</time>', value.isoformat(), _exactly(value), ago(value)
    )


def ago(value: datetime) -> str:
    """How long past (or ahead) a moment is, in one unit."""
    seconds = (timezone.now() - value).total_seconds()
    if abs(seconds) < 5:
        return "just now"
    size = abs(seconds)
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (math.inf, 86400, "d")):
        if size < limit:
            amount = f"{int(size // unit)} {name}"
            break
    return f"{amount} ago" if seconds > 0 else f"in {amount}"


@register.filter
def clock(value: datetime | float | None) -> str:
    """The time of day, of Unix seconds too."""
    if isinstance(value, (int, float)):
        value = datetime.fromtimestamp(value, UTC)
    return DASH if value is None else timezone.localtime(value).strftime("%H:%M:%S")


@register.filter
def clock_time(value: datetime | float | None) -> SafeString:
    """The time of day of something that happened lately, with the day on hover."""
    if value is None:
        return format_html("<span>{}</span>", DASH)
    known = datetime.fromtimestamp(value, UTC) if isinstance(value, (int, float)) else value
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', known.isoformat(), _exactly(known), clock(known)
    )  # fmt: skip


def _exactly(value: datetime) -> str:
    return timezone.localtime(value).strftime("%Y-%m-%d %H:%M:%S %Z")


@register.filter
def skew(seconds: Any) -> str:
    """How far a clock is from another, as words before the other's name: "1.3 s ahead of"."""
    number = _number(seconds)
    if number is None:
        return DASH
    if abs(number) < 0.1:
        return "in step with"
    size = duration(abs(number)) if abs(number) >= 60 else f"{abs(number):.1f} s"
    return f"{size} {'ahead of' if number > 0 else 'behind'}"


@register.filter
def tone(state: str) -> str:
    """The colour of a state, as the dot's class."""
    return TONES.get(str(state), "idle")


@register.filter
def alert_title(rule: str) -> str:
    """What a rule of alerts is called."""
    return alert_rules.title(rule)


@register.filter
def alert_is_event(rule: str) -> bool:
    """Whether it tells of something that happened, and not of something that goes on."""
    return alert_rules.is_event(rule)


@register.filter
def get(mapping: Any, key: Any) -> Any:
    """A value of a dict by a key that a template variable holds."""
    return mapping.get(key) if isinstance(mapping, dict) else None


@register.filter
def whole_percent(fraction: Any) -> str:
    """A fraction as a percentage: 0.05 is 5 %."""
    number = _number(fraction)
    return DASH if number is None else f"{100 * number:.3g} %"


_ICONS = {
    "bridge": "M3 11.5 10 4l7 7.5M5.2 9.6V16h9.6V9.6M8.5 16v-4h3v4",
    "runs": "M3 4v12h14M5.5 6.5c2 5.5 4.5 7 10.5 7",
    "models": "M10 3l6.5 3.6v6.8L10 17l-6.5-3.6V6.6zM3.7 6.7 10 10.2l6.3-3.5M10 10.2V17",
    "datasets": "M3.5 5.5c0-3 13-3 13 0v9c0 3-13 3-13 0zM3.5 5.5c0 3 13 3 13 0M3.5 10c0 3 13 3 13 0",
    "chat": "M3.5 4.5h13v9h-7L6 16.8v-3.3H3.5zM6.8 8h6.4M6.8 10.5h4",
    "queue": "M4 5.5h12M4 10h12M4 14.5h7",
    "evaluations": "M4 16V9.5M8 16V5M12 16v-8M16 16V3.5M3 16.5h14",
    "hosts": "M3.5 4h13v5h-13zM3.5 11h13v5h-13zM6 6.5h.01M6 13.5h.01",
    "alerts": "M10 3c-3 0-4.6 2-4.6 5 0 4-2 5-2 5h13s-1.9-1-1.9-5c0-3-1.6-5-4.6-5M8.4 15.6c.3 1.4 2.9 1.4 3.2 0",
    "settings": "M3 6h8M15 6h2M3 14h2M9 14h8M13 4v4M7 12v4",
    "more": "M5 10h.01M10 10h.01M15 10h.01",
    "upload": "M10 13V4M6.5 7.3 10 3.8l3.5 3.5M4 13v3h12v-3",
    "plus": "M10 4.5v11M4.5 10h11",
    "stop": "M6 6h8v8H6z",
    "send": "M3.5 10 16.5 4l-4 12.5-3-5.3z",
    "flag": "M6 17V3.5l8.5 3L6 9.8",
    "search": "M8.8 3.5a5.3 5.3 0 1 0 0 10.6 5.3 5.3 0 0 0 0-10.6M12.6 12.6 17 17",
}


@register.simple_tag
def icon(name: str) -> SafeString:
    """A small line drawing, for the eye alone: the word beside it says the same."""
    return mark_safe(  # noqa: S308 - a constant of this file
        f'<svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false"><path d="{_ICONS[name]}"/></svg>'
    )
