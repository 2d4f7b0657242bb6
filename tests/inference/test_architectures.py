"""The rolling batch on other kinds of attention: a sliding window in every layer, and one in every other layer."""

import queue
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, PretrainedConfig

from inference.engine.base import Delivery, GenerationChunk, GenerationRequest, SamplingParameters
from inference.engine.loading import load_model
from inference.engine.transformers import TransformersEngine
from monitoring.events import Artefact

WINDOW = 16
VOCABULARY = 600
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": WINDOW,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
NEW_TOKENS = 40


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(num_hidden_layers=2, **SHAPE),
        Gemma3TextConfig(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"], **SHAPE),
    ],
    ids=lambda config: config.model_type,
)
def test_rows_beyond_a_sliding_window_generate_what_generate_does(
    config: PretrainedConfig, taught_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(taught_model, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # larger weights than a new model's, or it repeats one token for ever
        for weight in model.parameters():
            weight.mul_(4 if weight.ndim > 1 else 1)
    model.save_pretrained(folder)
    loaded = load_model(Artefact("m", str(folder)), None, dtype="float32", cpu_threads=1)
    prompts = [[(i * 37 + j * 11) % 500 + 3 for j in range(length)] for i, length in enumerate((5, 60, 17, 33))]
    ends = sorted(loaded.end_token_ids)
    greedy = replace(SamplingParameters(temperature=0), logit_bias=dict.fromkeys(ends, -1000000000.0))
    engine = TransformersEngine(loaded, [], max_batch=3, max_queue=8)
    inboxes: list[queue.SimpleQueue[Delivery]] = [queue.SimpleQueue() for _ in prompts]
    try:
        for prompt, inbox in zip(prompts, inboxes, strict=True):
            engine.submit(GenerationRequest(prompt, NEW_TOKENS, greedy), inbox.put)
        for prompt, inbox in zip(prompts, inboxes, strict=True):
            with torch.inference_mode():
                row = loaded.model.generate(
                    torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=NEW_TOKENS,
                    do_sample=False, suppress_tokens=ends,
                )[0]  # fmt: skip
            assert tokens_of(inbox) == row[len(prompt) :].tolist()
            assert len(set(row[len(prompt) :].tolist())) > 3
    finally:
        engine.close()


def tokens_of(inbox: "queue.SimpleQueue[Delivery]") -> list[int]:
    """Everything that a request generates."""
    tokens: list[int] = []
    while True:
        delivery = inbox.get(timeout=60)
        assert isinstance(delivery, GenerationChunk), delivery
        tokens.extend(delivery.token_ids)
        if delivery.usage is not None:
            return tokens
