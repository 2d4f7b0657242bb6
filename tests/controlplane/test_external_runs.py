"""Runs of scripts elsewhere, over the API: begun, their points stored once, ended; and what such a run lacks."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.models import Alert, AuditLine, LiveMessage, Metric, Run
from controlplane.models.jobs import Status
from controlplane.services import curve_reading, external_points, external_runs
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls"), pytest.mark.usefixtures("home")]
JSON = "application/json"


@pytest.fixture
def script() -> Client:
    """A client that may work; it acts as `key mine`."""
    return factories.make_client("use", name="mine")


def begin(script: Client, **fields: Any) -> int:
    response = script.post("/api/runs/external", {"name": "elsewhere", **fields}, content_type=JSON)
    assert response.status_code == 201, response.content
    number: int = response.json()["id"]
    return number


def send(script: Client, run_id: int, **batch: Any) -> Any:
    return script.post(f"/api/runs/{run_id}/metrics", json.dumps(batch), content_type=JSON)


def points(run_id: int, key: str) -> list[tuple[int, float | str]]:
    series = curve_reading.read(Run.objects.get(pk=run_id), [key], None, 2000)[key]
    return list(zip(series["step"], series["value"], strict=True))


def test_a_run_begins_running_with_what_its_script_says_of_it(script: Client) -> None:
    config = {"lr": 3e-4, "layers": [2, 4], "hyperparams": "mine"}
    number = begin(script, config=config, tags=["b", "a"], group="sweep", notes="a note", total_steps=50)
    run = script.get(f"/api/runs/{number}").json()
    assert (run["status"], run["origin"], run["created_by"]) == ("running", "script", "key mine")
    assert (run["config"], run["dataset"], run["model"]) == (config, None, None)
    assert (run["tags"], run["group"], run["notes"]) == (["a", "b"], "sweep", "a note")
    assert run["progress"]["total_steps"] == 50
    assert AuditLine.objects.filter(action="run.create", target=f"run {number}", actor="key mine").exists()


def test_points_are_there_when_the_call_answers(script: Client) -> None:
    number = begin(script)
    one = send(script, number, step=1, time=1_700_000_000.5, values={"loss": 2.5, "acc/top.1": 0.25})
    assert (one.status_code, one.json()) == (200, {"stored": 2, "left_out": 0, "last_step": 1, "repeated": False})
    batch = [{"step": step, "values": {"loss": 1.0 / step}} for step in (2, 3)]
    assert send(script, number, points=batch).json()["stored"] == 2
    assert points(number, "loss") == [(1, 2.5), (2, 0.5), (3, pytest.approx(1 / 3))]
    read = script.get(f"/api/runs/{number}/metrics?keys=acc/top.1").json()
    assert read["series"]["acc/top.1"]["time"] == [1_700_000_000.5]
    run = script.get(f"/api/runs/{number}").json()
    assert (run["progress"]["step"], run["last"]["acc/top.1"]) == (3, 0.25)


def test_open_pages_hear_of_points(script: Client) -> None:
    number = begin(script)
    send(script, number, step=1, time=5.0, values={"loss": float("nan")})
    message = LiveMessage.objects.filter(topic_id=f"run:{number}", kind="metrics").get()
    assert message.data["points"] == {"loss": [[1, "NaN", 5.0]]}


def test_of_points_by_the_thousand_pages_hear_that_they_are_there(script: Client) -> None:
    number = begin(script)
    send(script, number, points=[{"step": step, "values": {"a": 0.0, "b": 1.0}} for step in range(1500)])
    kinds = LiveMessage.objects.filter(topic_id=f"run:{number}").values_list("kind", flat=True)
    assert "reset" in kinds
    assert "metrics" not in kinds


def test_a_batch_that_comes_again_is_stored_once(script: Client) -> None:
    number = begin(script)
    batch: dict[str, Any] = {"seq": 1, "points": [{"step": 1, "values": {"loss": 1.0}}]}
    assert send(script, number, **batch).json()["repeated"] is False
    again = send(script, number, **batch).json()
    assert again == {"stored": 0, "left_out": 0, "last_step": 1, "repeated": True}
    assert send(script, number, seq=2, step=2, values={"loss": 0.5}).json()["stored"] == 1
    other = send(script, number, seq=1, writer="rank 1", step=1, values={"rank1/loss": 1.0}).json()
    assert (other["stored"], other["repeated"]) == (1, False)
    assert points(number, "loss") == [(1, 1.0), (2, 0.5)]


def test_a_step_that_is_there_is_left_out_and_told(script: Client) -> None:
    number = begin(script)
    send(script, number, step=5, values={"loss": 1.0})
    answer = send(script, number, points=[{"step": 5, "values": {"loss": 9.0, "acc": 0.5}}]).json()
    assert (answer["stored"], answer["left_out"]) == (1, 1)
    assert points(number, "loss") == [(5, 1.0)]
    assert script.get(f"/api/runs/{number}").json()["last"] == {"loss": 1.0, "acc": 0.5}


def test_a_script_that_goes_on_from_a_step_supersedes_what_lay_beyond(script: Client) -> None:
    number = begin(script)
    send(script, number, points=[{"step": step, "values": {"loss": float(step)}} for step in (1, 2, 3)])
    send(script, number, resumed=1, step=2, values={"loss": 20.0})
    assert points(number, "loss") == [(1, 1.0), (2, 20.0)]
    outline = script.get(f"/api/runs/{number}/metrics/keys").json()
    assert [row["step"] for row in outline["resumed"]] == [1]


@pytest.mark.parametrize(
    ("batch", "path"),
    [
        ({"step": -1, "values": {"loss": 1}}, "step"),
        ({"step": 1, "values": {"loss": "low"}}, "values.loss"),
        ({"step": 1, "values": {"": 1}}, "values..[key]"),
        ({"step": 1, "values": {"a" * 501: 1}}, f"values.{'a' * 193}"),
        ({"step": 1, "time": 1.7e12, "values": {"loss": 1}}, "time"),
        ({"step": 1, "values": {"loss": 1}, "colour": "red"}, "colour"),
        ({"points": [{"step": 2**53, "values": {}}]}, "points.0.step"),
        ({"points": [{"values": {}}]}, "points.0.step"),
        ({"points": [], "step": 1, "values": {}}, "points"),
        ({"step": 1}, "points"),
        ({}, "points"),
        ({"seq": 0, "points": []}, "seq"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_whole(script: Client, batch: dict[str, Any], path: str) -> None:
    number = begin(script)
    response = send(script, number, **batch)
    assert response.status_code == 422, response.content
    assert path in [fault["path"] for fault in response.json()["faults"]]
    assert not Metric.objects.exists()


@pytest.mark.parametrize("body", [b"", b"[", b"[]", b'{"step": 1, "values": {"\\ud800": 1}}', b"\xff"])
def test_what_is_no_json_object_is_refused(script: Client, body: bytes) -> None:
    number = begin(script)
    response = script.post(f"/api/runs/{number}/metrics", body, content_type=JSON)
    assert response.status_code == 422, response.content


def test_a_batch_has_a_bound(script: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_points, "MOST_VALUES", 3)
    number = begin(script)
    response = send(script, number, points=[{"step": 1, "values": dict.fromkeys("abcd", 1.0)}])
    assert response.status_code == 422
    assert "Send it in several" in response.json()["detail"]


def test_a_run_has_so_many_metrics_at_most(script: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_points, "MOST_METRICS", 3)
    number = begin(script)
    assert send(script, number, step=1, values=dict.fromkeys("abc", 1.0)).status_code == 200
    assert send(script, number, step=2, values=dict.fromkeys("abc", 2.0)).status_code == 200
    refused = send(script, number, points=[{"step": 3, "values": {"a": 3.0}}, {"step": 4, "values": {"d": 4.0}}])
    assert refused.status_code == 422
    assert "would have 4 metrics" in refused.json()["detail"]
    assert points(number, "a") == [(1, 1.0), (2, 2.0)], "a batch is refused whole"


def test_a_run_ends_when_its_script_says_so(script: Client) -> None:
    number = begin(script)
    send(script, number, step=7, values={"loss": 1.0})
    for _ in range(2):  # the answer may have been lost
        response = script.post(f"/api/runs/{number}/finish", {"status": "done"}, content_type=JSON)
        assert (response.status_code, response.json()["status"]) == (200, "done")
    late = send(script, number, step=8, values={"loss": 1.0})
    assert (late.status_code, "takes no more points" in late.json()["detail"]) == (409, True)
    assert script.post(f"/api/runs/{number}/finish", {"status": "failed"}, content_type=JSON).status_code == 409
    assert Alert.objects.get(rule="run_finished").message.startswith(f"Run {number}")


def test_a_run_that_failed_says_why(script: Client) -> None:
    number = begin(script)
    script.post(f"/api/runs/{number}/finish", {"status": "failed", "message": "out of patience"}, content_type=JSON)
    run = script.get(f"/api/runs/{number}").json()
    assert (run["status"], run["error"]["message"]) == ("failed", "out of patience")
    assert script.post(f"/api/jobs/{run['job_id']}/retry", content_type=JSON).status_code == 409


@pytest.mark.parametrize("mode", ["save", "now"])
def test_who_stops_it_here_ends_it_for_the_script(script: Client, mode: str) -> None:
    number = begin(script)
    assert script.post(f"/api/runs/{number}/stop", {"mode": mode}, content_type=JSON).json()["status"] == "cancelled"
    assert send(script, number, step=1, values={"loss": 1.0}).status_code == 409


def test_others_and_readers_may_not_write(script: Client) -> None:
    number = begin(script)
    for client in (factories.make_client("use"), factories.make_client("read")):
        assert send(client, number, step=1, values={"loss": 1.0}).status_code == 403
        assert client.post(f"/api/runs/{number}/finish", content_type=JSON).status_code == 403
    assert factories.make_client("read").post("/api/runs/external", {"name": "a"}, content_type=JSON).status_code == 403
    assert send(factories.make_client("admin"), number, step=1, values={"loss": 1.0}).status_code == 200


def test_a_training_run_takes_no_points_from_scripts(script: Client) -> None:
    run = factories.make_run(created_by="key mine", status=Status.RUNNING)
    assert send(script, run.pk, step=1, values={"loss": 1.0}).status_code == 409
    assert script.post(f"/api/runs/{run.pk}/finish", content_type=JSON).status_code == 409
    assert send(script, 10**9, step=1, values={"loss": 1.0}).status_code == 404


def test_a_run_nobody_hears_of_has_failed_until_its_script_speaks_again(script: Client) -> None:
    number = begin(script)
    Run.objects.filter(pk=number).update(heard_at=timezone.now() - timedelta(hours=7))
    assert (external_runs.give_up_silent(), external_runs.give_up_silent()) == (1, 0)
    run = script.get(f"/api/runs/{number}").json()
    assert (run["status"], run["error"]["code"]) == ("failed", "silent")
    assert send(script, number, step=1, values={"loss": 1.0}).json()["stored"] == 1
    run = script.get(f"/api/runs/{number}").json()
    assert (run["status"], run["error"], run["ended_at"]) == ("running", None, None)


def test_posts_that_are_stored_together_are_answered_each() -> None:
    mine, other = factories.make_external_run(created_by="anna"), factories.make_external_run(created_by="bert")
    anna = factories.make_user("use", "anna").actor()
    post = external_points.Post
    batch = external_points.read(b'{"step": 1, "values": {"loss": 1}}')
    first, foreign, again, nowhere = external_points.store(
        [post(anna, mine.pk, batch), post(anna, other.pk, batch), post(anna, mine.pk, batch), post(anna, 0, batch)]
    )
    assert first == external_points.Stored(1, 0, 1)
    assert again == external_points.Stored(0, 1, 1)
    assert [getattr(refusal, "status_code", None) for refusal in (foreign, nowhere)] == [403, 404]


def test_a_config_has_a_bound(script: Client) -> None:
    body = {"name": "a", "config": {"text": "x" * 70_000}}
    response = script.post("/api/runs/external", body, content_type=JSON)
    assert (response.status_code, response.json()["faults"][0]["path"]) == (422, "config")
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("/api/run-templates", {"name": "a", "run": 0}),
        ("/api/runs/0/go-on", {}),
        ("/api/runs/0/pause", {}),
        ("/api/runs/0/resume", {}),
    ],
)
def test_what_needs_a_dataset_says_what_the_run_lacks(script: Client, address: str, body: dict[str, Any]) -> None:
    number = begin(script)
    body = {name: number if value == 0 else value for name, value in body.items()}
    response = script.post(address.replace("0", str(number)), body, content_type=JSON)
    assert response.status_code in (409, 422), response.content
    assert response.json()["detail"]


def test_it_is_compared_by_what_its_script_told(script: Client) -> None:
    first, second = begin(script, config={"lr": 0.1, "seed": 1}), begin(script, config={"lr": 0.2, "seed": 1})
    trained = factories.make_run()
    answer = script.get(f"/api/runs/compare?runs={first},{second},{trained.pk}").json()
    assert {row["path"]: row["values"] for row in answer["settings"]} == {"own.lr": [0.1, 0.2, None]}
