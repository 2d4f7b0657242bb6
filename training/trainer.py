"""transformers' Trainer with what a job needs beside it: data order, token counts, checkpoints.

Runs in the training process.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.utils.data import Sampler, SequentialSampler
from transformers import DefaultFlowCallback, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from training.config.schedule import warmup_share
from training.config.schema import TrainerConfig
from training.data.encoding import IGNORED
from training.data.loading import Examples
from training.data.order import SeededOrder
from training.distributed import sharding
from training.distributed.ranks import Ranks
from training.division import DividedSteps, Say
from training.models import trained_weights
from training.precision import Precision
from training.resumed_rate import take_learning_rate

Save = Callable[["JobTrainer"], None]


def training_arguments(config: TrainerConfig, precision: Precision, output_dir: str, ranks: Ranks) -> TrainingArguments:
    """The run's settings as transformers has them. When to log, evaluate and save is `callbacks.schedule`'s to say."""
    hyper, gpu = config.hyperparams, torch.cuda.is_available()
    is_sharded = ranks.count > 1 and config.environment.distributed == "fsdp"
    arguments = TrainingArguments(
        output_dir=output_dir,
        num_train_epochs=hyper.num_train_epochs,
        max_steps=hyper.max_steps,
        per_device_train_batch_size=hyper.per_device_train_batch_size,
        per_device_eval_batch_size=hyper.per_device_train_batch_size,
        gradient_accumulation_steps=hyper.gradient_accumulation_steps,
        learning_rate=hyper.learning_rate,
        weight_decay=hyper.weight_decay,
        warmup_steps=warmup_share(config),
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
        ddp_backend="gloo" if ranks.count > 1 and not gpu else None,
        ddp_find_unused_parameters=False,
        fsdp=is_sharded or None,
        fsdp_config={"auto_wrap_policy": "TRANSFORMER_BASED_WRAP"} if is_sharded else None,
    )
    if ranks.count == 1:
        arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs in one process are device_map's, never DataParallel's
    return arguments


class JobTrainer(DividedSteps):
    """The trainer of a run. `counts()` is what it has been given since it was made."""

    def __init__(
        self, *, settings: TrainerConfig, ranks: Ranks, save: Save, say: Say, callbacks: list[TrainerCallback],
        **rest: Any,
    ) -> None:  # fmt: skip
        super().__init__(ranks=ranks, say=say, callbacks=callbacks, **rest)
        for surplus in (DefaultFlowCallback, PrinterCallback):
            self.remove_callback(surplus)
        self._settings = settings
        self._save_now = save
        self._counts = torch.zeros(2, dtype=torch.long, device=self.args.device)

    def create_accelerator_and_postprocess(self) -> None:
        """accelerate turns FSDP on for GPUs alone; on the processor, where it is tested, it does the same."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp_plugin_args is not None and not self.is_fsdp_enabled:
            state = self.accelerator.state
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            if state.mixed_precision != "no":
                state.fsdp_plugin.set_mixed_precision(state.mixed_precision)
            state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.is_fsdp_enabled = True

    def counts(self) -> tuple[int, int]:
        """Tokens without padding, and examples, of all ranks. Waits for the GPU: ask when the loss is asked for anyway.

        All ranks must ask.
        """
        tokens, examples = self._ranks.sums(self._counts.tolist())
        return tokens, examples

    def _get_train_sampler(self, train_dataset: Examples | None = None) -> Sampler[int]:
        examples = train_dataset if train_dataset is not None else self.train_dataset
        self._order = SeededOrder(
            len(examples),
            self._settings.hyperparams.seed,
            shuffle=self._settings.data.shuffle,
            lengths=examples.estimated_lengths() if self._settings.data.length_grouping else None,
            batch=self._train_batch_size * self._ranks.count * self.args.gradient_accumulation_steps,
            multiple=self._train_batch_size * self._ranks.count if self._ranks.count > 1 else 1,
        )
        return self._order

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
        self.begin_step()
        return batches, target_count

    def _run_epoch(self, *arguments: Any, **named: Any) -> None:
        """An attempt that begins at the last step (the one before ended while publishing) has nothing to train."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        # accelerate loses sight of the sampler behind what it wraps for several processes and for batches to skip.
        self._order.set_epoch(named["epoch"])
        super()._run_epoch(*arguments, **named)

    # --- Checkpoints ---

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._save_now(self)

    def write_state(self, folder: str) -> None:
        """Writes weights, tokenizer, optimizer, schedule, random numbers and the trainer's own state.

        All ranks call it once the folder is there; it is whole when they return.
        """
        self._ranks.wait()
        weights = sharding.whole_weights(self.model) if self.is_fsdp_enabled else None
        if self._ranks.leads:
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=weights)
            self.processing_class.save_pretrained(folder)
            self._save_scaler(folder)
            self.state.save_to_json(f"{folder}/trainer_state.json")
        self._save_optimizer_and_scheduler(folder)
        self._save_rng_state(folder)
        self._ranks.wait()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = sharding.whole_optimizer(self.model, self.optimizer.optimizer)
        if self._ranks.leads:
            torch.save(state, f"{output_dir}/{OPTIMIZER_NAME}")
            torch.save(self.lr_scheduler.state_dict(), f"{output_dir}/{SCHEDULER_NAME}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            sharding.take_weights(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def whole_model(self, load: Callable[[], Any]) -> Any:
        """The trained model in one piece. All ranks must ask; a divided one only the first gets, into `load()`."""
        if not self.is_fsdp_enabled:
            return self.accelerator.unwrap_model(self.model)
        weights = sharding.whole_weights(self.model)
        if not self._ranks.leads:
            return None
        model = load()
        model.load_state_dict(weights)
        return model

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restores them; the learning rate of the settings holds where it is another one by now."""
        if checkpoint is not None and self.is_fsdp_enabled:
            sharding.take_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint) / OPTIMIZER_NAME)
            self.lr_scheduler.load_state_dict(torch.load(f"{checkpoint}/{SCHEDULER_NAME}", weights_only=True))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        rate = self.args.learning_rate
        if checkpoint is not None and take_learning_rate(self.optimizer, self.lr_scheduler, rate):
            self._say(f"The learning rate is {rate:g} from here on; its course goes on as it was.")

    def load_weights(self, folder: str) -> None:
        """Takes the weights of a checkpoint."""
        self._load_from_checkpoint(folder)

    def loss_is_finite(self) -> bool:
        """Whether the loss of the steps since the last log is a number, on all ranks. All must ask."""
        return self._ranks.sums([int(not torch.isfinite(self._tr_loss).item())]) == [0]

    def weights_are_finite(self) -> bool:
        """Whether all weights that are trained are numbers, each rank's part of them. All must ask."""
        found = [torch.isfinite(sharding.own_part(weight)).all() for weight in trained_weights(self.model)]
        is_good = torch.stack([good.to(found[0].device) for good in found]).all()  # device_map may spread them
        return self._ranks.sums([int(not is_good.item())]) == [0]


def _counts_of(batch: dict[str, torch.Tensor]) -> tuple[int | torch.Tensor, int | torch.Tensor]:
    """Tokens and examples of a batch, on its device where they must be counted; a filler (data.loading) is neither."""
    if "position_ids" in batch:  # packed: each example begins at position 0, and a filler has no other
        examples = (batch["position_ids"] == 1).sum()
        fillers = (batch["position_ids"] == 0).sum() - examples
        return batch["input_ids"].numel() - fillers, examples
    is_real = (batch["labels"] != IGNORED).any(dim=1)
    return (batch["attention_mask"] * is_real[:, None]).sum(), is_real.sum()
