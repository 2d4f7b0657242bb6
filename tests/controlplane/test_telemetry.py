"""What hosts measured: stored once, made coarser without losing an extreme or a joule, read back, with gaps as gaps."""

import math
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import transaction

from controlplane import dispatch
from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.fleet.protocol import HostSample
from controlplane.models import Host, TelemetrySample
from controlplane.models.access import SYSTEM
from controlplane.services import energy, rollups, settings, telemetry
from tests.controlplane.hosts import AbsentHost
from tests.factories import make_gpu, make_host

pytestmark = pytest.mark.django_db
UUID = "GPU-00000001"
POWER = f"{UUID}/power_draw_watts"


def sample(at: float, **values: float) -> HostSample:
    return HostSample(time=at, values=values or {"cpu_percent": at % 100})


def power(at: float) -> float:
    """A curve of which one knows the integral: 200 W, with a swing that whole minutes don't see."""
    return 200 + 100 * math.sin(at / 7)


def joules(start: float, end: float) -> float:
    """The integral of `power`."""
    return 200 * (end - start) - 700 * (math.cos(end / 7) - math.cos(start / 7))


def minute_ago(minutes: float = 10) -> float:
    """A whole minute lately, so that nothing is pruned."""
    return time.time() // 60 * 60 - minutes * 60


def rows(host: Host, seconds: int) -> dict[float, dict[str, Any]]:
    found = TelemetrySample.objects.filter(host=host, resolution_seconds=seconds).order_by("time")
    return {row.time.timestamp(): row.values for row in found}


@pytest.fixture
def host() -> Host:
    return make_host("tower")


# --- Storing ---


def test_a_sample_that_comes_twice_is_stored_once(host: Host) -> None:
    start = minute_ago()
    first = [sample(start + second) for second in range(3)]
    assert telemetry.store(host, first) == first
    assert telemetry.store(host, [*first, sample(start + 3)]) == [sample(start + 3)]
    host.refresh_from_db()
    assert host.samples_until == start + 3
    assert list(rows(host, 1)) == [start, start + 1, start + 2, start + 3]


def test_samples_that_are_stored_already_are_not_new_when_the_cursor_was_lost(host: Host) -> None:
    start = minute_ago()
    telemetry.store(host, [sample(start + second) for second in range(20)])
    host.samples_until = None
    assert telemetry.store(host, [sample(start + second) for second in range(22)]) == [
        sample(start + 20), sample(start + 21),
    ]  # fmt: skip
    assert len(rows(host, 1)) == 22


def test_a_figure_that_is_no_number_is_left_out(host: Host) -> None:
    telemetry.store(host, [sample(minute_ago(), cpu_percent=3.0, load_1m=math.nan)])
    assert list(rows(host, 1).values()) == [{"cpu_percent": 3.0}]


def test_a_clock_that_is_set_back_is_followed(host: Host) -> None:
    now = minute_ago()
    telemetry.store(
        host, [sample(now - 3600, load_1m=1.0), *[sample(now + at, load_1m=1.0) for at in range(5)]], now + 4
    )
    assert telemetry.store(host, [], now - 3599) == []
    assert host.samples_until is None
    again = [sample(now - 3599 + second, load_1m=2.0) for second in range(3)]
    assert telemetry.store(host, [*again, sample(now)], now - 3596) == again
    host.refresh_from_db()
    assert host.samples_until == now - 3597
    assert [values["load_1m"] for values in rows(host, 1).values()] == [1.0, 2.0, 2.0, 2.0]


def test_seconds_that_come_again_are_stored_anew(host: Host) -> None:
    now = minute_ago()
    telemetry.store(host, [sample(now + second, load_1m=1.0) for second in range(200)], now + 200)
    telemetry.store(host, [sample(now + 100, load_1m=2.0)], now + 100)
    telemetry.store(host, [sample(now + 101, load_1m=2.0)], now + 101)
    assert [rows(host, 1)[now + second]["load_1m"] for second in (99, 100, 101)] == [1.0, 1.0, 2.0]
    assert now + 102 not in rows(host, 1)


def test_a_clock_that_is_set_back_a_little_moves_nothing(host: Host) -> None:
    at = minute_ago()
    telemetry.store(host, [sample(at)], at)
    telemetry.store(host, [], at - 30)
    assert host.samples_until == at


def test_samples_older_than_the_last_by_a_minute_are_stored(host: Host) -> None:
    at = minute_ago()
    telemetry.store(host, [sample(at)])
    telemetry.store(host, [sample(at - 100), sample(at - 99)])
    assert list(rows(host, 1)) == [at - 100, at - 99]
    assert host.samples_until == at - 99


# --- Polling ---


@pytest.fixture
def agent(host: Host, monkeypatch: pytest.MonkeyPatch) -> AbsentHost:
    absent = AbsentHost()
    absent.reading = {**host.reading, "time": time.time()}
    monkeypatch.setattr(dispatch, "carrier", lambda _host: absent)
    return absent


def test_what_the_agent_kept_while_nobody_polled_leaves_no_hole(host: Host, agent: AbsentHost) -> None:
    start = minute_ago()
    agent.samples = [sample(start + second) for second in range(5)]
    dispatch.poll(host)
    agent.samples += [sample(start + second) for second in range(5, 300)]  # the web process was away
    agent.reading = {**agent.reading, "time": time.time() + 1}
    dispatch.poll(Host.objects.get(pk=host.pk))
    assert list(rows(host, 1)) == [start + second for second in range(300)]


def test_samples_are_stored_when_the_reading_is_the_same(host: Host, agent: AbsentHost) -> None:
    dispatch.poll(host)
    agent.samples = [sample(minute_ago())]
    dispatch.poll(host)
    assert len(rows(host, 1)) == 1


def test_samples_that_could_not_be_stored_come_again(
    host: Host, agent: AbsentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object) -> None:
        raise RuntimeError("the disk is full")

    agent.samples = [sample(minute_ago())]
    with monkeypatch.context() as patch:
        patch.setattr(energy, "account", broken)
        with pytest.raises(RuntimeError), transaction.atomic():
            dispatch.poll(host)
    assert rows(host, 1) == {}
    dispatch.poll(host)
    assert len(rows(host, 1)) == 1


def test_how_far_a_hosts_clock_is_ahead_is_stored(
    host: Host, agent: AbsentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = agent.poll

    def ahead(*args: Any) -> Any:
        answer = real(*args)
        answer["now"] += 90
        return answer

    monkeypatch.setattr(agent, "poll", ahead)
    dispatch.poll(host)
    host.refresh_from_db()
    assert host.clock_skew_seconds == pytest.approx(90, abs=1)


# --- Growing coarser ---


def fill(host: Host, start: float, seconds: int, *, every: float = 1.0) -> None:
    count = round(seconds / every) + 1
    times = [start + index * every for index in range(count)]
    telemetry.store(host, [sample(at, **{POWER: power(at), "load_1m": 1.0}) for at in times])


def test_rolled_up_means_have_the_energy_of_the_samples(host: Host) -> None:
    start = minute_ago()
    fill(host, start, 302, every=1.003)
    telemetry.thin()
    tens, minutes = rows(host, 10), rows(host, 60)
    assert list(tens) == [start + 10 * number for number in range(30)]
    assert list(minutes) == [start + 60 * number for number in range(5)]
    for seconds, found in ((10, tens), (60, minutes)):
        total = sum(seconds * values[POWER][1] for values in found.values())
        assert total == pytest.approx(joules(start, start + 300), rel=0.001)


def test_uneven_samples_weigh_by_the_time_that_they_stand_for(host: Host) -> None:
    start = minute_ago()
    times = [start, *[start + 0.1 * number for number in range(1, 50)], start + 7, start + 9, start + 10]
    telemetry.store(host, [sample(at, **{POWER: 100.0 if at < start + 5 else 300.0}) for at in times])
    telemetry.thin()
    low, mean, high = rows(host, 10)[start][POWER]
    assert (low, high) == (100.0, 300.0)
    assert mean == pytest.approx((4.9 * 100 + 2.1 * 200 + 3 * 300) / 10)


def test_time_that_nobody_measured_counts_for_nothing(host: Host) -> None:
    start = minute_ago()
    known = [*[(start + second, 100.0) for second in range(4)], (start + 9, 400.0), (start + 10, 400.0)]
    telemetry.store(host, [sample(at, **{POWER: watts}) for at, watts in known])
    telemetry.thin()
    assert rows(host, 10)[start][POWER] == [100.0, 175.0, 400.0, 4.0]  # 3 s of 100 W and 1 s of 400 W


def test_only_finished_intervals_are_rolled_up_and_each_once(host: Host) -> None:
    start = minute_ago()
    fill(host, start, 64)
    telemetry.thin()
    before = rows(host, 10)
    assert list(before) == [start + 10 * number for number in range(6)]
    assert list(rows(host, 60)) == [start]
    telemetry.thin()
    assert rows(host, 10) == before
    telemetry.store(host, [sample(start + second, **{POWER: 5.0}) for second in range(65, 81)])
    telemetry.thin()
    assert list(rows(host, 10)) == [start + 10 * number for number in range(8)]
    assert rows(host, 10)[start + 60][POWER][0] == 5.0


def test_an_extreme_of_a_second_is_still_there_in_the_minute(host: Host) -> None:
    start = minute_ago()
    fill(host, start, 59)
    telemetry.store(host, [sample(start + 60, **{POWER: 1.0}), sample(start + 61, **{POWER: 999.0}),
                           sample(start + 62, **{POWER: 2.0}), sample(start + 120, **{POWER: 2.0})])  # fmt: skip
    telemetry.thin()
    assert rows(host, 60)[start + 60][POWER][::2] == [1.0, 999.0]


def test_what_was_left_over_a_downtime_is_caught_up(host: Host) -> None:
    start = minute_ago(45)
    fill(host, start, 30)
    telemetry.thin()
    fill(host, start + 1800, 600)
    telemetry.thin()
    expected = [start, start + 10, start + 20] + [start + 1800 + 10 * number for number in range(60)]
    assert [at for at in rows(host, 10) if at != start + 30] == expected


def test_what_is_too_old_is_taken_away_once_it_is_rolled_up(host: Host) -> None:
    start = minute_ago(120)
    fill(host, start, 120)
    TelemetrySample.objects.bulk_create(
        TelemetrySample(host=host, resolution_seconds=seconds, time=datetime.fromtimestamp(at, UTC), values={})
        for seconds, at in ((60, start - 86400 * 40), (60, start - 86400 * 20), (10, start - 86400 * 2))
    )
    telemetry.thin()
    assert rows(host, 1) == {}
    assert list(rows(host, 10)) == [
        start + 10 * number for number in range(13)
    ]  # for the last nothing can come any more
    assert list(rows(host, 60)) == [start - 86400 * 20, start - 86400 * 2, start, start + 60, start + 120]


def test_how_long_figures_are_kept_is_a_setting(host: Host) -> None:
    settings.put(SYSTEM, "telemetry.keep_1s_hours", 3)
    fill(host, minute_ago(120), 60)
    telemetry.thin()
    assert len(rows(host, 1)) == 61


def test_a_clock_that_went_back_still_leaves_a_row_for_each_interval(host: Host) -> None:
    start = minute_ago(20)
    fill(host, start, 300)
    telemetry.thin()
    host.refresh_from_db()
    telemetry.store(host, [], start + 100)
    telemetry.store(host, [sample(start + 100.5 + second, **{POWER: 7.0}) for second in range(400)])
    telemetry.thin()
    assert list(rows(host, 10)) == [start + 10 * number for number in range(49)]


# --- Reading back ---


def test_a_short_span_comes_by_the_second_and_a_gap_stays_one(host: Host) -> None:
    start = minute_ago(5)
    fill(host, start, 60)
    fill(host, start + 100, 60)
    found = telemetry.history("tower", ["load_1m"], start, start + 200)
    line = found["series"]["load_1m"]
    assert found["resolution_seconds"] == 1
    assert found["gaps"] == [(start + 60, start + 100), (start + 160, start + 200)]
    assert line["mean"] == [1.0] * 61 + [None] + [1.0] * 61
    assert start + 60 < line["time"][61] < start + 100


@pytest.fixture
def card(host: Host) -> Host:
    """The host with the GPU that the samples speak of."""
    make_gpu(host, uuid=UUID)
    return host


def test_a_long_span_is_thinned_and_keeps_its_extremes(card: Host) -> None:
    start = minute_ago(50)
    telemetry.store(card, [sample(start + second, **{POWER: 900.0 if second == 1234 else 100.0})
                           for second in range(3000)])  # fmt: skip
    line = telemetry.history("tower", [POWER], start, start + 3000, 400)["series"][POWER]
    assert len(line["time"]) <= 402
    assert max(value or 0 for value in line["max"]) == 900.0


def test_a_coarse_span_has_a_band_around_its_mean(card: Host) -> None:
    start = minute_ago(50)
    fill(card, start, 2400)
    telemetry.thin()
    found = telemetry.history("tower", [POWER], start, start + 2400, 40)
    line = found["series"][POWER]
    assert found["resolution_seconds"] == 60
    assert line["time"][0] == start + 30
    assert line["min"][0] == pytest.approx(100, abs=3)
    assert line["max"][0] == pytest.approx(300, abs=3)
    found = telemetry.history("tower", [POWER], start, start + 2400, 20)
    assert found["resolution_seconds"] == 120
    assert len(found["series"][POWER]["time"]) in (20, 21)


def test_what_is_no_longer_kept_by_the_second_comes_by_the_minute(card: Host) -> None:
    start = minute_ago(60 * 48)
    fill(card, start, 600)
    telemetry.thin()
    found = telemetry.history("tower", [POWER], start, start + 600)
    assert found["resolution_seconds"] == 60
    assert len(found["series"][POWER]["time"]) >= 9


def test_a_series_without_a_figure_is_empty(card: Host) -> None:
    found = telemetry.history("tower", [POWER], minute_ago(5), minute_ago(4))
    assert found["series"][POWER] == {"time": [], "mean": [], "min": [], "max": []}
    assert len(found["gaps"]) == 1


@pytest.mark.parametrize(
    ("names", "start", "end", "points", "word"),
    [
        (["nonsense"], 0, 10, 600, "nonsense"), ([], 0, 10, 600, "names"), (["load_1m"], 10, 10, 600, "begin"),
        (["load_1m"], 0, 86400 * 400, 600, "366"), (["load_1m"], math.nan, 10, 600, "begin"),
        (["load_1m"], 0, 10, 5, "max_points"), ([POWER], 0, 10, 600, UUID),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("host")
def test_what_makes_no_sense_is_refused(names: list[str], start: float, end: float, points: int, word: str) -> None:
    with pytest.raises(InvalidInputError, match=word):
        telemetry.history("tower", names, start, end, points)


def test_a_host_that_nobody_knows_is_named() -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        telemetry.history("nowhere", ["load_1m"], 0, 10)


# --- How much is read, how much is covered ---


@pytest.mark.parametrize(
    ("source", "keep_hours", "count", "expected"),
    [(60, 1, 300, 900), (1, 168, 300, 10), (1, 1, 90, 1)],
)
def test_a_chart_reads_no_more_rows_than_it_may(
    monkeypatch: pytest.MonkeyPatch, source: int, keep_hours: int, count: int, expected: int
) -> None:
    host = make_host("tower")
    settings.put(SYSTEM, "telemetry.keep_1s_hours", keep_hours)
    monkeypatch.setattr(telemetry, "MOST_ROWS", 100)
    read: list[dict[str, Any]] = []
    real = telemetry._asked

    def asked(values: dict[str, Any], names: list[str]) -> dict[str, Any]:
        read.append(real(values, names))
        return read[-1]

    monkeypatch.setattr(telemetry, "_asked", asked)
    end = time.time() // 900 * 900
    start = end - source * count
    TelemetrySample.objects.bulk_create(
        TelemetrySample(
            host=host, resolution_seconds=seconds, time=datetime.fromtimestamp(at, UTC),
            values={"load_1m": 1.0 if seconds == 1 else [1.0, 1.0, 1.0], "cpu_percent": 1.0},
        )
        for seconds in {source, expected}
        for at in range(int(start), int(end), seconds)
    )  # fmt: skip
    found = telemetry.history("tower", ["load_1m"], start, end, 5000)
    assert found["resolution_seconds"] == expected
    assert 0 < len(read) <= 100
    assert all(set(row) == {"load_1m"} for row in read)


def test_an_interval_that_is_covered_in_part_says_how_much(host: Host) -> None:
    start = time.time() // 900 * 900 - 7200
    telemetry.store(host, [sample(start + second, **{POWER: 300.0}) for second in range(91)])
    telemetry.store(host, [sample(start + 3700)])
    telemetry.thin()
    assert rows(host, 60)[start][POWER] == [300.0, 300.0, 300.0]
    assert rows(host, 60)[start + 60][POWER] == [300.0, 300.0, 300.0, 30.0]
    assert rows(host, 900)[start][POWER] == [300.0, 300.0, 300.0, 90.0]


def test_what_is_covered_longer_weighs_more() -> None:
    whole, part, lone = [1.0, 100.0, 200.0], [0.0, 400.0, 500.0, 2.0], [9.0, 9.0, 9.0, 0.0]
    assert rollups.merged([{"x": whole}, {"x": part}], 10, 60)["x"] == [0.0, 150.0, 500.0, 12.0]
    assert rollups.merged([{"x": lone}, {"x": [11.0, 11.0, 11.0, 0.0]}], 10, 60)["x"] == [9.0, 10.0, 11.0, 0.0]
    assert rollups.merged([{"x": whole}] * 6, 10, 60)["x"] == whole


def test_many_old_rows_are_taken_away_in_slices(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "DELETED_AT_ONCE", 7)
    fill(host, minute_ago(180), 100)
    fill(host, minute_ago(1), 30)
    telemetry.thin()
    assert rows(host, 1)
    assert min(rows(host, 1)) >= minute_ago(2)
