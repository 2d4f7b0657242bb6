"""transformers' Trainer with what a job needs beside it: data order, token counts, checkpoints, out-of-memory.

Runs in the training process.
"""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import DefaultFlowCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from monitoring.attempt import JobFaultError
from training.config.schema import TrainerConfig
from training.data.loading import Examples
from training.data.order import SeededOrder
from training.precision import Precision

Say = Callable[[str], None]
Save = Callable[["JobTrainer"], None]


def training_arguments(config: TrainerConfig, precision: Precision, output_dir: str) -> TrainingArguments:
    """The run's settings as transformers has them. When to log, evaluate and save is `callbacks.schedule`'s to say."""
    hyper, gpu = config.hyperparams, torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=output_dir,
        num_train_epochs=hyper.num_train_epochs,
        max_steps=hyper.max_steps,
        per_device_train_batch_size=hyper.per_device_train_batch_size,
        per_device_eval_batch_size=hyper.per_device_train_batch_size,
        gradient_accumulation_steps=hyper.gradient_accumulation_steps,
        learning_rate=hyper.learning_rate,
        weight_decay=hyper.weight_decay,
        # A share below 1 is what transformers takes for one; 1 itself it takes for a single step.
        warmup_steps=min(hyper.warmup_ratio, 0.999999),
        lr_scheduler_type=hyper.lr_scheduler_type,
        max_grad_norm=hyper.max_grad_norm,
        optim=hyper.optim,
        bf16=precision.mode == "bf16",
        fp16=precision.mode == "fp16",
        use_cpu=not gpu,
        seed=hyper.seed,
        data_seed=hyper.seed,
        activation_checkpointing=config.model.gradient_checkpointing,
        dataloader_num_workers=config.data.workers,
        dataloader_persistent_workers=config.data.workers > 0,
        dataloader_pin_memory=gpu,
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        # The filter hides a NaN loss, and asks the GPU for the loss at every step to do so.
        logging_nan_inf_filter=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        disable_tqdm=True,
        log_level="info" if config.environment.log_level == "debug" else "warning",
        ddp_backend="gloo" if config.environment.distributed != "none" and not gpu else None,
    )
    if config.environment.distributed == "none":
        arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs in one process are device_map's, never DataParallel's
    return arguments


class JobTrainer(Trainer):  # type: ignore[misc]
    """The trainer of a run. `counts()` is what it has been given since it was made."""

    def __init__(self, *, settings: TrainerConfig, save: Save, say: Say, callbacks: list[TrainerCallback], **rest: Any):
        super().__init__(callbacks=callbacks, **rest)
        for surplus in (DefaultFlowCallback, PrinterCallback):
            self.remove_callback(surplus)
        self._settings = settings
        self._save_now = save
        self._say = say
        self._parts = 1
        self._step_inputs: list[dict[str, torch.Tensor]] = []
        self._counts = torch.zeros(2, dtype=torch.long, device=self.args.device)

    def counts(self) -> tuple[int, int]:
        """Tokens without padding, and examples. Waits for the GPU: ask when the loss is asked for anyway."""
        tokens, examples = self._counts.tolist()
        return tokens, examples

    def _get_train_sampler(self, train_dataset: Examples | None = None) -> Sampler[int]:
        examples = train_dataset if train_dataset is not None else self.train_dataset
        return SeededOrder(
            len(examples),
            self._settings.hyperparams.seed,
            shuffle=self._settings.data.shuffle,
            lengths=examples.estimated_lengths() if self._settings.data.length_grouping else None,
            batch=self._train_batch_size * self.args.world_size,
        )

    def _get_eval_sampler(self, eval_dataset: Examples) -> Sampler[int]:
        return SequentialSampler(eval_dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """One step's batches; counts their tokens on the device, without waiting for it."""
        batches, target_count = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            for place, count in enumerate(_counts_of(batch)):
                self._counts[place] += count
        self._step_inputs = []
        return batches, target_count

    def _run_epoch(self, *arguments: Any, **named: Any) -> None:
        """An attempt that begins at the last step (the one before ended while publishing) has nothing to train."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*arguments, **named)

    # --- Checkpoints ---

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._save_now(self)

    def write_state(self, folder: str) -> None:
        """Writes weights, tokenizer, optimizer, schedule, random numbers and the trainer's own state."""
        self.model.save_pretrained(folder)
        self.processing_class.save_pretrained(folder)
        self._save_optimizer_and_scheduler(folder)
        self._save_scaler(folder)
        self._save_rng_state(folder)
        self.state.save_to_json(f"{folder}/trainer_state.json")

    def load_weights(self, folder: str) -> None:
        """Takes the weights of a checkpoint."""
        self._load_from_checkpoint(folder)

    def loss_is_finite(self) -> bool:
        """Whether the loss of the steps since the last log is a number."""
        return bool(torch.isfinite(self._tr_loss).item())

    # --- Memory ---

    def training_step(
        self, model: Any, inputs: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One batch forward and backward. When memory does not suffice, it is divided and the step done again.

        Losses are sums over the step's targets, so that the parts add up to what the whole would have given: effective
        batch, schedule and data order stay as they are. Raises JobFaultError `out_of_memory` for a single example.
        """
        self._step_inputs.append(inputs)
        batches = [inputs]
        while True:
            try:
                return [self._in_parts(model, batch, num_items_in_batch) for batch in batches][-1]
            except RuntimeError as error:
                self._divide(error, divisible=num_items_in_batch is not None)
            # The gradients of this step may be half-added and are dropped: its earlier batches come again as well.
            batches = list(self._step_inputs)

    def _in_parts(self, model: Any, inputs: dict[str, torch.Tensor], count: torch.Tensor | int | None) -> torch.Tensor:
        parts = min(self._parts, len(inputs["input_ids"]))
        if parts == 1:
            loss: torch.Tensor = super().training_step(model, inputs, count)
            return loss
        pieces = zip(*(value.chunk(parts) for value in inputs.values()), strict=True)
        losses = [
            super(JobTrainer, self).training_step(model, dict(zip(inputs, p, strict=True)), count) for p in pieces
        ]
        return torch.stack(losses).sum()

    def _divide(self, error: RuntimeError, *, divisible: bool) -> None:
        if not is_out_of_memory(error):
            raise error
        largest = max(len(inputs["input_ids"]) for inputs in self._step_inputs)
        if not divisible or self._parts >= largest:
            raise out_of_memory(error) from error
        self._parts *= 2
        self._say(f"Memory did not suffice: from here on each batch is computed in {self._parts} parts.")
        self.model.zero_grad(set_to_none=True)
        error.__traceback__ = None  # it holds the frames, and they hold the tensors
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory on the GPU or the host did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def out_of_memory(error: BaseException) -> JobFaultError:
    """The fault of a run that does not fit."""
    return JobFaultError(
        "out_of_memory",
        f"The run does not fit into memory: {str(error).splitlines()[0]}",
        "Lower hyperparams.max_length, turn on model.gradient_checkpointing, use lora, or take a smaller model.",
    )


def _counts_of(batch: dict[str, torch.Tensor]) -> tuple[int | torch.Tensor, int | torch.Tensor]:
    """Tokens and examples of a batch, on its device where they must be counted."""
    if "position_ids" in batch:  # packed: each example begins at position 0
        return batch["input_ids"].numel(), (batch["position_ids"] == 0).sum()
    return batch["attention_mask"].sum(), len(batch["input_ids"])
