"""The learning rate and the steps that a form shows are those that transformers' scheduler and trainer come to."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset
from transformers import TrainingArguments, get_scheduler
from transformers.trainer import Trainer

from training.config.fields import by_path
from training.config.loader import ConfigError, parse_config
from training.config.schedule import MAX_POINTS, curve, held_out, learning_rate, plan, warmup_steps
from training.distributed.ranks import Ranks
from training.precision import choose_precision
from training.trainer import training_arguments

KINDS = by_path()["hyperparams.lr_scheduler_type"].choices


def config_of(**hyperparams: Any) -> Any:
    return parse_config({"hyperparams": hyperparams})


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.5, 0.999])
@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_at_every_step_is_that_of_transformers(kind: str, total: int, ratio: float) -> None:
    config = config_of(lr_scheduler_type=kind, warmup_ratio=ratio, learning_rate=3e-4)
    arguments = training_arguments(config, choose_precision(config), "/tmp/none", Ranks())
    warmup = arguments.get_warmup_steps(total)
    assert warmup_steps(config, total) == warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    for step in range(total + (warmup < total)):  # polynomial divides by zero where the warm-up is all there is
        assert learning_rate(config, step, total) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-18)
        if step + 1 < total + (warmup < total):
            optimizer.step()
            scheduler.step()


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(2, 3000), batch=st.integers(1, 64), accumulation=st.integers(1, 9),
    epochs=st.sampled_from([0.1, 1.0, 2.5, 3.0]), max_steps=st.sampled_from([-1, 1, 77]),
)  # fmt: skip
def test_the_steps_are_those_of_the_trainer(
    rows: int, batch: int, accumulation: int, epochs: float, max_steps: int
) -> None:
    config = config_of(
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, num_train_epochs=epochs,
        max_steps=max_steps,
    )  # fmt: skip
    found = plan(config, rows)
    assert found.train_examples + held_out(rows, 0.05) == rows
    arguments = TrainingArguments(
        output_dir="/tmp/none", per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs, max_steps=max_steps, use_cpu=True, report_to=[],
    )  # fmt: skip
    trainer = Trainer(model=torch.nn.Linear(1, 1), args=arguments)
    loader: DataLoader[Any] = DataLoader(TensorDataset(torch.zeros(found.train_examples)), batch_size=batch)
    values = trainer.set_initial_training_values(arguments, loader)
    assert (found.steps_per_epoch, found.total_steps) == (values[1], values[6])
    assert found.effective_batch == values[4]


def test_what_narrows_the_data_narrows_the_plan() -> None:
    given = {"data": {"max_examples": 50, "drop_duplicates": True, "eval_fraction": 0.0, "max_tokens": 100}}
    found = plan(parse_config(given), 60, duplicates=20)
    assert (found.train_examples, found.eval_examples, found.is_exact) == (40, 0, False)
    assert plan(parse_config({}), 60, eval_rows=500).eval_examples == 200
    assert plan(parse_config({}), 60, eval_rows=500).train_examples == 60
    shared = parse_config({"environment": {"distributed": "ddp", "gpus": 4}})
    assert plan(shared, 1000).effective_batch == 32


def test_a_curve_of_any_length_has_few_points_and_both_ends() -> None:
    config = config_of(warmup_ratio=0.1)
    for total in (1, 2, 239, 1_000_003):
        steps, rates = curve(config, total)
        assert steps[0] == 0
        assert steps[-1] == total
        assert math.ceil(total * 0.1) in steps
        assert len(steps) == len(rates) <= MAX_POINTS + 1
    assert max(curve(config, 1_000_003)[1]) == 2e-4


@pytest.mark.parametrize("given", [{"learning_rate": 1e-7}, {"warmup_ratio": 1.0}])
def test_a_polynomial_schedule_that_transformers_cannot_compute_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="polynomial"):
        config_of(lr_scheduler_type="polynomial", **given)
