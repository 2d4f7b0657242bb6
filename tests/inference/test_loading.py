"""Loading: full models, adapters on their base, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from inference.engine.loading import LoadedModel, load_model
from monitoring.attempt import JobFaultError
from monitoring.events import Artefact


class Told:
    """Everything that was reported, in order."""

    def __init__(self) -> None:
        self.said: list[str | tuple[float, float, str]] = []

    def __call__(self, what: str) -> None:
        self.said.append(what)

    def amount(self, done: float, total: float, unit: str) -> None:
        self.said.append((done, total, unit))


def artefact(folder: Path) -> Artefact:
    return Artefact(folder.name, str(folder))


def test_what_is_known_about_a_full_model(loaded: LoadedModel) -> None:
    assert loaded.end_token_ids == {loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert (loaded.max_model_length, loaded.vocabulary_size) == (1024, loaded.model.lm_head.out_features)
    assert (loaded.dtype, loaded.device, loaded.sampling_defaults) == ("float32", "cpu", {})
    assert not loaded.model.training


def test_settings_are_honoured(taught_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(taught_model, folder)
    stored = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**stored, "temperature": 0.6, "top_k": 20}))
    model = load_model(artefact(folder), None, dtype="bfloat16", max_model_length=100)
    assert (model.dtype, model.max_model_length) == ("bfloat16", 100)
    assert model.sampling_defaults == {"temperature": 0.6, "top_k": 20}
    assert load_model(artefact(folder), None, max_model_length=5000).max_model_length == 1024


def test_what_is_read_is_counted_to_the_end(taught_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = Told()
    loaded = load_model(artefact(taught_model), None, report=told)
    stages = [what for what in told.said if isinstance(what, str)]
    assert stages == ["reading the tokenizer", f"loading the weights of {taught_model.name} as float32 on cpu"]
    amounts = [item for item in told.said if not isinstance(item, str)]
    total = amounts[0][1]
    assert total == len(loaded.model.state_dict()) - 1, "the embedding is the output's too"
    assert amounts == [(float(done), total, "tensors") for done in range(int(total) + 1)]
    assert told.said.index(amounts[0]) > told.said.index(stages[1]), "of the stage that it belongs to"
    assert "Loading weights" not in capfd.readouterr().err, "no bar in the log"


def test_an_adapter_is_merged_into_its_base(taught_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(taught_model), LoraConfig(r=4, target_modules="all-linear")
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.eval()
    loaded = load_model(artefact(tmp_path / "adapter"), artefact(taught_model), dtype="float32")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        plain = AutoModelForCausalLM.from_pretrained(taught_model)(ids).logits
        ours, theirs = loaded.model(ids).logits, adapted(ids).logits
    assert torch.allclose(ours, theirs, atol=1e-3)
    assert not torch.allclose(ours, plain, atol=1e-1)

    with pytest.raises(JobFaultError) as caught:
        load_model(artefact(tmp_path / "adapter"), None)
    assert caught.value.code == "base_missing"


def test_faults_have_a_name(taught_model: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFaultError) as caught:
        load_model(artefact(tmp_path / "nowhere"), None)
    assert caught.value.code == "model_missing"
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobFaultError) as caught:
        load_model(artefact(tmp_path / "empty"), None)
    assert caught.value.code == "tokenizer_missing"


def test_pickled_weights_are_not_read(taught_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(taught_model, folder)
    (folder / "model.safetensors").unlink()
    weights = AutoModelForCausalLM.from_pretrained(taught_model).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(JobFaultError) as caught:
        load_model(artefact(folder), None)
    assert caught.value.code == "model_unreadable"


def test_a_recurrent_model_is_refused(taught_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mamba"
    shutil.copytree(taught_model, folder)
    config = MambaConfig(vocab_size=1024, hidden_size=32, num_hidden_layers=2, state_size=4)
    MambaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(JobFaultError) as caught:
        load_model(artefact(folder), None)
    assert caught.value.code == "architecture_unsupported"
