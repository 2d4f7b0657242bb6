"""Stop strings, wherever they lie."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from inference.engine.stopping import StopMatcher

LETTERS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=3)


def run(parts: list[str], stops: list[str]) -> tuple[str, bool]:
    matcher, text = StopMatcher(stops), ""
    for part in parts:
        text += matcher.push(part)
        if matcher.is_stopped:
            return text, True
    return text + matcher.finish(), False


@given(text=LETTERS, cuts=st.lists(st.integers(0, 30)), stops=STOPS)
def test_the_text_ends_before_the_first_stop_string_however_it_is_cut(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(edges)]
    result, is_stopped = run(parts, stops)
    places = [text.find(stop) for stop in stops if stop in text]
    assert is_stopped == bool(places)
    if not places:
        assert result == text
        return
    # The first stop string to be complete wins; cut at one place or the other, no stop string is given out.
    assert text.startswith(result)
    assert not any(stop in result for stop in stops)
    assert result in {text[:place] for place in places}


def test_text_that_may_begin_a_stop_string_is_held_and_the_rest_is_not() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert matcher.push("Aye.\n") == "Aye."
    assert matcher.push("\nU") == ""
    assert matcher.push("p we go") == "\n\nUp we go"
    assert matcher.finish() == ""


def test_an_empty_stop_string_stops_nothing() -> None:
    assert run(["abc"], [""]) == ("abc", False)
