"""Layers of a configuration, and what is refused with which words."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config.fields import FieldInfo, by_path, fields, locked_paths, sections
from training.config.loader import ConfigError, check_locked, explain, load, parse_config, to_dict, value_at
from training.config.schema import TrainerConfig

CONTRACT_DEFAULTS = {
    "hyperparams.num_train_epochs": 1.0,
    "hyperparams.max_steps": -1,
    "hyperparams.per_device_train_batch_size": 8,
    "hyperparams.gradient_accumulation_steps": 1,
    "hyperparams.learning_rate": 2e-4,
    "hyperparams.weight_decay": 0.0,
    "hyperparams.warmup_ratio": 0.03,
    "hyperparams.lr_scheduler_type": "cosine",
    "hyperparams.max_grad_norm": 1.0,
    "hyperparams.optim": "adamw_torch",
    "hyperparams.precision": "auto",
    "hyperparams.max_length": 1024,
    "hyperparams.seed": 42,
    "hyperparams.early_stopping_patience": 0,
    "hyperparams.early_stopping_threshold": 0.0,
    "profile.name": "plain",
    "profile.version": "",
    "profile.system_prompt": "",
    "profile.options": {},
    "monitoring.logging_steps": 1,
    "monitoring.eval_steps": 0,
    "monitoring.eval_samples": 200,
    "monitoring.evaluate_checkpoints": False,
    "monitoring.sample_steps": 0,
    "monitoring.sample_prompts": [],
    "monitoring.divergence_factor": 3.0,
    "monitoring.update_interval_seconds": 0.25,
    "monitoring.stuck_timeout_seconds": 900.0,
    "locked.base_model": "",
    "locked.model_architecture": "",
    "locked.tokenizer_sha256": "",
    "locked.chat_template_sha256": "",
    "data.train_dataset": "",
    "data.eval_dataset": "",
    "data.eval_fraction": 0.05,
    "data.shuffle": True,
    "data.length_grouping": True,
    "data.packing": False,
    "data.min_tokens": 1,
    "data.max_tokens": 0,
    "data.drop_duplicates": False,
    "data.max_examples": 0,
    "data.workers": 0,
    "model.model": "",
    "model.chain": "",
    "model.method": "lora",
    "model.dtype": "auto",
    "model.load_in_8bit": False,
    "model.load_in_4bit": False,
    "model.device_map": "auto",
    "model.attn_implementation": "sdpa",
    "model.gradient_checkpointing": False,
    "model.lora_r": 16,
    "model.lora_alpha": 32,
    "model.lora_dropout": 0.0,
    "model.lora_target_modules": "all-linear",
    "output.output_dir": "",
    "output.save_steps": 0,
    "output.save_total_limit": 3,
    "output.keep_best": 1,
    "output.keep_every_steps": 0,
    "output.min_free_gib": 1.0,
    "output.metric_for_best_model": "eval_loss",
    "output.merge_adapter": True,
    "output.register_as": "",
    "environment.gpus": 0,
    "environment.num_nodes": 1,
    "environment.host": "",
    "environment.labels": [],
    "environment.distributed": "none",
    "environment.cpu_threads": 0,
    "environment.log_level": "info",
    "environment.nice": 5,
}


def flat(config: TrainerConfig) -> dict[str, Any]:
    plain = to_dict(config)
    return {f"{section}.{name}": value for section, values in plain.items() for name, value in values.items()}


def test_the_defaults_are_those_of_the_contract() -> None:
    assert flat(TrainerConfig()) == CONTRACT_DEFAULTS
    assert [section.name for section in sections()] == [
        "hyperparams", "profile", "monitoring", "locked", "data", "model", "output", "environment",
    ]  # fmt: skip


def test_command_line_over_json_over_parent_over_defaults() -> None:
    loaded = load(
        {"hyperparams": {"seed": 2, "weight_decay": 0.1}},
        ["--seed", "3", "--data.shuffle=no", "--sample_prompts", '["Hello"]', "--learning_rate", "1"],
        defaults={"hyperparams": {"seed": 1, "weight_decay": 0.5, "warmup_ratio": 0.5}},
        parent={"hyperparams.max_length": 64, "locked.base_model": "tiny"},
    )
    asked = {
        "hyperparams.seed": (3, "cli"),
        "hyperparams.weight_decay": (0.1, "json"),
        "hyperparams.warmup_ratio": (0.5, "default"),
        "hyperparams.learning_rate": (1.0, "cli"),
        "hyperparams.max_length": (64, "parent"),
        "locked.base_model": ("tiny", "parent"),
        "data.shuffle": (False, "cli"),
        "monitoring.sample_prompts": (["Hello"], "cli"),
        "output.keep_best": (1, "default"),
    }
    assert {path: (value, source) for path, value, source in explain(loaded) if path in asked} == asked


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ({"hyperparams": {"leraning_rate": 1}}, "hyperparams.leraning_rate", "hyperparams.learning_rate"),
        ({"model": {"learning_rate": 1}}, "model.learning_rate", "hyperparams.learning_rate"),
        ({"hyperparam": {}}, "hyperparam", "hyperparams"),
        ({"seed": 1}, "seed", "hyperparams.seed"),
        ({"hyperparams": {"learning_rate": 0}}, "hyperparams.learning_rate", "above 0 and at most 1"),
        ({"hyperparams": {"seed": "1"}}, "hyperparams.seed", "a whole number"),
        ({"hyperparams": {"max_length": True}}, "hyperparams.max_length", "a whole number"),
        ({"hyperparams": {"num_train_epochs": math.nan}}, "hyperparams.num_train_epochs", "a number"),
        ({"hyperparams": {"max_steps": 1.5}}, "hyperparams.max_steps", "a whole number"),
        ({"hyperparams": {"max_steps": 0}}, "hyperparams.max_steps", "-1"),
        ({"hyperparams": {"precision": "int3"}}, "hyperparams.precision", "auto, bf16, fp16, fp32"),
        ({"data": {"eval_fraction": 0.6}}, "data.eval_fraction", "at most 0.5"),
        ({"data": [1]}, "data", "an object"),
        ({"monitoring": {"sample_prompts": [1]}}, "monitoring.sample_prompts", "a list of texts"),
        ({"profile": {"options": "x"}}, "profile.options", "an object"),
        ({"model": {"load_in_4bit": True, "load_in_8bit": True}}, "model.load_in_4bit", "8 bits"),
        ({"model": {"load_in_4bit": True, "method": "full"}}, "model.load_in_4bit", "lora"),
        ({"data": {"min_tokens": 2000}}, "data.min_tokens", "1024"),
        ({"data": {"min_tokens": 20, "max_tokens": 10}}, "data.max_tokens", "20"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(value: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(value)
    (fault,) = caught.value.faults
    assert fault.path == path
    assert words in f"{fault.message} {fault.allowed}"


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"hyperparams": {"seed": -1, "x": 1}, "nothing": {}})
    assert {fault.path for fault in caught.value.faults} == {"hyperparams.seed", "hyperparams.x", "nothing"}


def test_a_locked_setting_is_refused_with_both_values() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"hyperparams": {"max_length": 64}}, parent={"hyperparams.max_length": 512})
    (fault,) = caught.value.faults
    assert fault.path == "hyperparams.max_length"
    assert "512" in fault.message
    assert "64" in fault.message
    check_locked(TrainerConfig(), {"locked.base_model": "tiny"})
    with pytest.raises(ConfigError, match=r"locked\.base_model"):
        check_locked(parse_config({"locked": {"base_model": "large"}}), {"locked.base_model": "tiny"})


def test_locked_are_the_settings_of_the_contract() -> None:
    assert set(locked_paths()) == {
        "hyperparams.max_length",
        *(f"locked.{name}" for name in to_dict(TrainerConfig())["locked"]),
    }


@pytest.mark.parametrize("field", fields(), ids=lambda field: field.path)
def test_every_setting_can_be_explained_and_its_limits_hold(field: FieldInfo) -> None:
    assert field.description.endswith(".")
    assert field.title
    for limit, exclusive, beyond in (
        (field.minimum, field.minimum_exclusive, -1),
        (field.maximum, field.maximum_exclusive, 1),
    ):
        if limit is None:
            continue
        step = 1 if field.kind == "integer" else 1e-3
        refused = limit if exclusive else limit + beyond * step
        with pytest.raises(ConfigError, match=field.path):
            parse_config({field.section: {field.name: refused}})


@given(st.sampled_from([field for field in fields() if field.kind in ("integer", "number")]), st.data())
def test_a_configuration_reads_back_as_it_was_written(field: FieldInfo, data: st.DataObject) -> None:
    if field.kind == "integer":
        value: float = data.draw(st.integers(int(field.minimum or 0), int(field.maximum or 0)))
    else:
        value = data.draw(
            st.floats(
                field.minimum,
                field.maximum,
                exclude_min=field.minimum_exclusive,
                exclude_max=field.maximum_exclusive,
            )
        )
    try:
        config = parse_config({field.section: {field.name: value}})
    except ConfigError:
        return  # allowed alone, but not with the other defaults
    assert value_at(config, field.path) == value
    assert parse_config(json.loads(json.dumps(to_dict(config)))) == config


def test_the_command_explains_and_refuses_without_torch() -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "training", "config", *arguments], capture_output=True, text=True, check=False
        )

    explained = call("--explain", "--seed", "7")
    assert "hyperparams.seed = 7  (cli)" in explained.stdout
    refused = call("--sed=7")
    assert refused.returncode == 2
    assert "hyperparams.seed" in refused.stderr
    shown = call("--help").stdout
    assert all(f"--{path}" in shown for path in by_path())
    assert set(json.loads(call("--schema").stdout)["properties"]) == {section.name for section in sections()}
    loaded = (
        "import sys, training.config.loader, training.config.fields; print({'torch', 'transformers'} & {*sys.modules})"
    )
    assert (
        subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
