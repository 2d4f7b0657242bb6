"""What is read from a model folder, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from monitoring.files import sha256_of
from tests.tiny import build_tiny_model
from training.fetch.inspect import ModelFaultError, inspect_model, write_facts


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def make_model(folder: Path, weights: str = "model.safetensors") -> Path:
    """The smallest folder that passes: 6 weights in float16, 1 in float32."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": np.zeros((2, 3), np.float16), "b": np.zeros((), np.float32)}, folder / weights)
    return folder


def test_a_real_model_is_described_as_it_is(tiny: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    facts = inspect_model(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    template = AutoTokenizer.from_pretrained(tiny).chat_template
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (facts["kind"], facts["base_model"], facts["architecture"]) == ("full", None, "Qwen3ForCausalLM")
    assert facts["dtype"] == "float32"
    assert facts["tokenizer_sha256"] == sha256_of(tiny / "tokenizer.json")
    assert facts["has_chat_template"] == bool(template)
    assert facts["hashes"]["model.safetensors"] == sha256_of(tiny / "model.safetensors")


def test_the_facts_file_does_not_change_the_hashes(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    facts = inspect_model(folder)
    write_facts(folder, facts, id="m")
    assert inspect_model(folder)["hashes"] == facts["hashes"]
    assert json.loads((folder / "pilothouse.json").read_text())["id"] == "m"


def test_the_most_common_type_names_the_model(tmp_path: Path) -> None:
    facts = inspect_model(make_model(tmp_path / "m"))
    assert (facts["parameters"], facts["dtype"]) == (7, "float16")


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    save_file({"lora_A": np.zeros((4, 2), np.float32)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "smollm2"}')
    facts = inspect_model(tmp_path)
    assert (facts["kind"], facts["base_model"], facts["architecture"]) == ("adapter", "smollm2", None)
    assert facts["tokenizer_sha256"] is None


@pytest.mark.parametrize("place", ["jinja file", "config", "list"])
def test_the_chat_template_is_found_wherever_it_stands(tmp_path: Path, place: str) -> None:
    folder = make_model(tmp_path / "m")
    if place == "jinja file":
        (folder / "chat_template.jinja").write_text("T")
    else:
        named = [{"name": "tool_use", "template": "U"}, {"name": "default", "template": "T"}]
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"chat_template": "T" if place == "config" else named})
        )
    facts = inspect_model(folder)
    assert facts["has_chat_template"]
    assert facts["chat_template_sha256"] == "e632b7095b0bf32c260fa4c539e9fd7b852d0de454e9be26f24d0d6f91d069d3"


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def lose_a_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "c": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def name_code(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text('{"auto_map": {"AutoModel": "code.Model"}}')


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        ("no_config", lambda folder: (folder / "config.json").unlink()),
        ("bad_config", lambda folder: (folder / "config.json").write_text("{")),
        ("bad_config", lambda folder: (folder / "config.json").write_text("[]")),
        ("remote_code", name_code("config.json")),
        ("remote_code", name_code("tokenizer_config.json")),
        ("pickled_weights", lambda folder: (folder / "pytorch_model.bin").write_bytes(b"")),
        ("pickled_weights", lambda folder: (folder / "optimizer.PT").write_bytes(b"")),
        ("no_safetensors", lambda folder: (folder / "model.safetensors").unlink()),
        ("broken_weights", truncate),
        ("broken_weights", lambda folder: (folder / "model.safetensors").write_text("not weights at all")),
        ("missing_weights", lose_a_shard),
    ],
)
def test_what_breaks_a_rule_is_refused(tmp_path: Path, code: str, damage: Callable[[Path], object]) -> None:
    folder = make_model(tmp_path / "m")
    inspect_model(folder)
    damage(folder)
    with pytest.raises(ModelFaultError) as fault:
        inspect_model(folder)
    assert fault.value.code == code
    assert fault.value.fix
