"""What attempts have written behind a reader's cursor. Runs in the agent, which keeps no offsets: the reader does."""

from collections.abc import Sequence
from pathlib import Path

from monitoring.events import read_lines
from monitoring.folders import AttemptFolder
from monitoring.wire import AgentFaultError, AttemptNews, Cursor

ANSWER_BYTES = 4 << 20
"""Event lines in one answer; what is left over comes with the next poll."""


def news_of_all(home: Path, cursors: Sequence[Cursor]) -> tuple[list[AttemptNews], bool]:
    """The news of each cursor, and whether there is any: whole new lines, or an attempt that has ended and is drained.

    Raises AgentFaultError `bad_call`.
    """
    room, is_news = ANSWER_BYTES, False
    answers: list[AttemptNews] = []
    for cursor in cursors:
        news = _news(home, cursor, room)
        size = news["next_offset"] - news["offset"]
        room = max(room - size, 0)
        is_news = is_news or size > 0 or (news["drained"] and news["state"] in ("exited", "lost"))
        answers.append(news)
    return answers, is_news


def _news(home: Path, cursor: Cursor, room: int) -> AttemptNews:
    folder = AttemptFolder(home, cursor["job_id"], cursor["attempt"])
    offset = cursor["offset"]
    if not isinstance(offset, int) or offset < 0:
        raise AgentFaultError("bad_call", f"offset must be a number of bytes, not {offset!r}.")
    # The state first: what a job wrote before it ended is on disk by the time that it is known to have ended.
    state, record = folder.state()
    data, end = b"", offset
    size = _size(folder.events)
    if room > 0 and size > offset:
        data, end = read_lines(folder.events, offset, min(room, 1 << 20))
    return AttemptNews(
        job_id=folder.job_id,
        attempt=folder.attempt,
        offset=offset,
        next_offset=end,
        lines=data.decode(errors="replace"),
        drained=size <= end or (not data and room > 0) or not read_lines(folder.events, end)[0],
        state=state,
        exit=record,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
