"""One question to a model that has just been converted, loaded from the very files that will be published.

Runs in the `fetch` job.
"""

from pathlib import Path

ANSWER_TOKENS = 24


def ask(folder: Path, question: str) -> str:
    """The model's most likely answer, without special tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    turn = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    answer: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer.strip()
