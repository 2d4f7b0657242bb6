"""Weights held in 8 and 4 bits: trained on where bitsandbytes is installed, refused in a sentence elsewhere."""

import gc
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import TrainerCallback

from monitoring.attempt import JobFaultError
from tests.tiny import files_mapped
from tests.training.trainjobs import make_job, tiny_model
from training.config.loader import parse_config
from training.packages import require_packages

HAS_QUANT = find_spec("bitsandbytes") is not None


class Watch(TrainerCallback):  # type: ignore[misc]
    """Notes what the layers of the base are made of, and whether its file is still held in memory."""

    def __init__(self) -> None:
        self.held: set[tuple[str, torch.dtype]] = set()
        self.mapped: int | None = None

    def on_train_begin(self, *_arguments: Any, model: Any, **_more: Any) -> None:
        for layer in model.base_model.model.model.layers:
            base = layer.self_attn.q_proj.base_layer
            self.held.add((type(base).__name__, base.weight.dtype))
        self.mapped = files_mapped(tiny_model())


@pytest.mark.skipif(not HAS_QUANT, reason="bitsandbytes (the extra quant) is not installed")
@pytest.mark.parametrize(("setting", "held"), [
    ("load_in_4bit", ("Linear4bit", torch.uint8)), ("load_in_8bit", ("Linear8bitLt", torch.int8)),
])  # fmt: skip
def test_an_adapter_learns_on_weights_of_few_bits_and_is_merged_onto_whole_ones(
    tmp_path: Path, setting: str, held: tuple[str, torch.dtype]
) -> None:
    gc.collect()  # what other tests left is let go now, not while this one counts
    watch, before = Watch(), files_mapped(tiny_model())
    job = make_job(
        tmp_path, model={"method": "lora", setting: True},
        hyperparams={"max_steps": 30, "per_device_train_batch_size": 4, "learning_rate": 5e-3},
        data={"eval_fraction": 0.0}, output={"save_steps": 15},
    )  # fmt: skip
    job.run_here(callbacks=(watch,))
    assert watch.held == {held}
    assert watch.mapped is not None
    assert watch.mapped <= before or torch.cuda.is_available(), "the whole weights would be held beside the small ones"
    losses = job.curve("loss")
    assert losses[30] < 0.8 * losses[1]
    with (
        safe_open(job.model_dir / "model.safetensors", framework="pt") as made,
        safe_open(tiny_model() / "model.safetensors", framework="pt") as base,
    ):
        assert set(made.keys()) == set(base.keys())
        name = "model.layers.0.self_attn.q_proj.weight"
        change = made.get_tensor(name) - base.get_tensor(name)
    assert change.dtype == torch.float32
    assert torch.linalg.matrix_rank(change) <= 16, "the adapter alone: nothing of the rounding to few bits"
    assert change.abs().max() > 0


@pytest.mark.parametrize(("config", "setting"), [
    ({"model": {"load_in_4bit": True}}, "model.load_in_4bit"),
    ({"model": {"load_in_8bit": True}}, "model.load_in_8bit"),
    ({"hyperparams": {"optim": "paged_adamw_8bit"}}, "hyperparams.optim paged_adamw_8bit"),
])  # fmt: skip
def test_without_the_package_the_setting_and_the_fix_are_named(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], setting: str
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    require_packages(parse_config({}))
    with pytest.raises(JobFaultError) as caught:
        require_packages(parse_config(config))
    assert caught.value.code == "package_missing"
    assert caught.value.message.startswith(f"{setting} needs the package bitsandbytes")
    assert "bin/setup --extras quant" in caught.value.fix
