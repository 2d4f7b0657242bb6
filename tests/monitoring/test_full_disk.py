"""A job whose disk is full still says why it ends, and its supervisor writes down how once there is room."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from monitoring.agent import Agent
from monitoring.attempt import run_attempt
from monitoring.events import EVENTS_FILE, RESERVE_FILE, Error, EventWriter, JobSpec, Started, decode_event
from monitoring.files import write_json
from monitoring.folders import AttemptFolder
from tests.monitoring.factories import COMMANDS, kill_all, make_spec, wait_for, wait_for_event, wait_for_state
from tests.small_disk import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 4 << 20) as mounted:
        yield mounted


def test_the_last_word_of_a_job_is_heard_on_a_full_disk(disk: SmallDisk) -> None:
    spec_path = disk.path / "spec.json"
    write_json(spec_path, make_spec())

    def work(spec: JobSpec, events: EventWriter, path: Path) -> dict[str, Any]:
        disk.fill()
        while True:
            events.log("what the last page of the file has no room for " * 20)

    assert run_attempt(spec_path, work) == 1
    bodies = [decode_event(line).body for line in (disk.path / EVENTS_FILE).read_bytes().splitlines()]
    assert isinstance(bodies[0], Started)
    last = bodies[-1]
    assert isinstance(last, Error)
    assert (last.code, "No space left" in last.message) == ("disk_full", True)
    assert not (disk.path / RESERVE_FILE).exists()


def test_how_a_job_ended_is_written_down_when_there_is_room_again(disk: SmallDisk, tmp_path: Path) -> None:
    agent = Agent(disk.path / "home", commands=COMMANDS, min_free_bytes=0)
    try:
        agent.launch(make_spec(until=str(tmp_path / "end")), {})
        folder = AttemptFolder(disk.path / "home", 1, 1)
        wait_for_event(folder, "started")
        job = wait_for(folder.job_identity, "the job")
        os.link(folder.secret, disk.path / "kept")  # else the room of the secret, which goes, would do
        disk.fill()
        (tmp_path / "end").touch()
        wait_for(lambda: not psutil.pid_exists(job.pid), "the job's end")
        assert folder.state()[0] == "running", "its supervisor waits"
        disk.empty()
        wait_for_state(folder, "exited")
    finally:
        kill_all(agent)
        agent.shutdown()
