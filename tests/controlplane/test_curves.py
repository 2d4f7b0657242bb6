"""Curves: what is stored comes back, thinned the same way each time, rewound by a resume."""

import math

import pytest

from controlplane.services import curve_reading, curves
from controlplane.services.points import Point
from tests.factories import make_run

pytestmark = pytest.mark.django_db


def points(count: int, start: int = 1) -> list[Point]:
    return [(step, math.sin(step / 50), 1000.0 + step) for step in range(start, start + count)]


def test_points_come_back_as_they_were_over_several_chunks() -> None:
    run, given = make_run(), points(1300)
    for start in range(0, 1300, 170):
        curves.append(run, "loss", given[start : start + 170])
    series = curve_reading.read(run, ["loss"], None, 5000)["loss"]
    assert list(zip(series["step"], series["value"], series["time"], strict=True)) == given
    assert [chunk.count for chunk in run.metricchunks.all()] == [512, 512, 276]


def test_after_step_gives_only_what_is_new() -> None:
    run = make_run()
    curves.append(run, "loss", points(600))
    assert curve_reading.read(run, ["loss"], 590, 5000)["loss"]["step"] == list(range(591, 601))


def test_thinning_keeps_spikes_ends_and_is_the_same_each_time() -> None:
    run, given = make_run(), points(20_000)
    given[12_345] = (12_346, 99.0, 13_346.0)
    curves.append(run, "loss", given)
    series = curve_reading.read(run, ["loss"], None, 500)["loss"]
    assert len(series["step"]) <= 500
    assert 99.0 in series["value"]
    assert (series["step"][0], series["step"][-1]) == (1, 20_000)
    assert series == curve_reading.read(run, ["loss"], None, 500)["loss"]


@pytest.mark.parametrize("most", range(2, 13))
def test_no_curve_has_more_points_than_were_asked_for(most: int) -> None:
    run, given = make_run(), points(200)
    given[50:60] = [(step, math.nan, time) for step, _, time in given[50:60]]
    curves.append(run, "loss", given)
    steps = curve_reading.read(run, ["loss"], None, most)["loss"]["step"]
    assert 2 <= len(steps) <= most
    assert (steps[0], steps[-1]) == (1, 200)


def test_many_curves_share_the_points_of_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_reading, "ANSWER_POINTS", 200)
    run = make_run()
    curves.append_all(run, {f"key {place}": points(300) for place in range(10)})
    series = curve_reading.answer(run, max_points=300)["series"]
    assert sum(len(curve["step"]) for curve in series.values()) <= 200
    assert {curve["count"] for curve in series.values()} == {300}
    assert len(curve_reading.answer(run, ["key 1"], max_points=150)["series"]["key 1"]["step"]) > 140


def test_nan_survives_as_the_contracts_string_also_when_thinned() -> None:
    run, given = make_run(), points(5000)
    given[2500] = (2501, math.nan, 3501.0)
    given[2600] = (2601, math.inf, 3601.0)
    curves.append(run, "loss", given)
    for limit in (5000, 300):
        series = curve_reading.read(run, ["loss"], None, limit)["loss"]
        assert series["value"][series["step"].index(2501)] == "NaN"
        assert series["value"][series["step"].index(2601)] == "Infinity"


@pytest.mark.parametrize("step", [0, 100, 512, 700, 1300])
def test_rewind_takes_away_what_lies_beyond(step: int) -> None:
    run, given = make_run(), points(1300)
    curves.append(run, "loss", given)
    assert curves.rewind(run, step) == (step < 1300)
    assert curve_reading.read(run, ["loss"], None, 5000)["loss"]["step"] == list(range(1, step + 1))
    curves.append(run, "loss", points(3, step + 1))
    assert curves.last_step(run) == step + 3


def test_series_says_where_the_live_topic_stood() -> None:
    run = make_run()
    curves.append(run, "loss", points(5))
    answer = curve_reading.answer(run, ["loss", "unknown"])
    assert set(answer["series"]) == {"loss"}
    assert (answer["last_step"], answer["last_seq"]) == (5, 0)
