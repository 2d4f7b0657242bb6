"""The replaced system's flat config.json: what is moved where, what has no place, what is refused with whose words."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.config import command
from training.config.fields import by_path, fields
from training.config.flat import is_flat, read_flat
from training.config.loader import ConfigError, explain, load, value_at

OLD = {
    "base_model": "smollm2", "dataset": "12", "epochs": 3, "batch_size": 4, "gradient_accumulation": 8,
    "learning_rate": "2e-4", "warmup_steps": 100, "max_steps": 2000, "max_seq_length": 512, "lora_r": 8,
    "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "optimizer": "adamw_8bit", "bf16": True, "fp16": False,
    "profile": "emoji_think", "update_interval": 1, "wandb_project": "ships", "hf_token": "hf_abc", "sead": 1,
}  # fmt: skip

CHAINS = {True: "current_model", "night": "night"}
"""What `continue_from_current` may say, and the chain that is meant."""

AMBIGUOUS = {"profile.name", "profile.version", "profile.options"}
"""Settings whose bare name means something else in a flat file."""


def moved(value: dict[str, Any]) -> dict[str, Any]:
    """The settings that a flat file sets, by path."""
    return {path: held for path, held, source in explain(load(value)) if source == "json"}


def test_what_a_switch_neither_says_nor_denies_is_named() -> None:
    said = {"early_stopping": 5, "bf16": "maybe", "continue_from_current": "false", "optimizer": None, "epochs": 1}
    assert moved(said) == {"hyperparams.num_train_epochs": 1.0}
    left = {entry.key: entry.reason for entry in load(said).left_out}
    assert set(left) == {"early_stopping", "bf16"}


@pytest.mark.parametrize(("said", "chain"), CHAINS.items())
def test_continuing_from_the_current_model_is_a_chain(said: bool | str, chain: str) -> None:
    assert moved({"continue_from_current": said, "epochs": 1})["model.chain"] == chain


def test_every_key_is_moved_or_named_with_the_reason() -> None:
    loaded = load(OLD)
    assert moved(OLD) == {
        "model.model": "smollm2", "data.train_dataset": "12", "hyperparams.num_train_epochs": 3.0,
        "hyperparams.per_device_train_batch_size": 4, "hyperparams.gradient_accumulation_steps": 8,
        "hyperparams.learning_rate": 2e-4, "hyperparams.warmup_ratio": 0.05, "hyperparams.max_steps": 2000,
        "hyperparams.max_length": 512, "model.lora_r": 8, "model.lora_alpha": 16,
        "model.lora_target_modules": "q_proj,v_proj", "hyperparams.optim": "adamw_bnb_8bit",
        "hyperparams.precision": "bf16", "profile.name": "emoji_think", "monitoring.update_interval_seconds": 1.0,
    }  # fmt: skip
    assert loaded.keys["hyperparams.num_train_epochs"] == "epochs"
    assert loaded.keys["hyperparams.warmup_ratio"] == "warmup_steps"
    reasons = {left.key: left.reason for left in loaded.left_out}
    assert set(reasons) == {"wandb_project", "hf_token", "sead"}
    assert "/metrics" in reasons["wandb_project"]
    assert "hyperparams.seed" in reasons["sead"]
    assert "hf_abc" not in str(loaded.left_out)
    assert set(OLD) == {*loaded.keys.values(), *reasons, "fp16"}


@pytest.mark.parametrize(
    ("value", "path", "held"),
    [
        ({"warmup_steps": 0}, "hyperparams.warmup_ratio", 0.0),
        ({"use_lora": False}, "model.method", "full"),
        ({"full_finetune": False}, "model.method", "lora"),
        ({"quantization": "4bit"}, "model.load_in_4bit", True),
        ({"quantization": 8}, "model.load_in_8bit", True),
        ({"evaluation_strategy": "epoch"}, "monitoring.eval_steps", 0),
        ({"mixed_precision": "no"}, "hyperparams.precision", "fp32"),
        ({"torch_dtype": "torch.bfloat16"}, "model.dtype", "bfloat16"),
        ({"use_flash_attention": True}, "model.attn_implementation", "flash_attention_2"),
        ({"early_stopping": True}, "hyperparams.early_stopping_patience", 3),
        ({"regime3": True}, "profile.name", "regime3"),
        ({"use_flash_attention": "true"}, "model.attn_implementation", "flash_attention_2"),
        ({"early_stopping": "yes"}, "hyperparams.early_stopping_patience", 3),
        ({"bf16": "true"}, "hyperparams.precision", "bf16"),
        ({"emoji_think": 1}, "profile.name", "emoji_think"),
        ({"metric_for_best_model": "val_loss"}, "output.metric_for_best_model", "eval_loss"),
        ({"batch-size": 2}, "hyperparams.per_device_train_batch_size", 2),
        ({"batchSize": 2.0}, "hyperparams.per_device_train_batch_size", 2),
        ({"seed": 1, "lora": {"r": 4}}, "model.lora_r", 4),
        ({"seed": 1, "training": {"learning_rate": 0.1}}, "hyperparams.learning_rate", 0.1),
        ({"lr": 0.1, "model": {"lora_r": 2}}, "model.lora_r", 2),
        ({"sample_prompt": "Ahoy"}, "monitoring.sample_prompts", ["Ahoy"]),
    ],
)
def test_older_names_and_values_are_understood(value: dict[str, Any], path: str, held: object) -> None:
    assert is_flat(value)
    assert moved(value)[path] == held


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"lr": 7}, r"hyperparams\.learning_rate: 7 is not allowed.*The file calls it 'lr'"),
        ({"epochs": "many"}, r"hyperparams\.num_train_epochs: \"many\" is not allowed"),
        ({"epochs": 10**400}, r"hyperparams\.num_train_epochs"),
        ({"lr": 0.1, "learning_rate": 0.2}, "'lr' and 'learning_rate' of the file are one setting"),
        ({"data": [1]}, r"data\.train_dataset: \[1\] is not allowed"),
        ({"optimizer": "lion"}, "hyperparams.optim.*adafactor"),
        ({"seed": 1, "hyperparams": {"x": 1}}, r"hyperparams\.x: There is no such setting"),
    ],
)
def test_a_value_that_cannot_be_taken_is_refused_under_both_names(value: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(value)


def test_keys_without_a_place_never_stop_a_file() -> None:
    loaded = load({"warmup_steps": 10, "device": "cuda", "use_ray": True, "lr": None, "run_name": "x"})
    assert {left.key for left in loaded.left_out} == {"warmup_steps", "device", "use_ray", "run_name"}
    assert loaded.config == load({}).config


def test_a_configuration_of_our_own_is_no_flat_file_and_each_setting_is_found_by_its_name() -> None:
    assert not is_flat({"hyperparams": {"seed": 1}})
    assert not is_flat({"hyperparam": {"seed": 1}})
    names = [field.name for field in fields()]
    for field in fields():
        if names.count(field.name) == 1 and field.section != "locked" and field.path not in AMBIGUOUS:
            found = read_flat({field.name: field.default})
            assert not found.left_out, field.path
            assert set(found.keys) == {field.path}
    assert set(read_flat(OLD).keys) <= set(by_path())


def test_locked_settings_of_a_flat_file_are_refused_with_both_values_and_its_key() -> None:
    with pytest.raises(ConfigError, match=r"locked at 256 .* but 512 was asked for\. The file calls it 'max_seq_len'"):
        load({"max_seq_len": 512}, parent={"hyperparams.max_length": 256})


def test_the_command_explains_a_flat_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"epochs": 2, "wandb": True, "seed": 1}))
    assert command.main(["--explain", "--json", str(file), "--seed", "9"]) == 0
    told = capsys.readouterr()
    assert "hyperparams.num_train_epochs = 2.0  (json: epochs)\n" in told.out
    assert "hyperparams.seed = 9  (cli)\n" in told.out
    assert "output.keep_best = 1  (default)\n" in told.out
    assert told.err.startswith("left out: wandb: Measures")
    assert command.main(["--json", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["hyperparams"]["num_train_epochs"] == 2.0
    for text, words in (("[1]", "holds no object"), ("{", "can't be read"), ('{"lr": 7}', "The file calls it 'lr'")):
        file.write_text(text)
        assert command.main(["--json", str(file)]) == 2
        assert words in capsys.readouterr().err


def test_the_help_shows_every_setting_with_default_range_and_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no word is broken
    assert command.main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in fields():
        assert f"--{field.path}" in text
        assert " ".join(field.description.split()) in text, field.path
        assert f"({field.allowed}; default {json.dumps(field.default)})" in text, field.path


def test_values_of_a_flat_file_reach_the_configuration() -> None:
    assert value_at(load({"lr": 0.25}).config, "hyperparams.learning_rate") == 0.25
