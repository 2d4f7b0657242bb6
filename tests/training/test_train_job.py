"""`python -m training train SPEC` as a real process: events, signals, crashes, and the model that it leaves."""

import json
import math
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from monitoring.events import (
    EXIT_PAUSED,
    Checkpoint,
    CheckpointGone,
    Error,
    Log,
    Phase,
    Progress,
    Result,
    Resumed,
    Started,
)
from monitoring.files import sha256_of
from tests.tiny import has_style
from tests.training.trainjobs import TrainJob, make_job
from training import checkpoints
from training.profiles.base import load_profile

SETTINGS: dict[str, Any] = {
    "hyperparams": {"max_steps": 40, "per_device_train_batch_size": 4},
    "monitoring": {"eval_steps": 10, "update_interval_seconds": 0.0},
    "output": {"save_steps": 8, "save_total_limit": 2},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainJob]:
    """A job that nobody disturbed; several tests look at it."""
    job = make_job(tmp_path_factory.mktemp("whole"), **SETTINGS).start()
    assert job.wait() == 0, (job.attempt_dir / "log.txt").read_text()
    yield job


def test_the_loss_falls_and_every_step_has_its_figures(whole: TrainJob) -> None:
    loss = whole.curve("loss")
    assert list(loss) == list(range(1, 41))
    assert loss[1] > 5.0
    assert loss[40] < 1.0
    for key in ("learning_rate", "grad_norm", "tokens_per_second", "memory_rss_bytes"):
        assert list(whole.curve(key)) == list(range(1, 41))
    assert list(whole.curve("eval_loss")) == [10, 20, 30, 40]
    assert min(whole.curve("tokens_per_second").values()) > 0


def test_the_events_are_in_the_order_of_the_contract(whole: TrainJob) -> None:
    events = whole.events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0].body, Started)
    assert isinstance(events[-1].body, Result)
    phases = [body.name for body in whole.bodies(Phase)]
    assert phases[:2] == ["launching", "active"]
    assert phases[-1] == "stopping"
    progress = whole.bodies(Progress)
    assert [body.done for body in progress] == list(range(41))
    assert {(body.total, body.unit) for body in progress} == {(40, "steps")}
    assert any("fp32" in body.text or "bf16" in body.text for body in whole.bodies(Log))


def test_checkpoints_are_told_kept_and_let_go(whole: TrainJob) -> None:
    made = whole.bodies(Checkpoint)
    assert [body.step for body in made] == [8, 16, 24, 32, 40]
    gone = [body.step for body in whole.bodies(CheckpointGone)]
    kept = checkpoints.steps(whole.checkpoints)
    assert sorted(gone + kept) == [8, 16, 24, 32, 40]
    assert len(kept) == 2
    assert 40 in kept
    last = made[-1]
    manifest = checkpoints.verify(whole.output_dir / last.path)
    assert (manifest.step, manifest.profile) == (40, {"name": "plain", "version": load_profile("plain").version})
    assert last.eval_loss == whole.curve("eval_loss")[40]
    assert last.loss == whole.curve("loss")[40]
    assert sha256_of(whole.output_dir / last.path / "manifest.json") == last.manifest_sha256


def test_the_finished_model_answers_in_the_style_of_the_data(whole: TrainJob) -> None:
    tokenizer = AutoTokenizer.from_pretrained(whole.model_dir)
    model = AutoModelForCausalLM.from_pretrained(whole.model_dir)
    messages = [{"role": "user", "content": "Tell me about the anchor."}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    assert has_style(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def test_the_result_says_what_came_of_it(whole: TrainJob) -> None:
    (result,) = whole.bodies(Result)
    values = result.values
    assert (values["steps"], values["stopped"], values["skipped_examples"]) == (40, False, 0)
    assert values["loss"] == whole.curve("loss")[40]
    assert values["examples"] == 54 + 54 + 48  # batches of 4, the last of each round of 2
    assert values["tokens"] > 156 * 20
    facts = json.loads((whole.model_dir / "pilothouse.json").read_text())
    assert facts["id"] == "finished"
    assert facts["run"] == "1"
    assert facts["base"] == {"id": "tiny", "sha256": "a" * 64}
    assert facts["dataset"] == {"id": "data", "sha256": "d" * 64}
    assert facts["hashes"] == values["model"]["hashes"]
    assert facts["tokenizer_sha256"] == sha256_of(Path(whole.model.path) / "tokenizer.json")
    assert facts["hashes"]["model.safetensors"] == sha256_of(whole.model_dir / "model.safetensors")
    assert not list(whole.model_dir.glob("*.bin")) + list(whole.model_dir.parent.glob(".*"))


def test_killed_resumed_paused_and_resumed_it_draws_the_same_curve(tmp_path: Path, whole: TrainJob) -> None:
    first = make_job(tmp_path, **SETTINGS).start()
    first.wait_until(lambda job: max(job.curve("loss"), default=0) >= 18)
    first.tell(signal.SIGKILL)
    first.wait()
    _tear(first, whole)

    second = first.next_attempt().start()
    second.wait_until(lambda job: max(job.curve("loss"), default=0) >= 19)
    second.tell(signal.SIGTERM)
    assert second.wait() == EXIT_PAUSED
    paused_at = max(second.curve("loss"))
    assert second.bodies(Resumed) == [Resumed(step=16)]
    assert isinstance(second.events()[1].body, Resumed)
    assert checkpoints.verify(checkpoints.path_of(second.checkpoints, paused_at)).step == paused_at

    third = second.next_attempt().start()
    assert third.wait() == 0
    assert third.bodies(Resumed) == [Resumed(step=paused_at)]
    for key in ("loss", "eval_loss", "learning_rate", "grad_norm"):
        seen = {step: value for step, value in first.curve(key).items() if step <= 16}
        seen |= second.curve(key) | third.curve(key)
        expected = whole.curve(key)
        assert list(seen) == list(expected)
        assert all(math.isclose(seen[step], expected[step], rel_tol=1e-5, abs_tol=1e-6) for step in expected), key
    results = [job.bodies(Result)[0].values for job in (third, whole)]
    assert results[0]["tokens"] == results[1]["tokens"]
    assert results[0]["examples"] == results[1]["examples"]


def _tear(job: TrainJob, whole: TrainJob) -> None:
    """Leaves what a power cut may leave: a later checkpoint with half a file, and one that is only half written."""
    torn = checkpoints.path_of(job.checkpoints, 39)
    shutil.copytree(checkpoints.path_of(whole.checkpoints, 40), torn)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    (job.checkpoints / ".step-24.part").mkdir(exist_ok=True)


def test_stopped_while_it_loads_it_still_leaves_an_adapter(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        model={"method": "lora", "lora_r": 4},
        output={"merge_adapter": False},
        hyperparams={"num_train_epochs": 50.0},
    ).start()
    job.wait_until(lambda job: bool(job.bodies(Phase)))
    job.tell(signal.SIGUSR1)
    assert job.wait() == 0
    values = job.bodies(Result)[0].values
    assert values["stopped"] is True
    assert values["steps"] == 1
    assert values["model"]["kind"] == "adapter"
    assert values["eval_loss"] is not None
    adapter = json.loads((job.model_dir / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "tiny"
    assert str(tmp_path) not in "".join(path.read_text() for path in job.model_dir.glob("*.json"))
    assert [body.step for body in job.bodies(Checkpoint)] == [1]


def test_a_wrong_setting_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    job = make_job(tmp_path, hyperparams={"learning_rate": 7.0, "batch_sise": 3}).start()
    assert job.wait() == 1
    (error,) = job.bodies(Error)
    assert error.code == "config_invalid"
    assert "hyperparams.learning_rate" in error.message
    assert "hyperparams.batch_sise" in error.message
    assert "at most 1" in error.fix
    assert job.bodies(Phase) == []
