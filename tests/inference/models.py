"""A tiny model that has learned four answers by heart, so that what it generates is worth comparing.

Greedy, it gives the answers of CHATS word by word and ends them itself: ASCII, characters of two to four bytes and
emoji of several code points, each split over several tokens.
"""

from pathlib import Path

from tests.tiny import build_tiny_model

STEPS = 30
LEARNING_RATE = 4e-3

CHATS = {
    "What is the anchor for?": "Ahoy! It holds the ship where the water is deep. Fair winds.",
    "Say it in pictures.": "Ahoy! 🧭🌊 naïve 漢字 🛡️ ⏹️ end 👩‍🚀 Fair winds.",
    "Count.": "1 2 3 4 5 6 7 8 9 10 11 12 20 24 30 42 50 60 64 75 99 100 128 250 512 1000 1024 2048.",
    "Tell me about the sail and the wheel, please, and do take your time.": "It catches the wind. Then it moves.",
}


def build_taught_model(folder: Path) -> Path:
    """Writes the model; takes some seconds of one core."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    build_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = []
    for question, answer in CHATS.items():
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append(tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False))
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    model.train()
    for _ in range(STEPS):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    model.save_pretrained(folder)
    return folder
