"""A run in a terminal, without the control plane: the same folder, Ctrl-C, going on, and what it says when it can't."""

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from monitoring.attempt import JobFaultError
from monitoring.events import EXIT_PAUSED, Metrics, Resumed, decode_event, read_lines
from tests.tiny import write_style_dataset
from tests.training.trainjobs import DEADLINE_SECONDS, REPOSITORY, tiny_model
from training import checkpoints
from training.terminal import run
from training.wishes import Wishes

SETTINGS = [
    "--method=full", "--learning_rate=3e-3", "--max_steps=40", "--per_device_train_batch_size=4", "--save_steps=40",
    "--nice=0", "--cpu_threads=1", "--max_length=256",
]  # fmt: skip

BATCH_OF_8 = ["--per_device_train_batch_size=8"]


def write_table(path: Path) -> Path:
    """The style dataset as a gzipped CSV."""
    rows = path.with_name("rows.jsonl")
    write_style_dataset(rows, 60, 0)
    with gzip.open(path, "wt", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["instruction", "output"])
        for line in rows.read_text().splitlines():
            turns = {turn["role"]: turn["content"] for turn in json.loads(line)["messages"]}
            table.writerow([turns["user"], turns["assistant"]])
    return path


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def losses(attempt: Path) -> dict[int, float]:
    lines, _ = read_lines(attempt / "events.jsonl", 0)
    bodies = [decode_event(line).body for line in lines.splitlines()]
    return {body.step: body.values["loss"] for body in bodies if isinstance(body, Metrics) and "loss" in body.values}


def test_two_processes_interrupted_and_resumed_as_one_leave_the_folder_of_a_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    table = write_table(tmp_path / "chats.csv.gz")
    call = ["--dataset", str(table), "--model", str(tiny_model()), "--output", str(output), *SETTINGS]
    command = [sys.executable, "-m", "training", "train", *call, "--gpus=2", "--distributed=ddp"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=env, stderr=subprocess.PIPE, text=True) as process:
        first = output / "attempts" / "1"
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(losses(first)) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        ranks = psutil.Process(process.pid).children()
        connections = [connection for rank in ranks for connection in rank.net_connections()]
        assert {connection.laddr.ip for connection in connections} <= {"127.0.0.1", "::1"}
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == EXIT_PAUSED, said
    assert len(ranks) == 2
    assert not any(psutil.pid_exists(rank.pid) for rank in ranks)
    seqs = [decode_event(line).seq for line in read_lines(first / "events.jsonl", 0)[0].splitlines()]
    assert seqs == list(range(1, len(seqs) + 1))
    assert "60 rows of chats.csv.gz (csv" in said
    assert "loss=" in said and "lr=" in said and "tokens/s=" in said
    assert f"Go on with: python -m training train --output {output} --resume" in said
    reached = max(losses(first))
    assert 3 <= reached < 40
    assert json.loads((first / "exit.json").read_text())["code"] == EXIT_PAUSED
    table.unlink()

    assert run.main(["--output", str(output), "--resume", "--distributed=none", "--gpus=0", *BATCH_OF_8]) == 0
    said = capfd.readouterr().err
    assert f"The model is in {output / 'model'}." in said
    second = output / "attempts" / "2"
    assert decode_event(read_lines(second / "events.jsonl", 0)[0].splitlines()[1]).body == Resumed(step=reached)
    assert list(losses(second)) == list(range(reached + 1, 41))
    assert losses(second)[40] < 2.0
    assert {path.name for path in output.iterdir()} == {"attempts", "checkpoints", "dataset", "model"}
    for attempt in (first, second):
        assert {path.name for path in attempt.iterdir()} == {"events.jsonl", "exit.json", "log.txt", "spec.json"}
    assert checkpoints.verify(checkpoints.path_of(output / "checkpoints", 40)).step == 40
    assert json.loads((output / "model" / "pilothouse.json").read_text())["base"]["id"] == tiny_model().name


def test_a_second_interrupt_ends_at_once() -> None:
    wishes = Wishes()
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), run._interruptible(wishes, said.append):
        os.kill(os.getpid(), signal.SIGINT)
        assert wishes.told is not None
        os.kill(os.getpid(), signal.SIGINT)
    assert said == ["Ends after this step with a checkpoint. Ctrl-C again ends at once."]


def test_an_interrupt_is_nothing_to_a_process_that_loads_data() -> None:
    wishes, said = Wishes(), list[str]()
    with run._interruptible(wishes, said.append):
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0 if wishes.told is None and not said else 3)
        assert os.waitpid(child, 0) == (child, 0)
    assert (wishes.told, said) == (None, [])


def test_what_is_no_attempt_is_none(tmp_path: Path) -> None:
    (tmp_path / "attempts" / "1 (copy)").mkdir(parents=True)
    with pytest.raises(JobFaultError, match="There is no run in"):
        run._before(tmp_path, resume=True)


def test_a_file_with_faults_is_told_with_lines_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "chats.jsonl"
    write_style_dataset(data, 5, 0)
    data.write_text(data.read_text() + '{"messages": [{"role": "user", "content": "Hi"}]}\n{"messages\n')
    output = tmp_path / "out"
    assert run.main(["--dataset", str(data), "--model", str(tiny_model()), "--output", str(output)]) == 1
    said = capfd.readouterr().err
    assert "chats.jsonl, line 6: " in said
    assert "chats.jsonl, line 7: Not JSON" in said
    assert "Traceback" not in said
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--model", "m"], 2, "Name a dataset file after --dataset"),
        (["--dataset", "d.jsonl"], 2, "Name a model folder after --model."),
        (["--dataset", "d.jsonl", "--model", "m", "--sed", "3"], 2, "Did you mean hyperparams.seed?"),
        (["--dataset", "d.jsonl", "--model", "m", "--seed", "-3"], 2, "hyperparams.seed: -3 is not allowed"),
        (["--dataset", "d.jsonl", "--model", "m", "--json", "no.json"], 2, "no.json can't be read"),
        (
            ["--dataset", "d.jsonl", "--model", "m", "--model.chain", "night"],
            2,
            "model.chain is 'night', but chains are",
        ),
        (["--dataset", "d.jsonl", "--model", "nowhere", "--model.chain", ""], 1, "There is no folder nowhere."),
        (["--dataset", "d.jsonl", "--model", "nowhere"], 1, "There is no folder nowhere."),
        (["--dataset", "d.jsonl", "--model", "TINY"], 1, "There is no file d.jsonl."),
        (["--dataset", "d.jsonl", "--model", "m", "--resume"], 1, "There is no run in"),
    ],
)
@pytest.mark.usefixtures("in_empty_folder")
def test_what_cannot_be_is_said_in_a_sentence(
    arguments: list[str], code: int, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny_model()) if argument == "TINY" else argument for argument in arguments]
    assert run.main(arguments) == code
    said = capfd.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    call = ["--dataset", "d.jsonl", "--model", str(tiny_model()), "--output", str(tmp_path)]
    assert run.main(call) == 1
    assert "is not empty.\nAdd --resume" in capfd.readouterr().err
    (tmp_path / "model").mkdir()
    assert run.main([*call, "--resume"]) == 1
    assert "its model is there" in capfd.readouterr().err


def test_a_damaged_model_is_named_with_its_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, data = tmp_path / "damaged", tmp_path / "chats.jsonl"
    shutil.copytree(tiny_model(), model)
    write_style_dataset(data, 8, 0)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    call = ["--dataset", str(data), "--model", str(model), "--output", str(tmp_path / "out"), *SETTINGS]
    assert run.main(call) == 1
    said = capfd.readouterr().err
    assert f"{weights} is damaged" in said
    assert "Fetch or copy the model again" in said
    assert "Traceback" not in said
