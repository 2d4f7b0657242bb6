"""Hosts, their history and GPU memory without an owner over the API: what it answers, what it refuses, who may."""

import time
from typing import Any

import pytest
from django.test import Client

from controlplane.fleet.protocol import AgentRefusedError, EndAnswer, HostUnreachableError
from controlplane.models import AuditLine, Host
from controlplane.services import gpu_processes, telemetry
from tests.controlplane.hosts import EndingAgent
from tests.factories import gpu_process, make_client, make_gpu, make_host

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]
UUID = "GPU-00000001"


@pytest.fixture
def tower() -> Host:
    """A host with a GPU on which a job, something left over of ours and somebody else's process hold memory."""
    host = make_host("tower")
    make_gpu(
        host,
        uuid=UUID,
        processes=[gpu_process(300, job_id=7, is_ours=True), gpu_process(200, is_ours=True), gpu_process(400)],
    )
    return host


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> EndingAgent:
    """The agent of every host."""
    stand_in = EndingAgent()
    monkeypatch.setattr(gpu_processes, "carrier", lambda _host: stand_in)
    return stand_in


def end(client: Client, pid: int = 200, **fields: Any) -> Any:
    body = {"host": "tower", "pid": pid, "start_ticks": 1000 + pid, "boot_id": "boot"} | fields
    return client.post("/api/gpu/processes/end", body, content_type="application/json")


# --- Hosts and history ---


def test_a_host_with_its_clock_skew() -> None:
    make_host("tower", clock_skew_seconds=2.5)
    answer = make_client("read").get("/api/hosts/tower").json()
    assert (answer["name"], answer["online"], answer["clock_skew_seconds"]) == ("tower", True, 2.5)


def fill(host: Host, seconds: int = 60) -> float:
    start = time.time() // 1 - seconds
    values = {"load_1m": 0.5, f"{UUID}/power_draw_watts": 200.0}
    telemetry.store(host, [{"time": start + at, "values": values} for at in range(seconds)])
    return start


def test_the_history_of_a_host_by_minutes(tower: Host) -> None:
    fill(tower)
    names = f"load_1m,{UUID}/power_draw_watts"
    answer = make_client("read").get(f"/api/hosts/tower/history?names={names}&minutes=1").json()
    assert answer["resolution_seconds"] == 1
    assert set(answer["series"]) == {"load_1m", f"{UUID}/power_draw_watts"}
    assert set(answer["series"]["load_1m"]["mean"]) == {0.5}


def test_the_history_of_a_host_from_one_time_to_another(tower: Host) -> None:
    start = fill(tower)
    client = make_client("read")
    line = client.get(f"/api/hosts/tower/history?from={start + 10}&to={start + 19}").json()["series"]["load_1m"]
    assert line["time"] == [start + at for at in range(10, 20)]
    assert line["min"] == line["max"] == line["mean"] == [0.5] * 10


def test_the_history_of_a_gpu_has_plain_names(tower: Host) -> None:
    fill(tower)
    answer = make_client("read").get("/api/gpu/history?host=tower&index=0&names=power_draw_watts").json()
    assert list(answer["series"]) == ["power_draw_watts"]
    assert answer["series"]["power_draw_watts"]["mean"][0] == 200.0
    whole = make_client("read").get("/api/gpu/history").json()
    assert set(whole["series"]) == set(telemetry.GPU_NAMES)


@pytest.mark.parametrize(
    ("address", "status", "word"),
    [
        ("/api/hosts/nowhere/history", 404, "nowhere"), ("/api/hosts/tower/history?names=nonsense", 422, "nonsense"),
        ("/api/hosts/tower/history?minutes=0", 422, "greater than 0"),
        ("/api/hosts/tower/history?minutes=5&from=7", 422, "not for both"),
        ("/api/hosts/tower/history?from=20&to=10", 422, "begin before"),
        ("/api/hosts/tower/history?from=yesterday", 422, "from"),
        ("/api/hosts/tower/history?from=0001-01-01T00:00:00", 422, "from must lie between"),
        ("/api/gpu/history?to=0001-01-01T00:00:00%2B14:00", 422, "to must lie between"),
        ("/api/hosts/tower/history?to=9999-12-31T23:59:59", 422, "to must lie between"),
        ("/api/hosts/tower/history?max_points=100000", 422, "max_points"),
        ("/api/gpu/history?host=tower&index=9", 404, "GPU 9"), ("/api/gpu/history?host=nowhere", 404, "nowhere"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("tower")
def test_a_history_that_makes_no_sense_is_refused(address: str, status: int, word: str) -> None:
    answer = make_client("read").get(address)
    assert answer.status_code == status
    assert word in answer.json()["detail"]


# --- GPU memory without an owner ---


def test_memory_without_an_owner_is_listed_the_largest_first(tower: Host) -> None:
    make_host("other", online=False)
    rows = make_client("read").get("/api/gpu/processes").json()["processes"]
    assert [(row["host"], row["pid"], row["is_ours"]) for row in rows] == [("tower", 400, False), ("tower", 200, True)]
    assert (rows[0]["gpu_uuid"], rows[0]["memory_used_bytes"], rows[0]["age_seconds"]) == (UUID, 400 << 20, 7200.0)
    assert make_client("read").get("/api/gpu/processes?host=nowhere").status_code == 404


def test_what_a_host_that_is_away_held_is_not_claimed_to_be_held() -> None:
    host = make_host("tower", online=False)
    make_gpu(host, uuid=UUID, processes=[gpu_process(200)])
    assert gpu_processes.list_ownerless() == []


@pytest.mark.usefixtures("tower")
def test_ours_is_ended_and_written_down(agent: EndingAgent) -> None:
    answer = end(make_client("admin", "boss"))
    assert answer.status_code == 200
    assert answer.json() == {"host": "tower", "pid": 200, "command": "python", "ended": True, "reason": None}
    assert agent.asked == [(200, 1200, "boot", False)]
    line = AuditLine.objects.get(action="gpu_process.end")
    assert (line.actor, line.target) == ("key boss", "process 200 on tower")
    assert line.detail == {"command": "python", "user": "someone", "is_ours": True, "others": False, "ended": True,
                           "reason": None}  # fmt: skip


@pytest.mark.usefixtures("tower")
def test_the_second_confirmation_reaches_the_agent(agent: EndingAgent) -> None:
    assert end(make_client("admin"), 400, others=True).status_code == 200
    assert agent.asked == [(400, 1400, "boot", True)]


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize("role", ["read", "use"])
def test_who_may_not_end_processes_ends_none(agent: EndingAgent, role: str) -> None:
    answer = end(make_client(role))
    assert (answer.status_code, agent.asked) == (403, [])
    assert "needs the role admin" in answer.json()["detail"]


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize(
    ("code", "status"),
    [("not_ours", 409), ("belongs_to_job", 409), ("other_process", 409), ("not_on_gpu", 409), ("not_permitted", 409),
     ("bad_call", 422)],
)  # fmt: skip
def test_a_refusal_is_a_sentence_with_its_fix(agent: EndingAgent, code: str, status: int) -> None:
    agent.answer = AgentRefusedError(code, "It can't be.", "Do that instead.")
    answer = end(make_client("admin"))
    assert answer.status_code == status
    assert answer.json()["detail"] == "It can't be. Do that instead."
    assert AuditLine.objects.get(action="gpu_process.end").detail["refused"] == code


@pytest.mark.usefixtures("tower")
def test_of_a_host_that_does_not_answer_nobody_knows_whether_it_ended_it(agent: EndingAgent) -> None:
    agent.answer = HostUnreachableError("no socket")
    answer = end(make_client("admin"))
    assert answer.status_code == 503
    assert "it isn't known whether process 200 has ended" in answer.json()["detail"]
    told = AuditLine.objects.get(action="gpu_process.end").detail
    assert (told["ended"], told["reason"], told["is_ours"]) == (None, "no socket", True)


@pytest.mark.usefixtures("tower")
def test_what_lives_on_is_said(agent: EndingAgent) -> None:
    agent.answer = EndAnswer(ended=False, reason="It hangs in the driver.")
    answer = end(make_client("admin")).json()
    assert (answer["ended"], answer["reason"]) == (False, "It hangs in the driver.")


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize(
    "fields", [{"pid": 1}, {"pid": -5}, {"start_ticks": None}, {"start_ticks": "all"}, {"host": "nowhere"}]
)
def test_bad_input_ends_nothing(agent: EndingAgent, fields: dict[str, Any]) -> None:
    answer = end(make_client("admin"), **fields)
    assert answer.status_code in (404, 422)
    assert agent.asked == []
