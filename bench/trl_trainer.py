"""The peer of `bench.train_speed`: the same fine-tune by TRL's SFTTrainer, in TRL's own environment.

`python bench/trl_trainer.py MODEL ROWS STEPS BATCH` prints one JSON line: when each step was logged (Unix seconds) and
its loss. Imports nothing of ours. Equal terms: LoRA of the same layers, fp32, the same rows in the same order, padded
to the longest of a batch, loss on the answer alone (TRL's prompt and completion form), a log line a step.
"""

import json
import sys
import time
from pathlib import Path


def main(model_folder: str, rows_path: str, steps: int, batch: int) -> None:
    """Trains and prints."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Times(TrainerCallback):  # type: ignore[misc]
        """When each step was logged, and its loss."""

        def __init__(self) -> None:
            self.logged: list[tuple[float, float]] = []

        def on_log(self, *_args: object, logs: dict[str, float], **_more: object) -> None:
            if "loss" in logs:
                self.logged.append((time.time(), logs["loss"]))

    class InOrder(SFTTrainer):  # type: ignore[misc]
        """Takes the rows as they stand."""

        def _get_train_sampler(self, *_args: object) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    with Path(rows_path).open(encoding="utf-8") as stream:
        chats = [json.loads(line)["messages"] for line in stream]
    rows = Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats])
    arguments = SFTConfig(
        output_dir="unused", max_steps=steps, per_device_train_batch_size=batch, learning_rate=2e-4, logging_steps=1,
        save_strategy="no", eval_strategy="no", report_to=[], use_cpu=not torch.cuda.is_available(), seed=42,
        bf16=False, lr_scheduler_type="cosine", warmup_steps=0.03, optim="adamw_torch", disable_tqdm=True,
        max_length=1024, packing=False, gradient_checkpointing=False, completion_only_loss=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    times = Times()
    InOrder(
        model=AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32),
        args=arguments, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(model_folder),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[times],
    ).train()  # fmt: skip
    sys.stdout.write("\n" + json.dumps({"logged": times.logged}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
