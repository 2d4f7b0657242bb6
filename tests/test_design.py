"""The design keeps its promises: contrast in both themes, one scale of type, colours of the palette, one page."""

import re
from pathlib import Path

import pytest

from controlplane.pages.styleguide import COLOURS, SIZES
from tests.contrast import TEXT, THEMES, contrast, pairs, palette

CHECKOUT = Path(__file__).resolve().parent.parent
SHEETS = sorted((CHECKOUT / "static" / "css").glob("*.css"))
PALETTES = ("tokens.css", "api-docs.css")
"""Where colours are written; the second is of a page that another draws."""

PAGE = CHECKOUT / "docs" / "design.md"


def test_contrast_is_reckoned_as_wcag_has_it() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=0.001)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("theme", THEMES)
def test_whatever_stands_on_something_can_be_told_from_it(theme: str) -> None:
    colours = palette(theme)
    low = [
        f"{name} on {ground}: {contrast(colours[name], colours[ground]):.2f}, where {least} is needed"
        for name, ground, least in pairs()
        if contrast(colours[name], colours[ground]) < least
    ]
    assert low == []


def test_night_has_a_colour_for_each_of_the_day() -> None:
    """A token that only the day names would shine through at night."""
    text = (CHECKOUT / "static" / "css" / "tokens.css").read_text()
    dark = text.partition('[data-theme="dark"] {')[2].partition("}")[0]
    assert set(re.findall(r"--([a-z0-9-]+): #", dark)) == set(palette("light"))


def test_the_page_of_the_design_shows_every_colour() -> None:
    assert sorted(name for names in COLOURS.values() for name in names) == sorted(palette("light"))


@pytest.mark.parametrize("sheet", [sheet for sheet in SHEETS if sheet.name not in PALETTES], ids=lambda path: path.name)
def test_colours_come_from_the_palette(sheet: Path) -> None:
    assert re.findall(r"#[0-9a-f]{3,8}\b(?=[^{]*\})", sheet.read_text()) == []


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda path: path.name)
def test_words_have_a_size_of_the_scale(sheet: Path) -> None:
    known = {f"{size}px" for size in (*SIZES, 19, 22)}  # the name on the login page, and figures on a phone
    assert set(re.findall(r"\bfont(?:-size)?: [^;}]*?(\d+px)", sheet.read_text())) <= known


@pytest.mark.parametrize("theme", THEMES)
def test_the_document_names_every_colour_and_its_contrast(theme: str) -> None:
    """`| token | value | on paper | on surface |` of each theme, as tokens.css has them now."""
    colours = palette(theme)
    section = PAGE.read_text().partition(f"### {theme.capitalize()}")[2].partition("\n#")[0]
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", section, re.MULTILINE))
    on = {name: [contrast(colours[name], colours[ground]) for ground in ("paper", "surface")] for name in colours}
    wanted = {name: f"`{colours[name]}` | {on[name][0]:.1f} | {on[name][1]:.1f}" for name in colours}
    assert rows == wanted
    assert f"{TEXT:g}" in PAGE.read_text()
