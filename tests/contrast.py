"""The palette of static/css/tokens.css and how well its colours stand apart, as WCAG 2 reckons it: tests, docs."""

import re
from pathlib import Path

TOKENS = Path(__file__).resolve().parent.parent / "static" / "css" / "tokens.css"
THEMES = {"light": ":root", "dark": '[data-theme="dark"]'}
TEXT, PART = 4.5, 3.0
"""The least contrast of text, and of what isn't text but must be seen: edges, dots, lines of charts."""

GROUNDS = ("paper", "surface", "raised", "sunken")
PAIRS: dict[tuple[str, ...], dict[str, float]] = {
    GROUNDS: {
        **dict.fromkeys(("ink", "muted", "accent", "accent-strong", "ok", "warn", "bad"), TEXT),
        **dict.fromkeys(("edge", "idle", "series-1", "series-2", "series-3", "series-4"), PART),
    },
    ("accent-soft",): dict.fromkeys(("accent", "ink", "muted"), TEXT),
    ("ok-soft",): dict.fromkeys(("ok", "ink"), TEXT),
    ("warn-soft",): dict.fromkeys(("warn", "ink", "muted"), TEXT),
    ("bad-soft",): dict.fromkeys(("bad", "ink", "muted"), TEXT),
    ("accent", "accent-strong"): {"on-accent": TEXT},
    ("bad",): {"surface": TEXT},
}
"""Ground to what stands on it, with the contrast that it needs."""


def palette(theme: str) -> dict[str, str]:
    """Every colour of a theme by its token's name, as `#rrggbb`."""
    text = TOKENS.read_text()
    found: dict[str, str] = {}
    for name in ("light", theme):
        block = re.search(rf"^{re.escape(THEMES[name])} \{{(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
        assert block, f"tokens.css has no block for {name}"
        found |= dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})\b", block[1]))
    return found


def _luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """From 1 (the same) to 21 (black on white)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def pairs() -> list[tuple[str, str, float]]:
    """Everything that stands on something: (what, ground, the contrast that it needs)."""
    return [
        (name, ground, least) for grounds, names in PAIRS.items() for ground in grounds for name, least in names.items()
    ]
