"""The peer of `bench.train_overhead`: the same fine-tune as a bare script on transformers' Trainer, nothing beside it.

`python -m bench.bare_trainer MODEL ROWS STEPS BATCH` prints one JSON line: when it started, and when each step was
logged (Unix seconds). It is what one would write by hand: LoRA, fp32, padded batches, a log line a step.
"""

import json
import sys
import time

STARTED = time.time()


def main(model_folder: str, rows_path: str, steps: int, batch: int) -> None:
    """Trains and prints."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

    class Times(TrainerCallback):  # type: ignore[misc]
        """When each step was logged."""

        def __init__(self) -> None:
            self.logged: list[float] = []

        def on_log(self, *_args: object, logs: dict[str, float], **_more: object) -> None:
            if "loss" in logs:
                self.logged.append(time.time())

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    with open(rows_path, encoding="utf-8") as stream:  # noqa: PTH123
        texts = [tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False) for line in stream]
    examples = [{"input_ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in texts]

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}

    class InOrder(Trainer):  # type: ignore[misc]
        """Takes the rows as they stand, as the run does (`data.shuffle` false)."""

        def _get_train_sampler(self, *_args: object) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    arguments = TrainingArguments(
        output_dir="unused", max_steps=steps, per_device_train_batch_size=batch, learning_rate=2e-4, logging_steps=1,
        save_strategy="no", eval_strategy="no", report_to=[], use_cpu=not torch.cuda.is_available(), seed=42,
        lr_scheduler_type="cosine", optim="adamw_torch", remove_unused_columns=False, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    times = Times()
    InOrder(model=model, args=arguments, train_dataset=examples, data_collator=collate, callbacks=[times]).train()
    sys.stdout.write("\n" + json.dumps({"started": STARTED, "logged": times.logged}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
