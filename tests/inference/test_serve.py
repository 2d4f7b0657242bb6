"""The serve job as its launcher sees it: events, signals, exit codes."""

import json
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference.serve import _listener, serve
from monitoring.attempt import JobFaultError, run_attempt
from monitoring.events import SECRET_FILE, Error, Progress, decode_event
from tests.inference.conftest import MAX_BATCH, MAX_QUEUE
from tests.inference.models import CHATS
from tests.inference.serving import ServeJob, wait_for, write_spec

CHAT = "/v1/chat/completions"
QUESTION = "Say it in pictures."


def ask(client: httpx.Client, **options: Any) -> httpx.Response:
    body = {"model": "house/taught", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, **options}
    return client.post(CHAT, json=body)


def test_it_says_what_it_does_and_is_ready_when_it_says_so(job: ServeJob) -> None:
    job.url()
    kinds = [event.body.kind for event in job.events()]
    assert kinds[0] == "started"
    assert kinds[-1] == "ready"
    assert {"phase", "progress", "log"} < set(kinds)
    assert [event.seq for event in job.events()] == list(range(1, len(kinds) + 1))
    assert job.event("phase").name == "active"
    assert job.event("progress").done == job.event("progress").total
    told_of = [event.body for event in job.events() if isinstance(event.body, Progress)]
    loading = [progress for progress in told_of if progress.unit == "tensors"]
    assert loading[0].done == 0
    assert (loading[-1].total or 0) > 0
    assert loading[-1].done == loading[-1].total
    assert all(progress.note.startswith("loading the weights of ") for progress in loading)
    told = job.event("ready").runs_with
    assert told["chosen"] == {"dtype": "float32", "max_batch": MAX_BATCH, "max_queue": MAX_QUEUE, "cpu_threads": 1}
    assert (told["engine"], told["dtype"], told["bits"], told["device"]) == ("transformers", "float32", None, "cpu")
    assert (told["max_model_length"], told["prefix_cache_mib"]) == (1024, 256), "what was left to it"


def test_told_to_stop_it_finishes_what_is_in_flight(taught_model: Path, tmp_path: Path) -> None:
    job = ServeJob.start(tmp_path, taught_model)
    answers: list[str] = []

    def stream() -> None:
        body = {"model": "house/taught", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
        with job.client() as client, client.stream("POST", CHAT, json={**body, "stream": True, "n": 8}) as answer:
            for line in answer.iter_lines():
                answers.append(line)
                in_flight.set()

    in_flight = threading.Event()
    try:
        with job.client() as client:
            assert ask(client).status_code == 200
            thread = threading.Thread(target=stream)
            thread.start()
            assert in_flight.wait(60)
            job.signal(signal.SIGTERM)
            answered, refused = _ask_until_refused(client)
            thread.join(60)
        assert job.wait() == 0
    finally:
        job.stop()
    events = [json.loads(line.removeprefix("data: ")) for line in answers if line.startswith("data: {")]
    choices = [event["choices"][0] for event in events]
    texts = ["".join(c["delta"].get("content", "") for c in choices if c["index"] == i) for i in range(8)]
    assert texts == [CHATS[QUESTION]] * 8
    assert [line for line in answers if line][-1] == "data: [DONE]"
    if refused is not None:  # the answer in flight may have been quicker than this client
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_draining")
        assert refused.headers["retry-after"]
    result = job.event("result").values
    assert result["requests"] == 2 + answered
    assert result["tokens"] > 8 * 50
    assert job.events()[-1].body.kind == "result"


def _ask_until_refused(client: httpx.Client) -> tuple[int, httpx.Response | None]:
    """How many requests were answered after the stop was sent, and the refusal; None: the engine had gone already."""
    answered = 0
    while True:
        try:
            answer = ask(client, max_tokens=1)
        except httpx.HTTPError:
            return answered, None
        if answer.status_code != 200:
            return answered, answer
        answered += 1


def test_the_drain_has_a_deadline(taught_model: Path, tmp_path: Path) -> None:
    job = ServeJob.start(tmp_path, taught_model, {"drain_seconds": 0.2})
    statuses: list[int] = []

    def wait_long() -> None:
        with job.client() as client:
            bias = {str(token): -100 for token in (0, 1, 2)}
            statuses.append(ask(client, logit_bias=bias, n=8, temperature=1.5).status_code)

    try:
        with job.client() as client:
            thread = threading.Thread(target=wait_long)
            thread.start()
            wait_for(lambda: True if client.get("/stats").json()["running"] == 8 else None, "the request to run")
            job.signal(signal.SIGUSR1)
            thread.join(60)
        assert job.wait() == 0
    finally:
        job.stop()
    assert statuses == [503]
    assert job.events()[-1].body.kind == "result"


def test_stopped_while_loading_it_ends_well(taught_model: Path, tmp_path: Path) -> None:
    job = ServeJob.start(tmp_path, taught_model)
    try:
        wait_for(lambda: job.event("progress"), "the loading to begin")
        job.signal(signal.SIGTERM)
        assert job.wait() == 0
    finally:
        job.stop()
    assert job.event("result").values == {"requests": 0, "tokens": 0}
    assert job.event("ready") is None


def error_of(spec: Path) -> Error:
    """Runs a job in this process that can't begin, and returns its error."""
    assert run_attempt(spec, serve) == 1
    body = decode_event((spec.parent / "events.jsonl").read_bytes().splitlines()[-1]).body
    assert isinstance(body, Error)
    return body


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"engine": "steam"}, "engine_unknown"),
        ({"max_batches": 3}, "bad_setting"),
        ({"max_batch": 0}, "bad_setting"),
        ({"max_queue": "many"}, "bad_setting"),
        ({"profile": {"nom": "plain"}}, "bad_setting"),
    ],
)
def test_a_setting_at_fault_is_named(taught_model: Path, tmp_path: Path, config: dict[str, Any], code: str) -> None:
    error = error_of(write_spec(tmp_path, taught_model, config))
    assert error.code == code
    assert error.fix


def test_without_a_token_it_does_not_start(taught_model: Path, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, taught_model)
    (tmp_path / SECRET_FILE).unlink()
    assert error_of(spec).code == "token_missing"


def test_an_address_that_is_not_this_hosts_is_said(tmp_path: Path) -> None:
    with pytest.raises(JobFaultError) as caught:
        _listener("192.0.2.250")
    assert (caught.value.code, "192.0.2.250" in caught.value.message) == ("address_unknown", True)
