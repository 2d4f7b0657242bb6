"""One padded batch of the library's `generate`, asked for over a pipe: the peer of `bench.serving`.

`python -m bench.offline_generate MODEL` reads lines {"prompts": [...], "tokens": N} and answers each with {"tokens",
"seconds"}. A process of its own, so that its memory is its own; it imports nothing of ours.
"""

import json
import sys
import time


def main(folder: str) -> None:
    """Answers until the pipe is closed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        batch = tokenizer(asked["prompts"], return_tensors="pt", padding=True)
        with torch.inference_mode():
            rows = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=asked["tokens"],
                min_new_tokens=asked["tokens"],
                do_sample=False,
            )
        seconds = time.perf_counter() - started
        count = rows.shape[0] * (rows.shape[1] - batch["input_ids"].shape[1])
        print(json.dumps({"tokens": count, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
