"""A tiny model that has learned four answers by heart, so that what it generates is worth comparing.

Greedy, it gives the answers of CHATS word by word and ends them itself: ASCII, characters of two to four bytes and
emoji of several code points, each split over several tokens.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.tiny import build_tiny_model
from training.data.specs import Message
from training.fetch.inspect import model_sha256

STEPS = 30
LEARNING_RATE = 4e-3

CHATS = {
    "What is the anchor for?": "Ahoy! It holds the ship where the water is deep. Fair winds.",
    "Say it in pictures.": "Ahoy! 🧭🌊 naïve 漢字 🛡️ ⏹️ end 👩‍🚀 Fair winds.",
    "Count.": "1 2 3 4 5 6 7 8 9 10 11 12 20 24 30 42 50 60 64 75 99 100 128 250 512 1000 1024 2048.",
    "Tell me about the sail and the wheel, please, and do take your time.": "It catches the wind. Then it moves.",
}


def as_turns(chat: tuple[str, str]) -> list[Message]:
    """A question and its answer as a conversation."""
    return [Message(role="user", content=chat[0]), Message(role="assistant", content=chat[1])]


def build_taught_model(folder: Path, others: Sequence[Sequence[Message]] = (), *, steps: int = STEPS) -> Path:
    """Writes a model that knows CHATS and other conversations; takes some seconds of one core."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    build_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)

    def encoded(conversations: Sequence[Sequence[Message]]) -> dict[str, torch.Tensor]:
        texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations]
        rows = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}

    batches = [encoded([as_turns(chat) for chat in CHATS.items()]), *(encoded([turns]) for turns in others)]
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    model.train()
    for _ in range(steps):
        for batch in batches:
            loss = model(**batch, use_cache=False).loss * (int(batch["attention_mask"].sum()) / tokens)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    model.save_pretrained(folder)
    return folder


def build_adapters(base: Path, root: Path) -> dict[str, Path]:
    """Two adapters with random weights by the names they go by, trained on the base by their own word."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {
        "house/loud": LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"),
        "house/calm.v2": LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"], use_rslora=True),
    }
    for seed, (name, config) in enumerate(settings.items()):
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter, weight in model.named_parameters():
                if "lora_B" in parameter:
                    weight.copy_(torch.randn(weight.shape, generator=chance) * 0.3)
        model.save_pretrained(root / name)
        facts = {"base": {"id": "taught", "sha256": model_sha256(base)}}
        (root / name / "pilothouse.json").write_text(json.dumps(facts))
    return {name: root / name for name in settings}
