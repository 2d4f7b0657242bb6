"""Polls: whole lines once and in order, early answers, patience, and the end of an attempt."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from monitoring.agent import Agent
from monitoring.events import decode_event
from monitoring.folders import AttemptFolder
from monitoring.wire import AgentFaultError, AttemptNews, Cursor, PollAnswer
from tests.monitoring.factories import make_spec, wait_for, wait_for_event, wait_for_state


def cursor(offset: int = 0, job_id: int = 1) -> Cursor:
    return {"job_id": job_id, "attempt": 1, "offset": offset}


def poll_once(agent: Agent, offset: int = 0, wait_seconds: float = 0.0) -> AttemptNews:
    return agent.poll([cursor(offset)], wait_seconds)["attempts"][0]


def write_attempt(home: Path, events: bytes) -> AttemptFolder:
    folder = AttemptFolder(home, 1, 1)
    folder.path.mkdir(parents=True)
    folder.events.write_bytes(events)
    return folder


def test_a_reader_gets_every_line_once_and_in_order(agent: Agent) -> None:
    agent.launch(make_spec(points=2000), {})
    offset, lines = 0, ""
    while True:
        news = poll_once(agent, offset, 10.0)
        assert news["offset"] == offset
        assert news["next_offset"] - offset == len(news["lines"].encode())
        offset, lines = news["next_offset"], lines + news["lines"]
        if news["drained"] and news["state"] == "exited":
            break
    events = [decode_event(line) for line in lines.splitlines()]
    assert [event.seq for event in events] == list(range(1, 2003))
    assert news["exit"] is not None and news["exit"]["code"] == 0


def test_a_poll_is_stateless(agent: Agent, home: Path) -> None:
    agent.launch(make_spec(points=3), {})
    wait_for_state(AttemptFolder(home, 1, 1), "exited")
    assert poll_once(agent) == poll_once(agent)


def test_a_torn_last_line_is_left_until_it_is_whole(agent: Agent, home: Path) -> None:
    whole = '{"seq":1,"time":1,"kind":"log","level":"info","text":"ä"}\n'.encode()
    folder = write_attempt(home, whole + whole[:-3])
    first = poll_once(agent)
    assert (first["lines"].encode(), first["next_offset"], first["drained"]) == (whole, len(whole), True)
    with folder.events.open("ab") as stream:
        stream.write(whole[-3:])
    second = poll_once(agent, first["next_offset"])
    assert (second["lines"].encode(), second["next_offset"]) == (whole, 2 * len(whole))


def test_a_long_file_comes_in_several_answers(agent: Agent, home: Path) -> None:
    line = b'{"text":"' + b"x" * 1000 + b'"}\n'
    write_attempt(home, line * 3000)
    offset, answers = 0, []
    while True:
        news = poll_once(agent, offset)
        answers.append(news)
        offset = news["next_offset"]
        if news["drained"]:
            break
    assert len(answers) > 2
    assert all(not news["drained"] for news in answers[:-1])
    assert "".join(news["lines"] for news in answers).encode() == line * 3000


def test_one_answer_is_bounded_over_all_cursors(agent: Agent, home: Path) -> None:
    write_attempt(home, (b'{"text":"' + b"x" * 1000 + b'"}\n') * 2000)
    answer = agent.poll([cursor()] * 8, 0.0)
    assert sum(len(news["lines"]) for news in answer["attempts"]) <= (4 << 20) + 2000
    last = answer["attempts"][-1]
    assert (last["lines"], last["drained"]) == ("", False)


def test_a_poll_waits_while_there_is_nothing_new(agent: Agent, home: Path, tmp_path: Path) -> None:
    agent.launch(make_spec(until=str(tmp_path / "go")), {})
    folder = AttemptFolder(home, 1, 1)
    wait_for_event(folder, "started")
    offset = folder.events.stat().st_size
    before = time.monotonic()
    news = poll_once(agent, offset, 0.4)
    assert time.monotonic() - before >= 0.4
    assert (news["lines"], news["next_offset"], news["drained"], news["state"]) == ("", offset, True, "running")


def test_a_waiting_poll_answers_as_soon_as_there_is_news(agent: Agent, home: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    agent.launch(make_spec(until=str(go)), {})
    folder = AttemptFolder(home, 1, 1)
    wait_for_event(folder, "started")
    answer = in_background(agent, [cursor(folder.events.stat().st_size)])
    go.touch()
    written = wait_for(lambda: folder.exit() and time.monotonic())
    news = answer()["attempts"][0]
    assert time.monotonic() - written < 2.0
    assert '"kind":"result"' in news["lines"]


def test_a_launch_wakes_a_poll_that_has_nothing_to_watch(agent: Agent, tmp_path: Path) -> None:
    answer = in_background(agent, [])
    agent.launch(make_spec(until=str(tmp_path / "go")), {})
    assert answer()["live"] == [(1, 1)]


def test_an_attempt_that_nobody_holds_is_lost(agent: Agent, home: Path) -> None:
    write_attempt(home, b"{}\n")
    news = poll_once(agent, 3, 20.0)
    assert (news["state"], news["drained"], news["exit"]) == ("lost", True, None)
    unknown = agent.poll([cursor(job_id=404)], 20.0)["attempts"][0]
    assert (unknown["state"], unknown["drained"], unknown["lines"]) == ("lost", True, "")


def test_an_attempt_is_launching_until_its_supervisor_has_written(agent: Agent, home: Path) -> None:
    folder = write_attempt(home, b"")
    descriptor = folder.take_lock()
    assert descriptor is not None
    assert poll_once(agent)["state"] == "launching"


@pytest.mark.parametrize("offset", [-1, "0", None])
def test_a_bad_offset_is_refused(agent: Agent, offset: object) -> None:
    with pytest.raises(AgentFaultError):
        agent.poll([{"job_id": 1, "attempt": 1, "offset": offset}], 0.0)  # type: ignore[typeddict-item]


def test_stop_all_pauses_everything_and_starts_nothing_more(agent: Agent, home: Path, tmp_path: Path) -> None:
    for job_id in (1, 2):
        agent.launch(make_spec(job_id, until=str(tmp_path / "never")), {})
    assert agent.stop_all(10.0) == {"ended": [(1, 1), (2, 1)], "still_running": []}
    for job_id in (1, 2):
        record = AttemptFolder(home, job_id, 1).exit()
        assert record is not None and record["code"] == 75
    with pytest.raises(AgentFaultError) as caught:
        agent.launch(make_spec(3), {})
    assert caught.value.fault["code"] == "stopping"


def test_stop_all_names_what_outlives_its_deadline(agent: Agent, tmp_path: Path) -> None:
    agent.launch(make_spec(deaf_until=str(tmp_path / "never")), {})
    assert agent.stop_all(0.2) == {"ended": [], "still_running": [(1, 1)]}


def in_background(agent: Agent, cursors: list[Cursor]) -> Callable[[], PollAnswer]:
    """Starts a poll of 20 s in a thread that is waiting by now; the returned function waits for its answer."""
    answers: list[PollAnswer] = []
    thread = threading.Thread(target=lambda: answers.append(agent.poll(cursors, 20.0)))
    thread.start()
    wait_for(lambda: agent._changed._waiters, "the poll to wait")  # type: ignore[attr-defined]

    def answer() -> PollAnswer:
        thread.join(10.0)
        assert answers, "the poll hasn't answered"
        return answers[0]

    return answer
