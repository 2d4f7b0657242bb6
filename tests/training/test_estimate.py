"""What a run needs, reckoned without torch: shapes, bytes, and the settings that would fit."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.trainjobs import tiny_model
from training.config.loader import parse_config
from training.config.schema import TrainerConfig
from training.estimate.advice import Need, judge, largest_batch, ways_to_fit
from training.estimate.memory import Place, estimate_memory, trained_parameters
from training.estimate.shape import ModelShape, UnknownShapeError, read_shape

SMOLLM2 = ModelShape(
    parameters=134_515_008, layers=30, hidden=576, query_width=576, key_width=192, intermediate=1536, heads=9,
    vocabulary=49_152, dtype_bytes=2,
)  # fmt: skip
CARD, PROCESSOR = Place("cuda", "bf16"), Place("cpu", "fp32")


def config(batch: int = 8, **changes: dict[str, Any]) -> TrainerConfig:
    hyper = {"per_device_train_batch_size": batch, **changes.pop("hyperparams", {})}
    return parse_config({"hyperparams": hyper, **changes})


def peak(settings: TrainerConfig, tokens: int = 512, place: Place = CARD) -> int:
    return estimate_memory(SMOLLM2, settings, tokens, place).peak


def test_the_shape_is_that_of_the_real_model() -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model())
    shape = read_shape(tiny_model())
    assert shape.parameters == model.num_parameters()
    assert shape.layers == len(model.model.layers)
    attention = model.model.layers[0].self_attn
    assert (shape.query_width, shape.key_width) == (attention.q_proj.out_features, attention.k_proj.out_features)
    assert shape.intermediate == model.model.layers[0].mlp.up_proj.out_features
    assert shape.vocabulary == model.lm_head.out_features
    assert shape.embedding_parameters == shape.vocabulary * shape.hidden  # one matrix serves both ends


def test_an_adapter_has_as_many_weights_as_peft_makes() -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from training.models import lora_config

    for targets in ("all-linear", "q_proj, v_proj"):
        settings = config(model={"lora_r": 8, "lora_target_modules": targets})
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model()), lora_config(settings))
        made = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        assert trained_parameters(read_shape(tiny_model()), settings) == made


@pytest.mark.parametrize(("file", "text", "reason"), [
    ("config.json", "{", "can't be read"), ("config.json", "{}", "hidden_size"),
    ("model.safetensors", "x" * 20, "header"),
])  # fmt: skip
def test_a_folder_that_tells_nothing_is_said_so(tmp_path: Path, file: str, text: str, reason: str) -> None:
    for entry in tiny_model().iterdir():
        (tmp_path / entry.name).write_bytes(entry.read_bytes())
    (tmp_path / file).write_text(text)
    with pytest.raises(UnknownShapeError, match=reason):
        read_shape(tmp_path)


def test_a_full_run_holds_sixteen_bytes_a_weight_before_its_first_activation() -> None:
    figures = estimate_memory(SMOLLM2, config(1, model={"method": "full"}), 8, PROCESSOR)
    assert figures.weights + figures.gradients + figures.optimizer == 16 * SMOLLM2.parameters
    assert figures.peak > 16 * SMOLLM2.parameters


def test_what_saves_memory_is_reckoned_to_save_it() -> None:
    plain = peak(config(model={"method": "full"}))
    for cheaper in (
        config(4, model={"method": "full"}),
        config(model={"method": "full", "gradient_checkpointing": True}),
        config(model={"method": "full"}, hyperparams={"optim": "adafactor"}),
        config(model={"method": "lora"}),
        config(model={"method": "full"}, hyperparams={"max_length": 256}),
    ):
        assert peak(cheaper) < 0.95 * plain
    quantized = [
        peak(config(1, model={name: True} if name else {}), 8) for name in ("", "load_in_8bit", "load_in_4bit")
    ]
    assert quantized == sorted(quantized, reverse=True)
    long = [peak(config(model={"attn_implementation": name}), 1024) for name in ("sdpa", "eager")]
    assert long[1] > 1.5 * long[0]


def test_the_logits_are_most_of_a_small_models_batch() -> None:
    sparing = config(model={"gradient_checkpointing": True})
    figures = estimate_memory(SMOLLM2, sparing, 512, CARD)
    assert figures.logits > 0.5 * figures.peak
    assert figures.logits == 14 * 49_152 * 8 * 512


@pytest.mark.parametrize(("free", "verdict"), [(None, "unknown"), (120, "fits"), (119, "tight"), (99, "does not fit")])
def test_the_verdict_leaves_a_fifth(free: int | None, verdict: str) -> None:
    assert judge(100, free) == verdict


def test_the_largest_batch_is_the_last_that_fits() -> None:
    need = Need(SMOLLM2, config(), 512, CARD)
    free = round(peak(config(21)) * 1.2) + 1
    assert largest_batch(need, free) == 21
    assert largest_batch(need, peak(config(1))) is None


def test_ways_that_fit_keep_the_effective_batch() -> None:
    settings = config(48, model={"method": "full"}, hyperparams={"gradient_accumulation_steps": 2})
    free = peak(config(14, model={"method": "full"})) * 13 // 10
    ways = ways_to_fit(Need(SMOLLM2, settings, 512, CARD), free)
    assert ways
    first = ways[0].settings
    batch = first["hyperparams.per_device_train_batch_size"]
    assert batch * first["hyperparams.gradient_accumulation_steps"] == 96
    assert all(way.peak_bytes * 1.2 <= free for way in ways)
    larger = next(size for size in range(batch + 1, 97) if 96 % size == 0)
    assert peak(config(larger, model={"method": "full"}, hyperparams={"gradient_accumulation_steps": 2})) * 1.2 > free


def test_nothing_fits_into_nothing() -> None:
    assert ways_to_fit(Need(SMOLLM2, config(), 512, CARD), 1_000_000) == []
