"""Everything that a GPU's reading says, as rows of words and figures. Runs in the web process.

A figure that moves stands in an element with `data-figure`, which instruments.js keeps true by the same rules as
`figure_text` here. What the card doesn't have is "not supported"; what isn't known just now is a dash.
"""

import json
from dataclasses import dataclass
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from controlplane.pages import tags

NOT_SUPPORTED = format_html('<span class="muted">{}</span>', "not supported")
NOT_KNOWN = format_html('<span class="muted" title="Not known just now">{}</span>', tags.DASH)

REASONS = {
    "gpu_idle": "idle", "applications_clocks_setting": "the clocks that an application has set",
    "sw_power_cap": "the power limit", "hw_slowdown": "the hardware (heat or power supply)",
    "sync_boost": "sync boost with other cards", "sw_thermal_slowdown": "heat (driver)",
    "hw_thermal_slowdown": "heat (hardware)", "hw_power_brake_slowdown": "the power supply's brake",
    "display_clock_setting": "the display's clocks", "board_limit": "the board's power limit",
    "reliability": "the voltage's reliability limit",
}  # fmt: skip
"""NVML's clocks-event reasons: what holds the clocks down."""


@dataclass(frozen=True)
class Row:
    """One line of the list: what it is, and its value as HTML."""

    label: str
    value: SafeString


def rows(reading: dict[str, Any]) -> list[Row]:
    """The lines for a GPU's last reading, in the order in which they are shown."""
    return [
        Row("SM clock", _of(reading, "clock_sm_mhz", "clock_sm_max_mhz", "MHz")),
        Row("memory clock", _of(reading, "clock_memory_mhz", "clock_memory_max_mhz", "MHz")),
        Row("held down by", _reasons(reading)),
        Row("performance state", _figure(reading, "performance_state", before="P")),
        Row("memory busy", _figure(reading, "utilization_memory_percent", after=" %")),
        Row("fan", _figure(reading, "fan_speed_percent", after=" %")),
        Row("power range", _power_range(reading)),
        Row("PCIe link", _link(reading)),
        Row("PCIe traffic", _traffic(reading)),
        Row("ECC", _ecc(reading)),
        Row("UUID", format_html('<span class="mono breaks">{}</span>', reading.get("uuid", tags.DASH))),
    ]


def figure_text(name: str, value: Any) -> str:
    """A figure of a reading as text without its unit, by what its name ends on."""
    if name.endswith("_bytes_per_second"):
        return f"{tags.filesize(value)}/s"
    if name.endswith("_bytes"):
        return tags.gib(value)
    return tags.count(value)


def missing(reading: dict[str, Any], name: str) -> SafeString | None:
    """The words for a figure that isn't there, or None where it is."""
    if name in (reading.get("unsupported") or ()):
        return NOT_SUPPORTED
    return NOT_KNOWN if reading.get(name) is None else None


def _span(reading: dict[str, Any], name: str) -> SafeString:
    return format_html('<span data-figure="{}">{}</span>', name, figure_text(name, reading[name]))


def _figure(reading: dict[str, Any], name: str, *, before: str = "", after: str = "") -> SafeString:
    absent = missing(reading, name)
    return absent if absent is not None else format_html("{}{}{}", before, _span(reading, name), after)


def _of(reading: dict[str, Any], name: str, most: str, unit: str) -> SafeString:
    absent = missing(reading, name)
    if absent is not None:
        return absent
    if reading.get(most) is None:
        return format_html("{} {}", _span(reading, name), unit)
    return format_html('{} <span class="muted">of {} {}</span>', _span(reading, name), tags.count(reading[most]), unit)


def _reasons(reading: dict[str, Any]) -> SafeString:
    absent = missing(reading, "throttle_reasons")
    if absent is not None:
        return absent
    words = ", ".join(REASONS.get(reason, reason) for reason in reading["throttle_reasons"]) or "nothing"
    return format_html('<span data-reasons="{}">{}</span>', json.dumps(REASONS), words)


def _power_range(reading: dict[str, Any]) -> SafeString:
    absent = missing(reading, "power_limit_min_watts") or missing(reading, "power_limit_max_watts")
    if absent is not None:
        return absent
    low, high = tags.count(reading["power_limit_min_watts"]), tags.count(reading["power_limit_max_watts"])
    default = reading.get("power_limit_default_watts")
    return format_html("{} to {} W{}", low, high, "" if default is None else f", by default {tags.count(default)} W")


def _link(reading: dict[str, Any]) -> SafeString:
    absent = missing(reading, "pcie_generation") or missing(reading, "pcie_width")
    if absent is not None:
        return absent
    now = (reading["pcie_generation"], reading["pcie_width"])
    most = (reading.get("pcie_generation_max"), reading.get("pcie_width_max"))
    if None in most or now == most:
        return format_html("gen {} ×{}", *now)
    # The generation falls by itself while a card idles; lanes that are missing are a matter of its slot.
    tone = "warn-text" if now[1] < most[1] else "muted"
    return format_html('gen {} ×{} <span class="{}">of gen {} ×{}</span>', *now, tone, *most)


def _traffic(reading: dict[str, Any]) -> SafeString:
    sent, received = "pcie_sent_bytes_per_second", "pcie_received_bytes_per_second"
    absent = missing(reading, sent) or missing(reading, received)
    return absent or format_html("{} out, {} in", _span(reading, sent), _span(reading, received))


def _ecc(reading: dict[str, Any]) -> SafeString:
    absent = missing(reading, "ecc_enabled")
    if absent is not None:
        return absent
    if not reading["ecc_enabled"]:
        return format_html("{}", "off")
    counts = [
        (tags.count(reading.get(f"ecc_{word}_count")), word, "bad-text" if word == "uncorrected" and reading.get(
            "ecc_uncorrected_count") else "")
        for word in ("corrected", "uncorrected")
    ]  # fmt: skip
    return format_html("on, {}", format_html_join(", ", '<span class="{2}">{0} {1}</span>', counts))
