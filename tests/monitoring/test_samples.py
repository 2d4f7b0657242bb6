"""Samples: one a second on whole seconds, kept for an hour, in order whatever the clock does."""

import math
import time
from pathlib import Path

import pytest

from monitoring.agent import Agent
from monitoring.cards import empty_reading
from monitoring.samples import ANSWER_SAMPLES, KEEP_SAMPLES, Sampler, SampleStore, figures_of, next_second
from monitoring.wire import HostReading
from tests.fakes.gpus import FakeGpus
from tests.monitoring.factories import COMMANDS, wait_for


def reading_of(**values: object) -> HostReading:
    """A reading of an idle host without a GPU, but for `values`."""
    idle = HostReading(
        time=0.0, cpu_percent=0.0, cpu_count=2, load_1m=0.0, memory_used_bytes=1, memory_total_bytes=2,
        swap_used_bytes=0, swap_total_bytes=0, disks=[], networks=[], temperatures=[], clock_synchronized=None, gpus=[],
        gpu_fault=None, gpu_fault_since=None,
    )  # fmt: skip
    return {**idle, **values}  # type: ignore[typeddict-item]


def store_of(*seconds: float) -> SampleStore:
    store = SampleStore()
    for second in seconds:
        store.add(second, reading_of())
    return store


def times(store: SampleStore, moment: float | None = None) -> list[float]:
    return [sample["time"] for sample in store.after(moment)]


def test_figures_have_the_names_of_the_wire_and_what_is_not_known_is_left_out() -> None:
    gpu = {**empty_reading(0, "GPU-1", "Card"), "power_draw_watts": 142.5, "temperature_celsius": 54}
    networks = [{"name": name, "received_bytes_per_second": 10.0, "sent_bytes_per_second": 1.0} for name in "ab"]
    reading = reading_of(cpu_percent=12.5, networks=networks, gpus=[gpu])
    assert figures_of(reading) == {
        "cpu_percent": 12.5,
        "load_1m": 0.0,
        "memory_used_bytes": 1,
        "network_received_bytes_per_second": 20.0,
        "network_sent_bytes_per_second": 2.0,
        "GPU-1/power_draw_watts": 142.5,
        "GPU-1/temperature_celsius": 54,
    }


def test_a_reader_gets_what_lies_behind_its_last_sample() -> None:
    store = store_of(1, 2, 3)
    assert times(store) == [1, 2, 3]
    assert times(store, 1.0) == [2, 3]
    assert times(store, 3.0) == []


def test_values_come_back_as_they_were_read_though_cards_come_and_go() -> None:
    store = SampleStore()
    gpu = {**empty_reading(0, "GPU-1", "Card"), "power_draw_watts": 142.5}
    readings = [reading_of(cpu_percent=float(number), gpus=[gpu] * (number % 2)) for number in range(4)]
    for second, reading in enumerate(readings):
        store.add(float(second), reading)
    assert [sample["values"] for sample in store.after(None)] == [figures_of(reading) for reading in readings]


def test_a_reader_that_was_away_catches_up_from_the_oldest_and_an_hour_is_kept() -> None:
    store = store_of(*range(KEEP_SAMPLES + 100))
    first = times(store)
    assert (first[0], len(first)) == (100.0, ANSWER_SAMPLES)
    seen, cursor = len(first), first[-1]
    while batch := times(store, cursor):
        assert batch[0] == cursor + 1
        seen, cursor = seen + len(batch), batch[-1]
    assert (seen, cursor) == (KEEP_SAMPLES, KEEP_SAMPLES + 99)


def test_a_clock_that_was_set_back_takes_the_samples_of_its_future_with_it() -> None:
    store = store_of(*range(1000, 1010))
    store.add(500, reading_of())
    store.add(501, reading_of())
    assert times(store) == [500, 501]
    assert times(store, 1009.0) == [500, 501]  # a reader from before
    assert times(store, 500.0) == [501]


def test_what_was_sampled_before_a_setting_back_into_the_midst_stays() -> None:
    store = store_of(*range(1000, 1010))
    store.add(1005, reading_of())
    assert times(store) == [1000, 1001, 1002, 1003, 1004, 1005]
    assert times(store, 1009.0) == [1005]


def test_a_clock_that_is_corrected_by_a_moment_drops_nothing() -> None:
    store = store_of(10, 11, 12)
    store.add(11, reading_of())
    store.add(12, reading_of())
    store.add(13, reading_of())
    assert times(store) == [10, 11, 12, 13]


def test_a_clock_that_jumps_ahead_leaves_a_gap() -> None:
    assert times(store_of(10, 11, 5000, 5001), 11.0) == [5000, 5001]


@pytest.mark.parametrize(
    ("now", "last", "following"),
    [
        (12.003, 12.0, 13.0),
        (12.9, 12.0, 13.0),
        (11.999, 12.0, 13.0),  # woken a little early
        (15.2, 12.0, 16.0),  # a reading took three seconds
        (10.8, 12.0, 13.0),  # corrected by a moment
        (400.5, 1000.0, 401.0),  # set back
        (5000.5, 12.0, 5001.0),  # set ahead
        (7.0, -math.inf, 8.0),
    ],
)
def test_the_next_sample_is_due_at_the_next_whole_second(now: float, last: float, following: float) -> None:
    assert next_second(now, last) == following


def test_a_thread_samples_through_failing_readings_and_a_clock_that_jumps() -> None:
    store, ahead, failures = SampleStore(), [0.0], [1]

    def take() -> HostReading:
        if failures.pop() if failures else 0:
            raise RuntimeError("a sensor that fails once")
        return reading_of()

    sampler = Sampler(take, store, clock=lambda: time.time() + ahead[0])
    sampler.start()
    before = wait_for(lambda: times(store))[0]
    assert before == math.floor(before)
    ahead[0] = -5000.0
    set_back = wait_for(lambda: [one for one in times(store) if one < before - 4000])[0]
    assert times(store) == [set_back] == [math.floor(set_back)]
    assert abs(set_back - (time.time() - 5000)) < 2
    sampler.stop()
    sampler._thread.join(5)
    assert not sampler._thread.is_alive()


def test_an_agent_samples_whether_anybody_polls_or_not(gpus: FakeGpus, home: Path) -> None:
    agent = Agent(home, commands=COMMANDS)
    began = time.time()
    wait_for(lambda: len(agent._samples.after(None)) >= 2, "two samples")
    answer = agent.poll([], 0.0)
    first, second = answer["samples"][:2]
    assert second["time"] == first["time"] + 1 == math.floor(second["time"])
    assert began < second["time"] <= answer["now"]
    assert second["values"][f"{gpus.uuid(0)}/power_draw_watts"] == 142.5
    assert agent.poll([], 0.0, first["time"])["samples"][0] == second
    # No poll costs a reading: between two ticks of the thread they all get the same one.
    assert wait_for(lambda: agent.poll([], 0.0)["reading"] is agent.poll([], 0.0)["reading"])
    agent.shutdown()
