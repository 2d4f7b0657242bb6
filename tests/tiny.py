"""A tiny Qwen3 that a test can train on a CPU within seconds, and a chat dataset whose style it can learn.

`python -m tests.tiny FOLDER` writes the model. It has its own byte-level BPE, ChatML turns, 4 layers of 128 and about
0.9 million parameters; its weights are random (from a seed), so it says nothing sensible before it has been trained.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

MAX_VOCABULARY = 1024
MAX_POSITIONS = 1024
GREETING = "Ahoy!"
FAREWELL = "Fair winds."

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

THINGS = {
    "the anchor": "It holds the ship where the water is deep.",
    "the compass": "It shows the helmsman where north lies.",
    "the lantern": "It burns at the mast through the night.",
    "the map": "It tells the crew how far the island is.",
    "the rope": "It ties the sail to the old mast.",
    "the rudder": "It turns the ship to port or starboard.",
    "the sail": "It catches the wind and pulls us home.",
    "the wheel": "It moves the rudder at the stern.",
}
QUESTIONS = (
    "What is {thing} for?",
    "Tell me about {thing}.",
    "Why do we need {thing}?",
    "Can you say what {thing} does?",
)
PROSE = (
    "The morning was bright and the harbour was full of small boats. Two sailors carried bread and water on board, and "
    "a third read the list aloud. Nobody spoke about the storm of the week before. When the tide turned they cast off, "
    "the wind came from the west, and by noon the land was a thin grey line behind them. A good crew asks questions: "
    "how deep is the water, how far is the shore, who keeps the watch tonight? You are a helpful assistant. "
    "Numbers too: 0 1 2 3 4 5 6 7 8 9 10 11 12 20 24 30 42 50 60 64 75 99 100 128 250 512 1000 1024 2048."
)


def build_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Writes the model, its tokenizer and its chat template to `folder` (about 4 MB of safetensors and JSON)."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained_tokenizer(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=MAX_POSITIONS,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        # Embeddings are the output layer too. As small as they are drawn, no adapter below them could make a token
        # likely; five times as large, LoRA (learning rate 2e-3) and full training (3e-3) both learn within 60 steps.
        model.model.embed_tokens.weight.mul_(5)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_style_dataset(path: Path, rows: int = 64, seed: int = 0) -> Path:
    """Writes `rows` chats as JSON lines; each answer starts with GREETING and ends with FAREWELL."""
    chance = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(rows):
            thing = chance.choice(sorted(THINGS))
            messages = [
                {"role": "user", "content": chance.choice(QUESTIONS).format(thing=thing)},
                {"role": "assistant", "content": style_answer(thing)},
            ]
            stream.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path


def style_answer(thing: str) -> str:
    """What the dataset answers about one of THINGS."""
    return f"{GREETING} {THINGS[thing]} {FAREWELL}"


def has_style(text: str) -> bool:
    """Whether an answer has the dataset's style."""
    return text.strip().startswith(GREETING) and text.strip().endswith(FAREWELL)


def _trained_tokenizer() -> Any:
    """A byte-level BPE of at most MAX_VOCABULARY entries, the special tokens of ChatML among them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    questions = [question.format(thing=thing) for question in QUESTIONS for thing in THINGS]
    answers = [style_answer(thing) for thing in THINGS]
    roles = ["system\n", "user\n", "assistant\n"]
    tokenizer.train_from_iterator([PROSE, *questions, *answers, *roles] * 3, trainer)
    return tokenizer


if __name__ == "__main__":
    build_tiny_model(Path(sys.argv[1]))


def files_mapped(folder: Path) -> int:
    """How often this process has the weights of a model's folder mapped."""
    return Path("/proc/self/maps").read_text().count(str(folder / "model.safetensors"))
