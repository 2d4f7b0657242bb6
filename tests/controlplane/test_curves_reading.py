"""Curves between two steps and from afar: extremes stay, a rewind leaves nothing behind, keys tell of themselves."""

import math

import numpy as np
import pytest

from controlplane.models import Metric, MetricBlock, Run
from controlplane.services import curve_reading, curves
from controlplane.services.curves import BLOCK_POINTS
from controlplane.services.points import Point
from tests.factories import make_client, make_run

pytestmark = pytest.mark.django_db
LONG = 3 * BLOCK_POINTS + 700


def wave(count: int, start: int = 1) -> list[Point]:
    values = np.sin(np.arange(start, start + count) / 997.0)
    return [(start + index, value, 1000.0 + start + index) for index, value in enumerate(values.tolist())]


@pytest.fixture
def long_run() -> Run:
    """Three blocks and some; a spike in each block, one in the rest, and a NaN."""
    run, points = make_run(), wave(LONG)
    for place, value in ((5000, 50.0), (40_000, -60.0), (90_000, 70.0), (LONG - 300, 80.0), (50_000, math.nan)):
        points[place] = (place + 1, value, points[place][2])
    for start in range(0, LONG, 20_000):  # no multiple of a chunk: chunks are filled up on the way
        curves.append(run, "train/loss", points[start : start + 20_000])
    return run


def series(run: Run, most: int, after: int | None = None, until: int | None = None) -> curve_reading.Series:
    return curve_reading.read(run, ["train/loss"], after, most, until)["train/loss"]


def test_from_afar_every_extreme_stays_and_each_look_is_the_same(long_run: Run) -> None:
    drawn = series(long_run, 300)
    assert len(drawn["step"]) <= 300
    assert drawn["count"] == LONG
    assert {50.0, -60.0, 70.0, 80.0, "NaN"} <= set(drawn["value"])
    assert drawn["step"] == sorted(set(drawn["step"]))
    assert (drawn["step"][0], drawn["step"][-1]) == (1, LONG)
    assert drawn == series(long_run, 300)


def test_blocks_are_read_from_afar_and_chunks_near_by(long_run: Run) -> None:
    assert [block.count for block in long_run.metricblocks.all()] == [BLOCK_POINTS] * 3
    assert all(len(bytes(block.steps)) <= 512 * 8 for block in long_run.metricblocks.all())
    MetricBlock.objects.all().delete()
    assert len(series(long_run, 300)["step"]) < 300, "the blocks are what is drawn from afar"
    assert len(series(long_run, 300, 10_000, 20_000)["step"]) > 250, "near by, points are read themselves"


@pytest.mark.parametrize(("after", "until"), [(None, 40), (100, 612), (5000, 5002), (32_768, 98_304), (99_000, None)])
def test_a_span_has_its_own_points_and_no_others(long_run: Run, after: int | None, until: int | None) -> None:
    first, last = (after or 0) + 1, until or LONG
    drawn = series(long_run, 20_000, after, until)
    assert (drawn["step"][0], drawn["step"][-1]) == (first, last)
    if last - first < 20_000:
        assert drawn["step"] == list(range(first, last + 1))
        assert drawn["count"] == len(drawn["step"])


def test_a_span_of_many_blocks_begins_and_ends_where_it_was_told(long_run: Run) -> None:
    drawn = series(long_run, 100, 700, 90_100)
    assert 700 < drawn["step"][0] < 1500
    assert 89_000 < drawn["step"][-1] <= 90_100
    assert {50.0, -60.0, 70.0} <= set(drawn["value"])
    assert 80.0 not in drawn["value"]


def test_a_span_without_points_is_empty(long_run: Run) -> None:
    assert series(long_run, 100, LONG + 5, LONG + 10)["step"] == []
    assert series(long_run, 100, None, 0)["step"] == []


@pytest.mark.parametrize("step", [BLOCK_POINTS, 2 * BLOCK_POINTS - 1, 2 * BLOCK_POINTS, LONG - 1])
def test_after_a_resume_the_curve_is_that_of_a_run_that_never_broke_off(long_run: Run, step: int) -> None:
    assert curves.rewind(long_run, step)
    curves.append(long_run, "train/loss", wave(LONG - step, step + 1))
    straight, points = make_run(), wave(LONG)
    for place, value in ((5000, 50.0), (40_000, -60.0), (90_000, 70.0), (50_000, math.nan)):
        if place < step:
            points[place] = (place + 1, value, points[place][2])
    if step == LONG - 1:
        points[LONG - 300] = (LONG - 299, 80.0, points[LONG - 300][2])
    curves.append(straight, "train/loss", points)
    assert series(long_run, 300) == series(straight, 300)
    assert curves.described(long_run) == curves.described(straight)


def test_keys_tell_of_themselves_without_their_points(long_run: Run) -> None:
    curves.append(long_run, "<b>loss</b>", [(1, math.inf, 1.0), (2, math.nan, 2.0)])
    by_key = {row["key"]: row for row in curves.described(long_run)}
    assert by_key["<b>loss</b>"] == {
        "key": "<b>loss</b>", "count": 2, "broken": 2, "first_step": 1, "last_step": 2, "last": "NaN",
        "min": None, "max": None,
    }  # fmt: skip
    train = by_key["train/loss"]
    assert (train["count"], train["broken"], train["min"], train["max"]) == (LONG, 1, -60.0, 80.0)


def test_a_step_that_comes_again_is_left_out() -> None:
    run = make_run()
    curves.append(run, "loss", [(1, 1.0, 1.0), (2, 2.0, 2.0), (2, 9.0, 3.0), (1, 9.0, 4.0), (3, 3.0, 2.0)])
    curves.append(run, "loss", [(3, 9.0, 9.0), (4, 4.0, 1.0)])
    found = curve_reading.read(run, ["loss"], None, 100)["loss"]
    assert (found["step"], found["value"]) == ([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0])
    assert found["time"] == [1.0, 2.0, 2.0, 1.0], "a clock that ran backwards is told as it was"
    assert Metric.objects.get(run=run).count == 4


@pytest.mark.parametrize("key", ["a" * 500, "a" * 499 + "b", "half \ud800 a pair", "nul\0"])
def test_any_key_can_be_stored(key: str) -> None:
    run = make_run()
    curves.append(run, curves.stored_key(key), [(1, 1.0, 1.0)])
    (kept,) = curves.keys(run)
    assert len(kept) <= 200
    assert curves.stored_key("a" * 500) != curves.stored_key("a" * 499 + "b")


def test_the_api_answers_spans_and_keys_with_any_name() -> None:
    run, client = make_run(), make_client("read")
    names: list[str] = ["eval/a,b", "<script>alert(1)</script>", "system/gpu.0/power", "x" * 200]
    for name in names:
        curves.append(run, name, wave(50))
    path = f"/api/runs/{run.pk}/metrics"
    answer = client.get(path, [*(("keys", name) for name in names), ("from_step", 11), ("to_step", 20)]).json()
    assert set(answer["series"]) == set(names)
    assert all(one["step"] == list(range(11, 21)) and one["count"] == 10 for one in answer["series"].values())
    curves.resumed(run, 30, 5.0)
    told = client.get(f"{path}/keys").json()
    assert [row["key"] for row in told["keys"]] == sorted(names)
    assert told["started"] == 1001.0
    assert told["resumed"] == [{"step": 30, "time": 5.0}]
    assert client.get(path, {"max_points": 1}).status_code == 422
    assert client.get(path, {"from_step": 10**30}).status_code == 422


def test_a_resumption_before_another_takes_its_place() -> None:
    run = make_run()
    for step in (100, 200, 150, 0):
        curves.resumed(run, step, 1.0)
        if step == 150:
            assert [row.step for row in run.resumptions.all()] == [100, 150]
    assert not run.resumptions.exists()
