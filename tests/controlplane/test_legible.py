"""Names that people write, in any script, and those that would turn or hide the text around them."""

import pytest

from controlplane.legible import is_legible, made_legible

WRITTEN = (
    "", "plain", "a b", "<b>bold</b>", "日本語\u3000名前", "não\u00a0quebra", "שלום עולם", "مرحبا بالعالم",
    "می\u200cخواهم",  # Persian: a non-joiner inside a word
    "क्\u200dष",  # Devanagari: a joiner
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",  # a family
    "\U0001f3f3\ufe0f\u200d\U0001f308",  # the rainbow flag
    "\U0001f1eb\U0001f1f7",  # the flag of France
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # Scotland's
    "\U0001fae8 shaking",  # an emoji younger than this Python's tables
)  # fmt: skip
REFUSED = (
    "a\nb", "a\tb", "a\0b", "a\x1b[31mb", "a\u2028b", "a\u202eb", "a\u202ab", "a\u2066b\u2069", "a\u200fb", "a\u200eb",
    "\u200da", "a\u200d", "a\u200d\u200db", "a \u200db", "zero\u200bwidth", "soft\u00adhyphen", "\ufeffbom",
    "\U000e0067\U000e0062", "a\ud800b", "\ue000",
)  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN)
def test_what_people_write_is_legible(text: str) -> None:
    assert is_legible(text)


@pytest.mark.parametrize("text", REFUSED)
def test_what_turns_hides_or_breaks_a_line_is_not(text: str) -> None:
    assert not is_legible(text)


@pytest.mark.parametrize("text", WRITTEN)
def test_a_title_keeps_what_is_legible(text: str) -> None:
    assert made_legible(text) == text


@pytest.mark.parametrize("text", REFUSED)
def test_a_title_is_made_of_any_text(text: str) -> None:
    assert is_legible(made_legible(text))
