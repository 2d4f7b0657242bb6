"""Logs of jobs over the API and on their page: attempts, pages, search, the file, hosts that are away."""

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError
from controlplane.models import Attempt, Job
from controlplane.services import job_logs
from monitoring.agent import Agent
from tests.factories import client_of, make_client, make_host, make_job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


@pytest.fixture
def agent(home: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The agent of this home, in this process."""
    found = Agent(home)
    monkeypatch.setattr(job_logs, "carrier", lambda _host: found)
    return found


@pytest.fixture
def job(agent: Agent) -> Job:
    """A job with two attempts, whose logs lie in the home."""
    made, host = make_job("fetch"), make_host()
    for number, text in ((1, "ERROR <b>aground</b>\n"), (2, "".join(f"INFO step {step}\n" for step in range(100)))):
        Attempt.objects.create(job=made, number=number, host=host)
        folder = agent.home / "jobs" / str(made.pk) / "attempts" / str(number)
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text(text)
    return made


def asked(job: Job, **how: Any) -> dict[str, Any]:
    answer = make_client("read").get(f"/api/jobs/{job.pk}/log", how)
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def test_the_last_attempt_is_paged_and_any_can_be_chosen(job: Job) -> None:
    page = asked(job, lines=10)
    assert (page["attempt"], [row["number"] for row in page["attempts"]]) == (2, [2, 1])
    assert [line["number"] for line in page["lines"]] == list(range(91, 101))
    older = asked(job, lines=10, before=page["start"], number=page["number"])
    assert [line["text"] for line in older["lines"]] == [f"INFO step {step}" for step in range(80, 90)]
    assert asked(job, after=page["end"])["lines"] == []
    first = asked(job, attempt=1)
    assert [(line["level"], line["text"]) for line in first["lines"]] == [("error", "ERROR <b>aground</b>")]


def test_a_search_goes_through_the_whole_log(job: Job) -> None:
    page = asked(job, search="STEP 7")
    assert [line["number"] for line in page["lines"]] == [8, *range(71, 81)]
    assert page["start"] == 0
    assert asked(job, level="warning")["lines"] == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"level": "loud"}, "There is no level 'loud': choose debug, info, warning, error."),
        ({"before": 1, "after": 1}, "A log is read before a byte or after one, not both."),
        ({"lines": 0}, "lines must lie between 1 and 1000."),
        ({"search": "x" * 201}, "A search has up to 200 printable characters."),
        ({"search": "a\nb"}, "A search has up to 200 printable characters."),
    ],
)
def test_what_can_not_be_asked_is_refused(job: Job, how: dict[str, Any], said: str) -> None:
    answer = make_client("read").get(f"/api/jobs/{job.pk}/log", how)
    assert (answer.status_code, answer.json()["detail"]) == (422, said)


def test_attempts_and_jobs_that_are_not_there(job: Job) -> None:
    reader = make_client("read")
    assert reader.get(f"/api/jobs/{job.pk}/log", {"attempt": 3}).json()["detail"] == f"Job {job.pk} has no attempt 3."
    assert reader.get("/api/jobs/999999/log").status_code == 404
    waiting = make_job("fetch")
    assert asked(waiting)["attempt"] is None
    answer = reader.get(f"/api/jobs/{waiting.pk}/log/download")
    assert answer.json()["detail"] == f"Job {waiting.pk} has no log: it hasn't been started."


def downloaded(job: Job, **how: Any) -> tuple[str, bytes]:
    """The name of the file and what came."""
    answer: Any = make_client("read").get(f"/api/jobs/{job.pk}/log/download", how)
    assert answer.status_code == 200, answer.content

    async def whole() -> bytes:
        return b"".join([piece async for piece in answer.streaming_content])

    content = asyncio.run(whole())
    assert len(content) == int(answer["Content-Length"])
    return str(answer["Content-Disposition"]), content


def test_a_log_is_downloaded_piece_by_piece(agent: Agent, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    path = agent.home / "jobs" / str(job.pk) / "attempts" / "2" / "log.txt"
    monkeypatch.setattr("monitoring.agent.MAX_BYTES", 100)
    monkeypatch.setattr("monitoring.logs.MAX_BYTES", 100)
    name, content = downloaded(job)
    assert f'"job-{job.pk}-attempt-2.log"' in name
    assert content == path.read_bytes()
    assert downloaded(job, attempt=1)[1] == b"ERROR <b>aground</b>\n"


def test_a_compressed_log_is_read_and_downloaded_too(agent: Agent, job: Job) -> None:
    path = agent.home / "jobs" / str(job.pk) / "attempts" / "1" / "log.txt"
    packed = gzip.compress(path.read_bytes())
    path.with_name("log.txt.gz").write_bytes(packed)
    path.unlink()
    assert [line["text"] for line in asked(job, attempt=1)["lines"]] == ["ERROR <b>aground</b>"]
    name, content = downloaded(job, attempt=1)
    assert name.endswith('.log.gz"')
    assert content == packed


def test_a_log_that_is_compressed_during_a_download_breaks_it_off(
    agent: Agent, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = agent.home / "jobs" / str(job.pk) / "attempts" / "2" / "log.txt"
    whole = path.read_bytes()
    monkeypatch.setattr("monitoring.logs.MAX_BYTES", 100)
    _, size, pieces = job_logs.pieces(job.pk, 2)
    came = next(pieces)
    path.with_name("log.txt.gz").write_bytes(gzip.compress(whole))
    path.unlink()
    came += b"".join(pieces)
    assert came == whole[: len(came)]
    assert len(came) < size


def test_the_page_offers_attempts_and_leads_from_the_queue(job: Job) -> None:
    reader = client_of("read")
    page = reader.get(f"/queue/{job.pk}/log").content.decode()
    assert f'data-log="/api/jobs/{job.pk}/log"' in page
    assert '<option value="1">attempt 1</option>' in page
    assert f'href="/queue/{job.pk}/log"' in reader.get("/queue/").content.decode()
    head = reader.get(f"/queue/{job.pk}/log", headers={"HX-Request": "true"}).content.decode()
    assert job.title in head
    assert "data-log=" not in head
    assert reader.get("/queue/999999/log").status_code == 404


def test_a_job_of_the_web_server_says_where_its_words_are() -> None:
    page = client_of("read").get(f"/queue/{make_job('clean').pk}/log").content.decode()
    assert "This job has no log of its own" in page


def test_a_host_that_is_away_is_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> Callable[[object], Any]:
        def carrier(_host: object) -> Any:
            raise error

        return carrier

    reader = make_client("read")
    monkeypatch.setattr(job_logs, "carrier", failing(HostUnreachableError("gone")))
    answer = reader.get(f"/api/jobs/{job.pk}/log")
    assert answer.status_code == 503
    assert "doesn't answer" in answer.json()["detail"]
    monkeypatch.setattr(
        job_logs, "carrier", failing(AgentRefusedError("bad_call", "It knows no such call.", "Update."))
    )
    assert reader.get(f"/api/jobs/{job.pk}/log").json()["detail"] == "It knows no such call. Update."


def test_a_job_that_runs_shows_how_far_it_is_and_its_end_to_whom_it_belongs() -> None:
    progress = {"done": 3_000_000, "total": 12_000_000, "unit": "bytes", "note": "Copied"}
    running = make_job("fetch", "running", progress=progress, created_by="owner")
    owner, other = client_of("use", "owner"), client_of("use", "other")
    page = owner.get(f"/queue/{running.pk}/log").content.decode()
    assert "3.0 MB of 12.0 MB, Copied" in page
    assert 'value="25.0"' in page
    assert f'action="/queue/{running.pk}/cancel"' in page
    assert f'action="/queue/{running.pk}/cancel"' not in other.get(f"/queue/{running.pk}/log").content.decode()
    assert f'action="/queue/{running.pk}/cancel"' in client_of("admin").get(f"/queue/{running.pk}/log").content.decode()
