"""The carrier to this machine's agent, against real agent processes."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.fleet.local import LocalCarrier, ensure_agent
from controlplane.fleet.protocol import AgentRefusedError, Carrier, Cursor, HostUnreachableError, Wish
from monitoring.folders import AttemptFolder
from tests.fakes.gpus import FakeGpus, build_nvml
from tests.monitoring.factories import agent_process, make_spec, wait_for_event


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of its own for one test."""
    return tmp_path / "home"


@pytest.fixture
def carrier(home: Path) -> Iterator[Carrier]:
    """A carrier to a real agent with the tests' commands."""
    with agent_process(home):
        carrier = LocalCarrier(home)
        yield carrier
        carrier.stop_all(5.0)


def test_a_job_from_launch_to_end(carrier: Carrier, tmp_path: Path) -> None:
    answer = carrier.launch(make_spec(3, points=5, until=str(tmp_path / "never")), {"hf_token": "x"})
    assert not answer["adopted"] and answer["pid"]
    cursor = Cursor(job_id=3, attempt=1, offset=0)
    lines = ""
    stopped = False
    while True:
        poll = carrier.poll([cursor], 10.0)
        news = poll["attempts"][0]
        lines += news["lines"]
        cursor["offset"] = news["next_offset"]
        if news["state"] == "exited" and news["drained"]:
            break
        assert poll["live"] == [(3, 1)]
        if not stopped and lines.count('"kind":"metrics"') == 5:
            assert carrier.signal(3, 1, Wish.STOP)["delivered"]
            stopped = True
    assert '"stopped":true' in lines.splitlines()[-1]
    assert news["exit"] is not None and news["exit"]["code"] == 0
    assert carrier.read_log(3, 1)["lines"] == []


def test_refusals_keep_code_sentence_and_fix(carrier: Carrier) -> None:
    with pytest.raises(AgentRefusedError) as caught:
        carrier.launch({**make_spec(), "spec_version": 9}, {})
    assert caught.value.code == "bad_spec"
    assert "version 9" in caught.value.message
    assert caught.value.fix == "This agent reads specs of version 1."


def test_gpus_are_read_and_their_power_is_set(home: Path, tmp_path: Path) -> None:
    gpus = FakeGpus(tmp_path / "nvml.txt")
    gpus.set(count=2)
    library = build_nvml(tmp_path)
    with agent_process(home, LD_LIBRARY_PATH=str(library.parent), FAKE_NVML=str(gpus.path)):
        carrier = LocalCarrier(home)
        assert carrier.describe()["driver_version"] == "550.54.14"
        assert [gpu["name"] for gpu in carrier.poll([], 0.0)["reading"]["gpus"]] == ["Simulated RTX 3090"] * 2
        assert carrier.set_power(gpus.uuid(1), 280.0)["applied_watts"] == 280.0
        limits = [gpu["power_limit_watts"] for gpu in carrier.poll([], 0.0)["reading"]["gpus"]]
        assert limits == [350.0, 280.0]  # a change is seen at once, not a second later
        with pytest.raises(AgentRefusedError, match="from 100 to 366 W") as caught:
            carrier.set_power(gpus.uuid(1), 900.0, strict=True)
        assert caught.value.code == "out_of_range"
        persistence = carrier.set_persistence(gpus.uuid(0), True, restore_at_stop=True)
        assert (persistence["set"], persistence["enabled"]) == (True, True)
        samples = carrier.poll([], 0.0)["samples"]
        assert samples == [] or f"{gpus.uuid(0)}/power_draw_watts" in samples[0]["values"]
        with pytest.raises(AgentRefusedError, match="never ended") as caught:
            carrier.end_process(1, 0, "")
        assert caught.value.code == "bad_call"


def test_many_threads_share_a_carrier(carrier: Carrier, home: Path, tmp_path: Path) -> None:
    carrier.launch(make_spec(1, until=str(tmp_path / "never")), {})
    wait_for_event(AttemptFolder(home, 1, 1), "started")
    offset = AttemptFolder(home, 1, 1).events.stat().st_size
    waiting = threading.Thread(target=lambda: carrier.poll([Cursor(job_id=1, attempt=1, offset=offset)], 5.0))
    waiting.start()
    pids = []
    threads = [threading.Thread(target=lambda: pids.append(carrier.describe()["agent_pid"])) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5.0)
    assert len(pids) == 16 and len(set(pids)) == 1
    assert waiting.is_alive()  # the long poll has held nobody up
    carrier.signal(1, 1, Wish.CANCEL)
    waiting.join(5.0)
    assert not waiting.is_alive()


def test_nobody_there_is_its_own_error(home: Path) -> None:
    with pytest.raises(HostUnreachableError, match=str(home)):
        LocalCarrier(home).describe()


def test_an_agent_that_dies_in_mid_call_is_unreachable(home: Path) -> None:
    with agent_process(home) as agent:
        threading.Timer(0.3, agent.kill).start()
        with pytest.raises(HostUnreachableError):
            LocalCarrier(home).poll([], 20.0)


def test_ensure_agent_starts_one_and_only_one(home: Path) -> None:
    facts = []
    threads = [threading.Thread(target=lambda: facts.append(ensure_agent(home))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    carrier = LocalCarrier(home)
    try:
        assert len(facts) == 3
        assert {fact["agent_pid"] for fact in facts} == {carrier.describe()["agent_pid"]}
        assert ensure_agent(home)["agent_pid"] == facts[0]["agent_pid"]
    finally:
        carrier.shutdown()


def test_ensure_agent_says_why_none_can_be_started(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("")
    with pytest.raises(HostUnreachableError, match=str(home)):
        ensure_agent(home)
