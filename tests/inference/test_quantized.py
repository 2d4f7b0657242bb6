"""Weights of 8 and 4 bits in the transformers engine, with an adapter on them and with several beside them."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from inference.engine.base import BASE_MODEL, GenerationRequest
from inference.engine.loading import load_model
from inference.engine.transformers import TransformersEngine
from monitoring.attempt import JobFaultError
from monitoring.events import Artefact
from tests.inference.models import CHATS
from tests.inference.pending import GREEDY, Pending, chat
from tests.inference.serving import ServeJob
from tests.tiny import files_mapped
from training.quantization import loading_settings

needs_quant = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes (the extra quant) is not installed"
)
HELD = {8: ("Linear8bitLt", torch.int8), 4: ("Linear4bit", torch.uint8)}
TOKENS = 24


def quantised(folder: Path, bits: int) -> Any:
    """The library's own model of few bits."""
    settings = loading_settings(bits, torch.float32)
    place = {"": "cpu"}
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=settings, device_map=place
    )


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.tensor([[5, 6, 7, 8, 9]])).logits
    return found


@needs_quant
@pytest.mark.parametrize("bits", [8, 4])
def test_adapters_answer_in_one_batch_beside_a_base_of_few_bits(
    taught_model: Path, adapter_folders: dict[str, Path], bits: int
) -> None:
    before = files_mapped(taught_model)
    beside = [Artefact(name, str(folder)) for name, folder in adapter_folders.items()]
    base = Artefact("taught", str(taught_model))
    loaded = load_model(base, None, adapters=beside, dtype="float32", bits=bits, device="cpu", cpu_threads=1)
    layer = loaded.model.model.layers[0].self_attn.q_proj.base_layer
    assert (type(layer).__name__, layer.weight.dtype) == HELD[bits]
    assert files_mapped(taught_model) <= before, "the whole weights would be held beside the small ones"

    alone = {}
    for name in (BASE_MODEL, *adapter_folders):
        model = quantised(taught_model, bits)
        model = PeftModel.from_pretrained(model, adapter_folders[name]) if name else model
        prompt = torch.tensor([chat(loaded, "Count.")])
        with torch.inference_mode():
            row = model.eval().generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=TOKENS, do_sample=False
            )[0]
        alone[name] = row[prompt.shape[1] :].tolist()
    engine = TransformersEngine(loaded, [], max_batch=4, max_queue=8)
    try:
        pending = {
            name: Pending(engine, GenerationRequest(chat(loaded, "Count."), TOKENS, GREEDY, adapter=name))
            for name in alone
        }
        answers = {name: one.finish().tokens() for name, one in pending.items()}
    finally:
        engine.close()
    if bits == 4:  # in 8 bits what counts as an outlier is decided over all rows of a batch
        assert answers == alone
    assert len({tuple(tokens) for tokens in answers.values()}) == len(answers)
    assert loaded.tokenizer.decode(answers[BASE_MODEL]).startswith(CHATS["Count."][:20])


@needs_quant
@pytest.mark.parametrize("bits", [8, 4])
def test_an_adapter_that_is_the_model_is_not_rounded_with_its_base(
    taught_model: Path, adapter_folders: dict[str, Path], bits: int
) -> None:
    folder = adapter_folders["house/loud"]
    model, base = Artefact("loud", str(folder)), Artefact("taught", str(taught_model))
    loaded = load_model(model, base, dtype="float32", bits=bits, device="cpu", cpu_threads=1)
    theirs = logits(PeftModel.from_pretrained(quantised(taught_model, bits), folder).eval())
    assert torch.allclose(logits(loaded.model), theirs, atol=1e-3)
    assert not torch.allclose(logits(quantised(taught_model, bits).eval()), theirs, atol=0.1)


@needs_quant
def test_an_engine_of_four_bits_answers_and_tells_them(taught_model: Path, tmp_path: Path) -> None:
    job = ServeJob.start(tmp_path, taught_model, {"load_in_4bit": True, "dtype": "float32", "device": "cpu"})
    try:
        with job.client() as client:
            body = {"model": "house/taught", "messages": [{"role": "user", "content": "Count."}], "temperature": 0}
            answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"].startswith("1 2 3 4 5")
        told = job.event("ready").runs_with
        assert (told["bits"], told["dtype"], told["load_in_4bit"]) == (4, "float32", True)
    finally:
        job.stop()


@pytest.mark.parametrize("bits", [8, 4])
def test_without_the_package_the_setting_and_the_fix_are_named(
    taught_model: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(JobFaultError) as caught:
        load_model(Artefact("taught", str(taught_model)), None, bits=bits)
    assert caught.value.code == "package_missing"
    assert caught.value.message.startswith(f"load_in_{bits}bit needs the package bitsandbytes")
    assert "--extras quant" in caught.value.fix
