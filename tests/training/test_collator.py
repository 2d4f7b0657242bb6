"""Which tokens are learned, in which order, and how they become tensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from monitoring.attempt import JobFaultError
from tests.tiny import write_style_dataset
from tests.training.trainjobs import tiny_model
from training.config.loader import parse_config
from training.data.collator import PackingCollator, PaddingCollator
from training.data.encoding import IGNORED, Encoded, Encoder
from training.data.loading import EAGER_ROWS, Split, load_split
from training.data.order import SeededOrder
from training.profiles.plain import PlainProfile

DROPS_THOUGHTS = (
    "{%- for message in messages %}"
    "{%- set content = message['content'] %}"
    "{%- if message['role'] == 'assistant' and not loop.last %}"
    "{%- set content = content.split('</think>')[-1] %}"
    "{%- endif %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + content.strip() + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""As reasoning models have it: what was thought in earlier turns is left out."""


def tokenizer(template: str | None = None) -> Any:
    loaded = AutoTokenizer.from_pretrained(tiny_model())
    if template:
        loaded.chat_template = template
    return loaded


def learned(encoded: Encoded, words: Any) -> str:
    text: str = words.decode([t for t, target in zip(encoded.input_ids, encoded.is_target, strict=True) if target])
    return text


def chat(*turns: str) -> Any:
    roles = ["user", "assistant"] * len(turns)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, turns, strict=False)]}


def test_only_what_the_assistant_says_is_learned_with_its_end() -> None:
    words = tokenizer()
    encoded = Encoder(words, 512).encode(chat("Who are you?", "The cook.", "The cook.", "The cook. Aye!"))
    assert learned(encoded, words) == "The cook.<|im_end|>The cook. Aye!<|im_end|>"
    assert words.decode(encoded.input_ids).startswith("<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant")
    assert encoded.labels.count(IGNORED) == encoded.is_target.count(False)


def test_a_template_that_rewrites_earlier_turns_is_followed() -> None:
    words = tokenizer(DROPS_THOUGHTS)
    encoded = Encoder(words, 512).encode(
        chat("Deep?", "<think>hm</think>Ten fathoms.", "And now?", "<think>hm</think>Ten fathoms.")
    )
    assert learned(encoded, words) == "Ten fathoms.<|im_end|><think>hm</think>Ten fathoms.<|im_end|>"


def test_raw_text_is_learned_whole_and_ends() -> None:
    words = tokenizer()
    encoded = Encoder(words, 512).encode({"text": "The tide turned."})
    assert learned(encoded, words) == "The tide turned.<|im_end|>"
    assert all(encoded.is_target)


def test_what_exceeds_the_longest_example_is_cut_off() -> None:
    encoded = Encoder(tokenizer(), 8).encode({"text": "The tide turned and they cast off, and the wind came."})
    assert len(encoded.input_ids) == 8


def load(folder: Path, rows: list[dict[str, Any]] | None = None, max_length: int = 256, **data: Any) -> Split:
    if rows is not None:
        folder.mkdir(exist_ok=True)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = parse_config({"data": data, "hyperparams": {"max_length": max_length}})
    return load_split(folder, config, PlainProfile(), Encoder(tokenizer(), max_length))


def test_rows_without_anything_to_learn_are_left_out_and_counted(tmp_path: Path) -> None:
    good = [chat(f"How deep? {number}", "Ten fathoms.") for number in range(6)]
    bad = [{"messages": []}, {"nothing": 1}, chat("x " * 400, "Too late.")]
    split = load(tmp_path, [*good[:3], *bad, *good[3:]], eval_fraction=0.0)
    assert len(split.train) == 6
    assert split.skipped() == 3
    assert split.evaluation is None


@pytest.mark.parametrize(
    ("question", "data", "why"),
    [
        ("x " * 400, {}, "tokens, and no answer begins in the first 64 (hyperparams.max_length)."),
        ("x " * 400, {"max_tokens": 50}, "tokens, more than data.max_tokens (50)."),
        ("Hi", {"min_tokens": 60}, "tokens, fewer than data.min_tokens (60)."),
    ],
)
def test_when_all_examples_are_too_long_the_first_says_by_how_much(
    tmp_path: Path, question: str, data: dict[str, Any], why: str
) -> None:
    with pytest.raises(JobFaultError) as caught:
        load(tmp_path, [chat(question, "Too late.")] * 4, max_length=64, **data)
    assert caught.value.code == "no_trainable_tokens"
    assert "None of the 4 examples of " in caught.value.message
    assert caught.value.message.endswith(why)
    assert "max_length" in caught.value.fix


def test_a_dataset_of_which_nothing_can_be_learned_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(JobFaultError) as caught:
        load(tmp_path, [{"nothing": 1}] * 5)
    assert caught.value.code == "no_trainable_tokens"
    assert "None of the 5 examples" in caught.value.message
    assert "rows.jsonl can be learned from. Example 1: it can't be read: " in caught.value.message
    with pytest.raises(JobFaultError) as caught:
        load(tmp_path, [])
    assert caught.value.code == "dataset_empty"
    with pytest.raises(JobFaultError) as caught:
        load(tmp_path / "nowhere")
    assert caught.value.code == "dataset_missing"


def test_limits_duplicates_and_the_number_of_examples_are_heeded(tmp_path: Path) -> None:
    rows = [chat(f"How deep? {number}", "Ten fathoms. " * (1 + number)) for number in range(8)]
    assert len(load(tmp_path, [*rows, *rows], eval_fraction=0.0, drop_duplicates=True).train) == 8
    assert len(load(tmp_path, rows, eval_fraction=0.0, max_examples=3).train) == 3
    lengths = [len(load(tmp_path, [row], eval_fraction=0.0).train[0]["input_ids"]) for row in rows]
    middle = load(tmp_path, rows, eval_fraction=0.0, min_tokens=lengths[2], max_tokens=lengths[5])
    assert len(middle.train) == 4
    assert middle.skipped() == 4


def test_the_limit_counts_an_example_before_it_is_cut(tmp_path: Path) -> None:
    """With both limits at 64 a row of hundreds of tokens is too long, not one of 64."""
    rows = [chat("How deep?", "Ten fathoms. " * times) for times in (1, 2, 200)]
    assert len(load(tmp_path, rows, max_length=64, eval_fraction=0.0).train) == 3
    assert len(load(tmp_path, rows, max_length=64, eval_fraction=0.0, max_tokens=64).train) == 2


def test_the_split_is_the_seeds_and_holds_nothing_twice(tmp_path: Path) -> None:
    write_style_dataset(tmp_path / "rows.jsonl", 50)
    splits = [load(tmp_path, eval_fraction=0.2) for _ in range(2)]
    assert splits[0].evaluation is not None
    assert splits[1].evaluation is not None
    assert list(splits[0].evaluation.chosen) == list(splits[1].evaluation.chosen)
    assert sorted([*splits[0].evaluation.chosen, *splits[0].train.chosen]) == list(range(50))
    assert len(splits[0].evaluation) == 10


def test_in_a_large_set_the_next_row_stands_in_for_an_unusable_one(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        dict(chat(f"How deep? {number}", f"{number} fathoms.")) for number in range(EAGER_ROWS + 10)
    ]
    rows[100] = {"nothing": 1}
    split = load(tmp_path, rows, eval_fraction=0.0)
    assert len(split.train) == len(rows)
    assert split.train[100] == split.train[101]
    assert split.skipped() == 1


def test_the_index_of_a_large_file_is_small(tmp_path: Path) -> None:
    line = json.dumps(chat("How deep?", "Ten fathoms. " * 100)) + "\n"
    with (tmp_path / "rows.jsonl").open("w") as stream:
        for _ in range(20_000):
            stream.write(line)
    split = load(tmp_path, eval_fraction=0.0)
    index = split.rows.index
    held = index.starts.itemsize * len(index.starts) + index.lengths.itemsize * len(index.lengths)
    assert len(split.train) == 20_000
    assert held <= 24 * 20_000


def test_padding_adds_nothing_that_is_seen_or_learned() -> None:
    batch = PaddingCollator(pad_token_id=0, multiple=4)(
        [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED], [8, IGNORED, IGNORED, IGNORED]]


def test_packed_examples_are_computed_as_if_they_were_alone() -> None:
    encoder = Encoder(tokenizer(), 256)
    encoded = [
        encoder.encode(chat("How deep?", "Ten fathoms.")),
        encoder.encode(chat("Who steers?", "The second mate.")),
    ]
    features = [{"input_ids": item.input_ids, "labels": item.labels} for item in encoded]
    model = AutoModelForCausalLM.from_pretrained(tiny_model()).eval()
    with torch.no_grad():
        packed = model(**PackingCollator()(features), use_cache=False).logits[0]
        alone = torch.cat([model(**PaddingCollator(0)([feature])).logits[0] for feature in features])
    assert torch.allclose(packed, alone, atol=1e-4)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = [(position * 7919) % 997 for position in range(500)]
    order = SeededOrder(500, 1, lengths=lengths, batch=8)
    assert order.positions(0) == SeededOrder(500, 1, lengths=lengths, batch=8).positions(0)
    assert order.positions(0) != order.positions(1)
    assert order.positions(0) != SeededOrder(500, 2, lengths=lengths, batch=8).positions(0)
    assert sorted(order.positions(3)) == list(range(500))
    assert SeededOrder(5, 1, shuffle=False).positions(7) == [0, 1, 2, 3, 4]


def test_like_lengths_stand_together_and_the_longest_comes_first() -> None:
    lengths = [(position * 7919) % 997 for position in range(400)]

    def padding(positions: list[int]) -> int:
        groups = [positions[at : at + 8] for at in range(0, len(positions), 8)]
        return sum(max(lengths[p] for p in group) * len(group) - sum(lengths[p] for p in group) for group in groups)

    grouped = SeededOrder(400, 1, lengths=lengths, batch=8).positions(0)
    assert padding(grouped) < padding(SeededOrder(400, 1).positions(0)) / 10
    assert max(lengths) in [lengths[position] for position in grouped[:8]]
