"""The engine in this process: kinds of runs, what they leave, and what they refuse."""

import json
import math
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from monitoring.attempt import JobFaultError, JobPausedError
from monitoring.events import Artefact, Checkpoint, Log, Metrics, Sample, Wish
from tests.tiny import has_style
from tests.training.trainjobs import TrainJob, make_job, tiny_model, write_rows
from training import checkpoints
from training.callbacks import plugins
from training.precision import computes_bf16
from training.trainer import JobTrainer
from training.wishes import Wishes

SHORT: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 4}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return tensors


def told(job: TrainJob) -> str:
    return "\n".join(body.text for body in job.bodies(Log))


def test_lora_is_merged_into_a_model_that_has_learned(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        model={"method": "lora"},
        hyperparams={"learning_rate": 4e-3, "max_steps": 60},
        monitoring={"sample_steps": 60, "sample_prompts": ["What is the anchor for?"]},
    )
    values = job.run_here()
    assert values["model"]["kind"] == "full"
    assert values["loss"] < 1.0
    (sample,) = job.bodies(Sample)
    assert has_style(sample.text)
    model = AutoModelForCausalLM.from_pretrained(job.model_dir)
    assert model.num_parameters() == AutoModelForCausalLM.from_pretrained(tiny_model()).num_parameters()
    assert not (job.model_dir / "adapter_config.json").exists()
    assert not torch.equal(
        weights(job.model_dir)["model.layers.0.self_attn.q_proj.weight"],
        weights(tiny_model())["model.layers.0.self_attn.q_proj.weight"],
    )


def test_an_adapter_is_continued_on_its_base(tmp_path: Path) -> None:
    first = make_job(tmp_path / "first", model={"method": "lora"}, output={"merge_adapter": False}, hyperparams=SHORT)
    first.run_here()
    base = first.model
    second = make_job(tmp_path / "second", model={"method": "lora"}, output={"merge_adapter": False}, hyperparams=SHORT)
    second.model, second.base = Artefact(id="first", path=str(first.model_dir)), base
    values = second.run_here()
    assert values["model"]["kind"] == "adapter"
    assert json.loads((second.model_dir / "pilothouse.json").read_text())["base"]["id"] == "tiny"
    assert second.curve("loss")[1] < first.curve("loss")[1]
    whole = make_job(tmp_path / "whole", model={"method": "full"}, hyperparams=SHORT)
    whole.model, whole.base = second.model, base
    assert whole.run_here()["model"]["kind"] == "full"


def test_an_adapter_without_its_base_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    job = make_job(tmp_path)
    job.model = Artefact(id="orphan", path=str(tmp_path / "adapter"))
    with pytest.raises(JobFaultError) as caught:
        job.run_here()
    assert caught.value.code == "model_missing"


def test_raw_text_is_learned_and_chatml_stands_in_for_a_missing_template(tmp_path: Path) -> None:
    job = make_job(tmp_path, hyperparams=SHORT)
    bare = tmp_path / "bare"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model()), AutoTokenizer.from_pretrained(tiny_model())
    tokenizer.chat_template = None
    tokenizer.eos_token = "<|endoftext|>"
    model.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    write_rows(tmp_path, [{"text": f"The tide turned {number} times."} for number in range(20)])
    job.model = Artefact(id="bare", path=str(bare))
    job.run_here()
    assert "ChatML" in told(job)
    finished = AutoTokenizer.from_pretrained(job.model_dir)
    assert "<|im_start|>" in finished.chat_template
    assert finished.eos_token == "<|im_end|>"
    assert AutoModelForCausalLM.from_pretrained(job.model_dir).generation_config.eos_token_id == finished.eos_token_id


def test_generation_stops_where_the_template_ends_an_answer(tmp_path: Path) -> None:
    job = make_job(tmp_path, hyperparams=SHORT)
    other = tmp_path / "other"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model()), AutoTokenizer.from_pretrained(tiny_model())
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(other)
    tokenizer.save_pretrained(other)
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    job.model = Artefact(id="other", path=str(other))
    job.run_here()
    ends = AutoModelForCausalLM.from_pretrained(job.model_dir).generation_config.eos_token_id
    assert (job.model_dir / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()
    assert ends == tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])


def test_a_model_in_bf16_is_trained_in_fp32_and_published_in_bf16(tmp_path: Path) -> None:
    halved = tmp_path / "halved"
    AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.bfloat16).save_pretrained(halved)
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(halved)
    job = make_job(tmp_path, hyperparams={**SHORT, "precision": "bf16"})
    job.model = Artefact(id="halved", path=str(halved))
    values = job.run_here()
    assert values["model"]["dtype"] == "bfloat16"
    checkpoint = checkpoints.path_of(job.checkpoints, 3)
    assert {tensor.dtype for tensor in weights(checkpoint).values()} == {torch.float32}
    assert "bf16" in told(job)


def test_packing_learns_what_padding_learns(tmp_path: Path) -> None:
    losses = []
    for name, packing in (("padded", False), ("packed", True)):
        job = make_job(tmp_path / name, hyperparams={**SHORT, "max_steps": 5}, data={"packing": packing})
        values = job.run_here()
        losses.append((list(job.curve("loss").values()), values["tokens"], values["examples"]))
    assert losses[0][1:] == losses[1][1:]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-3)


def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    curves = []
    for name, size, accumulated in (("one", 8, 1), ("four", 2, 4)):
        hyper = {"max_steps": 4, "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated}
        job = make_job(tmp_path / name, hyperparams=hyper, data={"shuffle": False, "length_grouping": False})
        job.run_here()
        curves.append(list(job.curve("loss").values()))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_when_memory_does_not_suffice_batches_are_divided_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    plain = make_job(tmp_path / "plain", hyperparams=settings)
    plain.run_here()
    compute, calls = JobTrainer.compute_loss, []

    def tight(self: JobTrainer, model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **more: Any) -> Any:
        calls.append(len(inputs["input_ids"]))
        # The second batch of the second step is the first that does not fit: the step's first must be done again.
        if len(calls) > 3 and len(inputs["input_ids"]) > 1 and model.training:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(self, model, inputs, *rest, **more)

    monkeypatch.setattr(JobTrainer, "compute_loss", tight)
    small = make_job(tmp_path / "small", hyperparams=settings)
    small.run_here()
    assert list(small.curve("loss").values()) == pytest.approx(list(plain.curve("loss").values()), rel=1e-4)
    assert small.curve("learning_rate") == plain.curve("learning_rate")
    assert "4 parts" in told(small)


def test_a_single_example_that_does_not_fit_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(JobTrainer, "compute_loss", full)
    with pytest.raises(JobFaultError) as caught:
        make_job(tmp_path, hyperparams=SHORT).run_here()
    assert caught.value.code == "out_of_memory"


class Poison(TrainerCallback):  # type: ignore[misc]
    """Makes the weights worthless after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                parts["model"].model.norm.weight.fill_(math.nan)


def test_a_loss_that_is_no_number_is_told_and_ends_the_run(tmp_path: Path) -> None:
    job = make_job(tmp_path, hyperparams={**SHORT, "max_steps": 20}, output={"save_steps": 2})
    with pytest.raises(JobFaultError) as caught:
        job.run_here(callbacks=(Poison(5),))
    assert caught.value.code == "loss_not_finite"
    points = [body for body in job.bodies(Metrics) if "loss" in body.values]
    assert points[-1].step == 6
    assert math.isnan(points[-1].values["loss"])
    last = checkpoints.latest(job.checkpoints)
    assert last == checkpoints.path_of(job.checkpoints, 4)
    assert not job.model_dir.exists()


def test_early_stopping_publishes_the_best(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        rows=30,
        hyperparams={"learning_rate": 0.02, "max_steps": 200, "early_stopping_patience": 2},
        monitoring={"eval_steps": 4},
        output={"save_steps": 100, "save_total_limit": 1},
    )
    values = job.run_here()
    curve = job.curve("eval_loss")
    best = min(curve, key=lambda step: curve[step])
    assert values["ended_early"] is True
    assert values["steps"] < 200
    assert values["best_step"] == best != values["steps"]
    assert torch.equal(
        weights(job.model_dir)["model.norm.weight"],
        weights(checkpoints.path_of(job.checkpoints, best))["model.norm.weight"],
    )


def test_once_an_epoch_is_what_zero_steps_mean(tmp_path: Path) -> None:
    hyper = {"num_train_epochs": 2.0, "per_device_train_batch_size": 4}
    job = make_job(tmp_path, rows=20, hyperparams=hyper, data={"workers": 1})
    job.run_here()
    assert [body.step for body in job.bodies(Checkpoint)] == [5, 10]
    assert list(job.curve("eval_loss")) == [5, 10]


def test_figures_are_logged_as_often_as_asked_and_at_both_ends(tmp_path: Path) -> None:
    job = make_job(tmp_path, hyperparams={**SHORT, "max_steps": 8}, monitoring={"logging_steps": 3})
    job.run_here()
    assert list(job.curve("loss")) == [1, 3, 6, 8]


def test_told_to_pause_while_it_loads_it_goes_at_once(tmp_path: Path) -> None:
    wishes = Wishes()
    wishes.tell(Wish.PAUSE)
    job = make_job(tmp_path, hyperparams=SHORT)
    with pytest.raises(JobPausedError):
        job.run_here(wishes)
    assert job.bodies(Metrics) == []
    assert checkpoints.steps(job.checkpoints) == []


def test_an_attempt_after_the_last_step_only_publishes(tmp_path: Path) -> None:
    first = make_job(tmp_path, hyperparams=SHORT)
    values = first.run_here()
    published = first.model_dir.rename(tmp_path / "taken away")
    second = first.next_attempt()
    again = second.run_here()
    assert (again["steps"], again["loss"], again["tokens"]) == (3, values["loss"], values["tokens"])
    assert torch.equal(weights(second.model_dir)["model.norm.weight"], weights(published)["model.norm.weight"])
    third = second.next_attempt()
    assert third.run_here()["model"] == again["model"]


def test_a_users_own_callback_is_found_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = EntryPoint("poison", "tests.training.test_engine:PoisonAtOnce", plugins.ENTRY_POINT_GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [found] if group == found.group else [])
    with pytest.raises(JobFaultError) as caught:
        make_job(tmp_path, hyperparams=SHORT).run_here()
    assert caught.value.code == "loss_not_finite"
    broken = EntryPoint("broken", "no.such.module:Callback", plugins.ENTRY_POINT_GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken])
    with pytest.raises(JobFaultError, match="broken"):
        plugins.load_callbacks()


class PoisonAtOnce(Poison):
    """As an entry point names it: made without arguments."""

    def __init__(self) -> None:
        super().__init__(1)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"profile": {"name": "nobody"}}, "config_invalid"),
        ({"profile": {"version": "99"}}, "config_invalid"),
        ({"model": {"method": "lora", "lora_target_modules": "no_such_layer"}}, "config_invalid"),
        ({"data": {"eval_dataset": "nowhere"}}, "dataset_missing"),
    ],
)
def test_what_cannot_be_is_refused_with_its_code(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(JobFaultError) as caught:
        make_job(tmp_path, **changes).run_here()
    assert caught.value.code == code


@pytest.mark.parametrize(("file", "code"), [("config.json", "model_missing"), ("tokenizer.json", "tokenizer_missing")])
def test_a_model_with_files_missing_is_refused(tmp_path: Path, file: str, code: str) -> None:
    job = make_job(tmp_path, hyperparams=SHORT)
    folder = tmp_path / "incomplete"
    folder.mkdir()
    for entry in tiny_model().iterdir():
        if entry.name != file:
            (folder / entry.name).write_bytes(entry.read_bytes())
    job.model = Artefact(id="incomplete", path=str(folder))
    with pytest.raises(JobFaultError) as caught:
        job.run_here()
    assert caught.value.code == code


def test_bf16_is_taken_only_where_the_processor_computes_in_it() -> None:
    assert computes_bf16({"avx512_bf16": True})
    assert computes_bf16({"amx_bf16": True, "avx2": True})
    assert not computes_bf16({"avx512_bf16": False, "avx2": True, "cpu_name": "old"})
