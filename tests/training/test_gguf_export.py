"""Exports to GGUF: what is written is read back and is the model, in numbers, words and, where llama.cpp is installed,
in what it computes."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PretrainedConfig, Qwen2Config

from monitoring.attempt import JobFaultError
from monitoring.events import Artefact, Inputs
from monitoring.files import model_hashes
from tests.inference.exports import export
from tests.tiny import CHAT_TEMPLATE, build_tiny_model
from tests.training.attempts import make_attempt
from training.fetch.gguf_layout import ROPE_FREQUENCIES, Layout
from training.fetch.gguf_tokenizer import LETTERS, REST, check_merges, check_normalizer, word_rule

TEXT = "Ahoy! It's 1024 sails, naïve 漢字 👩‍🚀\n\n  and\tmore<|im_end|>"
SHAPE: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
LLAMA3_ROPE: dict[str, Any] = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 2.0, "original_max_position_embeddings": 256}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def llama(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an output layer of its own, biases in attention, and positions stretched as Llama 3's are."""
    config = LlamaConfig(**SHAPE, tie_word_embeddings=False, attention_bias=True, rope_parameters=LLAMA3_ROPE)
    return made(config, tiny, tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def qwen2(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = Qwen2Config(**SHAPE, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    return made(config, tiny, tmp_path_factory.mktemp("qwen2") / "model")


def made(config: PretrainedConfig, tiny: Path, folder: Path) -> Path:
    """A model with the tiny one's tokenizer, and weights large enough that tokens differ in likelihood."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config.vocab_size = len(tokenizer) + 5  # an embedding may have more rows than there are tokens
    config.eos_token_id = tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            weight.copy_(weight * 3 if weight.ndim > 1 else weight + torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tensors(file: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(file)
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


def field(file: Path, name: str) -> Any:
    found = gguf.GGUFReader(file).get_field(name)
    return None if found is None else found.contents()


# --- What is written --------------------------------------------------------------------------------------------------


def test_the_job_writes_the_file_beside_the_model_and_leaves_the_model_as_it_was(tiny: Path, tmp_path: Path) -> None:
    before = model_hashes(tiny)
    inputs = Inputs(model=Artefact("house/tiny", str(tiny)))
    attempt = make_attempt(tiny / "gguf", "fetch", config={"export": "Q8_0"}, inputs=inputs)
    assert attempt.run() == 0
    file, result = tiny / "gguf" / "Q8_0.gguf", attempt.result()
    assert result == {**result, "export": "Q8_0", "file": "Q8_0.gguf", "size_bytes": file.stat().st_size}
    assert not list(file.parent.glob(".*"))
    assert model_hashes(tiny) == before
    assert field(file, "general.name") == "house/tiny"
    assert field(file, "general.architecture") == "qwen3"


def test_sizes_and_words_are_the_models(tiny: Path) -> None:
    file, config = export(tiny, "F32"), json.loads((tiny / "config.json").read_bytes())
    stored = {
        "block_count": "num_hidden_layers", "embedding_length": "hidden_size", "context_length":
        "max_position_embeddings", "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim",
    }  # fmt: skip
    assert {name: field(file, f"qwen3.{name}") for name in stored} == {k: config[v] for k, v in stored.items()}
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokens, kinds = field(file, "tokenizer.ggml.tokens"), field(file, "tokenizer.ggml.token_type")
    assert tokens == tokenizer.convert_ids_to_tokens(range(config["vocab_size"]))
    special = [tokens[number] for number, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL]
    assert special == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert field(file, "tokenizer.ggml.pre") == "gpt-2"
    assert field(file, "tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id
    assert field(file, "tokenizer.ggml.add_bos_token") is False
    assert field(file, "tokenizer.chat_template") == CHAT_TEMPLATE
    assert len(field(file, "tokenizer.ggml.merges")) == len(tokens) - 256 - 3


@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 0.0), ("F16", 1e-3), ("Q8_0", 2e-2)])
def test_weights_are_the_models_as_near_as_their_kind_allows(tiny: Path, kind: str, tolerance: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    found = tensors(export(tiny, kind))
    embedding = model.model.embed_tokens.weight.detach().numpy()
    assert np.abs(found["token_embd.weight"] - embedding).max() <= tolerance * np.abs(embedding).max()
    down = model.model.layers[3].mlp.down_proj.weight.detach().numpy()
    assert np.abs(found["blk.3.ffn_down.weight"] - down).max() <= tolerance * np.abs(down).max()
    assert "output.weight" not in found  # it is the embedding
    assert len(found) == len(list(model.parameters()))


def test_an_adapter_is_merged_into_its_base(tiny: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), LoraConfig(r=4, target_modules=["down_proj"]))
    with torch.no_grad():
        model.base_model.model.model.layers[1].mlp.down_proj.lora_B["default"].weight.fill_(0.5)
    model.save_pretrained(tmp_path / "adapter")
    found = tensors(export(tmp_path / "adapter", "F32", tiny))
    base = AutoModelForCausalLM.from_pretrained(tiny)
    plain = base.model.layers[1].mlp.down_proj.weight.detach().clone().numpy()
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    expected = merged.model.layers[1].mlp.down_proj.weight.detach().numpy()
    assert np.allclose(found["blk.1.ffn_down.weight"], expected, atol=1e-6)
    assert not np.allclose(expected, plain, atol=1e-3)
    assert field(tmp_path / "adapter" / "gguf" / "F32.gguf", "tokenizer.chat_template") == CHAT_TEMPLATE


def test_a_llamas_queries_and_keys_are_in_the_order_of_the_original_release(llama: Path) -> None:
    """Rotary pairs lie side by side in the file, and half a head apart in transformers; the Qwen families keep that."""
    attention = AutoModelForCausalLM.from_pretrained(llama).model.layers[1].self_attn
    found = tensors(export(llama, "F32"))
    for written, given, heads in (("attn_q", attention.q_proj, 4), ("attn_k", attention.k_proj, 2)):
        order = [head * 32 + half * 16 + pair for head in range(heads) for pair in range(16) for half in range(2)]
        assert np.array_equal(found[f"blk.1.{written}.weight"], given.weight.detach().numpy()[order])
        assert np.array_equal(found[f"blk.1.{written}.bias"], given.bias.detach().numpy()[order])
    assert np.array_equal(found["blk.1.attn_v.weight"], attention.v_proj.weight.detach().numpy())


def test_qwens_queries_are_as_they_are(qwen2: Path) -> None:
    attention = AutoModelForCausalLM.from_pretrained(qwen2).model.layers[1].self_attn
    found = tensors(export(qwen2, "F32"))
    assert np.array_equal(found["blk.1.attn_q.weight"], attention.q_proj.weight.detach().numpy())
    assert ROPE_FREQUENCIES not in found


def test_stretched_positions_are_those_that_transformers_computes(llama: Path) -> None:
    expected = AutoModelForCausalLM.from_pretrained(llama).model.rotary_emb.inv_freq.numpy()
    plain = LLAMA3_ROPE["rope_theta"] ** -(np.arange(0, 32, 2) / 32)
    divisors = tensors(export(llama, "F32"))[ROPE_FREQUENCIES]
    assert np.allclose(plain / divisors, expected, rtol=1e-5)
    assert divisors.min() == 1
    assert divisors.max() == 8


@pytest.mark.parametrize(
    ("rope", "told"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0, "original_context_length": None}),
        (
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256, "beta_fast": 32},
            {"type": "yarn", "factor": 2.0, "original_context_length": 256},
        ),
        ({"rope_type": "default"}, {"type": None, "factor": None, "original_context_length": None}),
    ],
)
def test_the_rule_of_positions_is_told(rope: dict[str, Any], told: dict[str, Any], tmp_path: Path) -> None:
    config = Qwen2Config(**SHAPE, architectures=["Qwen2ForCausalLM"], rope_parameters={**rope, "rope_theta": 1e6})
    writer = gguf.GGUFWriter(tmp_path / "told.gguf", "qwen2")
    Layout.of(config).describe(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    assert {name: field(tmp_path / "told.gguf", f"qwen2.rope.scaling.{name}") for name in told} == told
    assert field(tmp_path / "told.gguf", "qwen2.rope.freq_base") == 1e6


@pytest.mark.parametrize("is_same", [True, False])
def test_an_output_layer_that_is_not_the_embedding_is_written_whatever_the_configuration_says(
    is_same: bool, qwen2: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(qwen2, folder, ignore=shutil.ignore_patterns("gguf"))
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding.clone() if is_same else embedding + 1
    save_file(weights, folder / "model.safetensors")
    found = tensors(export(folder, "F32"))
    assert ("output.weight" in found) is not is_same
    if not is_same:
        assert np.array_equal(found["output.weight"], weights["lm_head.weight"].numpy())


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "its architecture is MambaForCausalLM"),
        ({"use_sliding_window": True}, "a part of the text only"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "positions are of the kind longrope"),
        ({"rope_parameters": LLAMA3_ROPE}, "positions are of the kind llama3, which llama.cpp knows of Llama alone"),
        ({"rope_parameters": {**YARN, "attention_factor": 0.7}}, "attention_factor"),
        ({"rope_parameters": {**YARN, "beta_fast": 16}}, "beta_fast"),
        ({"rope_parameters": {**YARN, "truncate": False}}, "truncate"),
        ({"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}}, "mscale, mscale_all_dim"),
    ],
)
def test_a_model_of_another_kind_is_refused(change: dict[str, Any], word: str) -> None:
    config = Qwen2Config(**SHAPE, architectures=["Qwen2ForCausalLM"])
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(JobFaultError, match=word):
        Layout.of(config)


def test_a_tensor_without_a_place_is_refused() -> None:
    layout = Layout.of(Qwen2Config(**SHAPE, architectures=["Qwen2ForCausalLM"]))
    with pytest.raises(JobFaultError, match=r"no place in the file for its tensor model\.layers\.0\.extra"):
        list(layout.names(["model.layers.0.extra.weight"]))


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


@pytest.mark.parametrize(
    ("file", "change", "word"),
    [
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "its tokenizer changes texts first"),
        ("tokenizer.json", {"model": {"ignore_merges": True}}, "merges"),
    ],
)
def test_a_tokenizer_that_would_read_otherwise_is_refused(
    file: str, change: dict[str, Any], word: str, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("gguf"))
    stored = json.loads((folder / file).read_bytes())
    for name, value in change.items():
        stored[name] = {**stored[name], **value} if stored[name] else value
    (folder / file).write_text(json.dumps(stored))
    with pytest.raises(JobFaultError, match=word):
        export(folder, "F32")
    assert not list((folder / "gguf").iterdir())


@pytest.mark.parametrize(
    ("normalizer", "is_known"),
    [
        (None, True),
        ({"type": "NFC"}, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}]}, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}, False),
        ({"type": "NFKC"}, False),
    ],
)
def test_of_the_changes_before_splitting_one_is_let_through(normalizer: dict[str, Any] | None, is_known: bool) -> None:
    with contextlib.nullcontext() if is_known else pytest.raises(JobFaultError, match="changes texts first"):
        check_normalizer(normalizer)


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ([BYTES], "gpt-2"),
        ([DIGITS, BYTES], "smollm"),
        ([split(f"{LETTERS}|\\p{{N}}{REST}"), {**BYTES, "use_regex": False}], "qwen2"),
        ([split(f"{LETTERS}|\\p{{N}}{{1,3}}{REST}"), {**BYTES, "use_regex": False}], "llama-bpe"),
        ([split("x"), {**BYTES, "use_regex": False}], None),
        ([{"type": "Metaspace"}], None),
        ([{**BYTES, "add_prefix_space": True}], None),
    ],
)
def test_the_rule_that_splits_words_is_known_or_refused(parts: list[dict[str, Any]], name: str | None) -> None:
    stored = parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts}
    if name is None:
        with pytest.raises(JobFaultError, match="splits words"):
            word_rule(stored)
    else:
        assert word_rule(stored) == name


@pytest.mark.parametrize(
    ("rule", "ignores", "is_known"),
    [("llama-bpe", True, True), ("llama-bpe", False, False), ("qwen2", True, False), ("smollm", False, True)],
)
def test_whether_whole_words_go_before_merges_is_as_llama_cpp_has_it(rule: str, ignores: bool, is_known: bool) -> None:
    with contextlib.nullcontext() if is_known else pytest.raises(JobFaultError, match="merges"):
        check_merges({"ignore_merges": ignores}, rule)


# --- What llama.cpp makes of it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tiny", "llama", "qwen2"])
def test_llama_cpp_computes_what_transformers_does(family: str, request: pytest.FixtureRequest) -> None:
    """Logits at every position of a text that is longer than the stretch of Llama 3's positions, and greedy tokens."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python (the extra llama_cpp) is not installed")
    folder: Path = request.getfixturevalue(family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(TEXT * 4, add_special_tokens=False)
    reader = llama_cpp.Llama(
        str(export(folder, "F32")), n_ctx=512, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0
    )
    reader.eval(ids)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0]
    found = torch.tensor(reader.scores[: len(ids)])
    assert torch.allclose(found, expected, atol=2e-3, rtol=2e-3)
    assert float(expected.std()) > 0.1  # else anything would agree
    assert found.argmax(-1).tolist() == expected.argmax(-1).tolist()
    assert reader.tokenize(TEXT.encode(), add_bos=False, special=True) == tokenizer.encode(TEXT)
    assert reader.token_eos() == tokenizer.eos_token_id


def test_four_bits_are_llama_cpps_own_work(tiny: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python (the extra llama_cpp) is not installed")
    small, whole = export(tiny, "Q4_K_M"), export(tiny, "F16")
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    embedding = tensors(whole)["token_embd.weight"]
    assert np.abs(tensors(small)["token_embd.weight"] - embedding).max() <= 0.1 * np.abs(embedding).max()
