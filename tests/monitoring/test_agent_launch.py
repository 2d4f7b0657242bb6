"""Launching: files, environment, once and only once, fences, adoption."""

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from monitoring.agent import Agent
from monitoring.events import Wish
from monitoring.folders import AttemptFolder
from monitoring.launch import COMMANDS as REAL_COMMANDS
from monitoring.processes import identify
from monitoring.wire import AgentFaultError
from tests.monitoring.factories import COMMANDS, kill_all, make_spec, wait_for, wait_for_event, wait_for_state


def refusal(agent: Agent, spec: dict[str, Any]) -> str:
    with pytest.raises(AgentFaultError) as caught:
        agent.launch(spec, {})
    return caught.value.fault["code"]


def test_a_launch_leaves_the_files_of_the_contract(agent: Agent, home: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    answer = agent.launch(make_spec(7, 2, until=str(go)), {"hf_token": "hf_topsecret"})
    folder = AttemptFolder(home, 7, 2)
    assert folder.is_held()
    process = folder.process()
    assert process is not None
    assert answer == {"adopted": False, "pid": process["pid"]}
    assert folder.job_identity() == identify(process["pid"] or 0)
    assert folder.supervisor_identity() == identify(process["supervisor_pid"])
    assert stat.S_IMODE(folder.secret.stat().st_mode) == 0o600
    assert json.loads(folder.secret.read_text()) == {"hf_token": "hf_topsecret"}
    assert json.loads(folder.spec.read_text())["job_id"] == 7
    assert "hf_topsecret" not in Path(f"/proc/{process['pid']}/cmdline").read_text()
    assert b"hf_topsecret" not in Path(f"/proc/{process['pid']}/environ").read_bytes()
    go.touch()
    wait_for_state(folder, "exited")
    assert not folder.secret.exists()


def test_the_supervisor_is_nobodys_child_and_has_its_own_session(agent: Agent, home: Path, tmp_path: Path) -> None:
    agent.launch(make_spec(until=str(tmp_path / "go")), {})
    process = AttemptFolder(home, 1, 1).process()
    assert process is not None and process["pid"] is not None
    assert os.getsid(process["supervisor_pid"]) not in (os.getsid(0), process["supervisor_pid"])
    assert os.getpgid(process["pid"]) == process["pid"]


def test_the_environment_is_scrubbed_and_complete(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_topsecret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    agent = Agent(home, commands=COMMANDS)
    spec = make_spec(environment={"cpu_threads": 3, "nice": 4})
    agent.launch({**spec, "gpus": ["GPU-a", "GPU-b"]}, {})
    folder = AttemptFolder(home, 1, 1)
    wait_for_state(folder, "exited")
    said = json.loads(folder.log.read_text())
    environment = said["environment"]
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert environment["OMP_NUM_THREADS"] == environment["RAYON_NUM_THREADS"] == "3"
    assert environment["PILOTHOUSE_HOME"] == str(home)
    assert environment["PILOTHOUSE_JOB"] == str(spec["job_id"])
    assert environment["HF_HOME"] == str(home / "tmp" / "huggingface")
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert {"HF_TOKEN", "PYTHONPATH", "PYTEST_CURRENT_TEST"}.isdisjoint(environment)
    assert said["nice"] == os.nice(0) + 4
    assert (Path(said["cwd"]) / "monitoring" / "agent.py").exists()
    agent.shutdown()


def test_asked_twice_it_runs_once(agent: Agent, tmp_path: Path) -> None:
    spec = make_spec(until=str(tmp_path / "go"))
    first, second = agent.launch(spec, {}), agent.launch(spec, {})
    assert (first["adopted"], second["adopted"]) == (False, True)
    assert first["pid"] == second["pid"]


def test_launches_that_race_start_one_process(agent: Agent, home: Path, tmp_path: Path) -> None:
    agents = [agent, Agent(home, commands=COMMANDS)]
    spec = make_spec(until=str(tmp_path / "go"))
    answers = []

    def launch(number: int) -> None:
        answers.append(agents[number % 2].launch(spec, {}))

    def poll_meanwhile() -> None:
        for _ in range(50):
            agents[1].poll([{"job_id": 1, "attempt": 1, "offset": 0}], 0.0)

    threads = [threading.Thread(target=launch, args=(number,)) for number in range(8)]
    threads.append(threading.Thread(target=poll_meanwhile))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer["adopted"] for answer in answers].count(False) == 1
    assert len({answer["pid"] for answer in answers}) == 1
    folder = AttemptFolder(home, 1, 1)
    wait_for_event(folder, "started")
    assert folder.events.read_text().count('"kind":"started"') == 1


def test_an_attempt_that_has_ended_is_not_started_again(agent: Agent, home: Path) -> None:
    agent.launch(make_spec(), {})
    folder = AttemptFolder(home, 1, 1)
    wait_for_state(folder, "exited")
    wait_for(lambda: not folder.is_held())
    assert agent.launch(make_spec(), {})["adopted"]
    assert folder.events.read_text().count('"kind":"started"') == 1


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "missing"},
        {"output_dir": "runs/9"},
        {"model_dir": "models/other"},
        {"inputs": {"dataset": {"id": "1", "path": "datasets/b", "sha256": "b"}}},
        {"inputs": {}},
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_an_attempt_of_another_installation_is_not_adopted(
    agent: Agent, home: Path, tmp_path: Path, change: dict[str, Any], ended: bool
) -> None:
    inputs = {"dataset": {"id": "1", "path": "datasets/a", "sha256": "a"}}
    spec = {**make_spec(3, 1, **({} if ended else {"until": str(tmp_path / "go")})), "inputs": inputs}
    agent.launch(spec, {})
    if ended:
        wait_for_state(AttemptFolder(home, 3, 1), "exited")
    with pytest.raises(AgentFaultError) as caught:
        agent.launch({**spec, **change}, {})
    fault = caught.value.fault
    assert fault["code"] == "foreign_attempt"
    assert "job 3 attempt 1 holds another installation's attempt" in fault["message"]
    assert "data base" in fault["fix"]
    assert agent.launch(spec, {})["adopted"]


def test_another_checkpoint_to_resume_from_is_no_sign_of_another_installation(agent: Agent) -> None:
    agent.launch(make_spec(1, 2), {})
    resume_from = {"id": "1/5", "path": "runs/1/checkpoints/5", "sha256": ""}
    assert agent.launch({**make_spec(1, 2), "inputs": {"resume_from": resume_from}}, {})["adopted"]


def test_a_launch_that_died_before_its_supervisor_is_taken_up(agent: Agent, home: Path) -> None:
    folder = AttemptFolder(home, 1, 1)
    folder.path.mkdir(parents=True)
    folder.spec.write_text("{}")
    (folder.path / "lock").touch()
    assert not agent.launch(make_spec(), {})["adopted"]
    wait_for_state(folder, "exited")


def test_an_older_attempt_is_fenced_off(agent: Agent, home: Path) -> None:
    agent.launch(make_spec(1, 2), {})
    wait_for_state(AttemptFolder(home, 1, 2), "exited")
    assert refusal(agent, make_spec(1, 1)) == "superseded"
    assert not AttemptFolder(home, 1, 1).path.exists()


def test_the_next_attempt_waits_for_the_last_ones_end(agent: Agent, home: Path, tmp_path: Path) -> None:
    agent.launch(make_spec(1, 1, until=str(tmp_path / "go")), {})
    assert refusal(agent, make_spec(1, 2)) == "still_running"
    agent.signal(1, 1, Wish.CANCEL)
    wait_for(lambda: not AttemptFolder(home, 1, 1).is_held())
    assert not agent.launch(make_spec(1, 2), {})["adopted"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"spec_version": 99}, "bad_spec"),
        ({"surprise": 1}, "bad_spec"),
        ({"kind": "rm"}, "unknown_kind"),
        ({"job_id": "../../etc"}, "bad_call"),
        ({"attempt": 0}, "bad_call"),
        ({"attempt": True}, "bad_call"),
        ({"config": [1]}, "bad_spec"),
    ],
)
def test_a_bad_spec_is_refused_and_leaves_nothing(agent: Agent, home: Path, change: dict[str, Any], code: str) -> None:
    assert refusal(agent, {**make_spec(), **change}) == code
    assert list((home / "jobs").iterdir()) == []


def test_a_full_disk_is_refused_by_its_name(home: Path) -> None:
    agent = Agent(home, commands=COMMANDS, min_free_bytes=1 << 60)
    assert refusal(agent, make_spec()) == "disk_full"
    assert not AttemptFolder(home, 1, 1).path.exists()
    agent.shutdown()


def test_a_program_that_is_not_there_is_told_in_log_and_exit(agent: Agent, home: Path) -> None:
    agent.launch(make_spec(kind="missing"), {})
    folder = AttemptFolder(home, 1, 1)
    wait_for_state(folder, "exited")
    record = folder.exit()
    assert record is not None and record["code"] == 127
    assert "/no/such/program" in folder.log.read_text()


def test_a_new_agent_adopts_what_runs(agent: Agent, home: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    agent.launch(make_spec(5, 1, until=str(go)), {})
    successor = Agent(home, commands=COMMANDS)
    assert successor.poll([], 0.0)["live"] == [(5, 1)]
    assert successor.launch(make_spec(5, 1, until=str(go)), {})["adopted"]
    kill_all(successor)
    wait_for(lambda: successor.poll([], 0.0)["live"] == [])
    successor.shutdown()


def test_the_table_has_the_kinds_of_the_contract() -> None:
    table = {kind: command[2:] for kind, command in REAL_COMMANDS.items()}
    assert table == {
        "train": ("training", "train"),
        "validate": ("training", "validate"),
        "fetch": ("training", "fetch"),
        "serve": ("inference", "serve"),
        "eval": ("inference", "evaluate"),
        "data_gen": ("inference", "generate_data"),
    }
