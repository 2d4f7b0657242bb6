"""Layer 1 of training: one run from a configuration to a published model. Runs in the training process.

`TrainerEngine.run_job` reads top to bottom: load, train, publish. It never knows which profile or model it has; what is
told on the way goes into the event file, and callbacks stay cheap, since each costs every step.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from monitoring.attempt import JobFaultError, JobPausedError
from monitoring.events import EventWriter, JobSpec, Wish
from training import checkpoints
from training.callbacks.agreement import Agreement
from training.callbacks.checkpoints import CheckpointKeeper, RoomWatch
from training.callbacks.divergence import Divergence
from training.callbacks.plugins import load_callbacks
from training.callbacks.progress import PhaseTeller, ProgressTeller
from training.callbacks.safety import Safety
from training.callbacks.samples import Samples
from training.callbacks.schedule import Schedule
from training.config.schema import TrainerConfig
from training.data.collator import PackingCollator, PaddingCollator
from training.data.encoding import Encoder
from training.data.loading import Split, load_split
from training.distributed.ranks import Ranks
from training.division import is_out_of_memory, out_of_memory
from training.fetch.inspect import ModelFacts
from training.memory_probe import MemoryProbe
from training.models import Start, load_model, load_tokenizer, trained_weights
from training.precision import choose_precision
from training.profiles.base import BrokenProfileError, Profile, UnknownProfileError, load_profile
from training.publishing import Origin, publish_model
from training.state import RunState
from training.trainer import JobTrainer, training_arguments
from training.wishes import Wishes


@dataclass(frozen=True)
class TrainingResult:
    """What a run has come to. `seconds`, `tokens` and `examples` are sums over all attempts."""

    steps: int
    epoch: float
    run: RunState
    stopped: bool
    ended_early: bool
    skipped_examples: int
    model: ModelFacts
    profile: dict[str, str]

    def to_values(self) -> dict[str, Any]:
        """The values of the `result` event."""
        return {
            "steps": self.steps,
            "epoch": round(self.epoch, 6),
            "loss": self.run.to_json()["loss"],
            "eval_loss": self.run.to_json()["eval_loss"],
            "best_step": self.run.best_step,
            "stopped": self.stopped,
            "ended_early": self.ended_early,
            "seconds": round(self.run.seconds, 3),
            "tokens": self.run.tokens,
            "examples": self.run.examples,
            "skipped_examples": self.skipped_examples,
            "model": dict(self.model),
            "profile": self.profile,
        }


class TrainerEngine:
    """Runs one attempt of one training job. `resume` is a verified checkpoint of this run, or None.

    Where several processes train, each of them runs this; the first one tells, writes and publishes.
    """

    def __init__(
        self, spec: JobSpec, events: EventWriter, wishes: Wishes, resume: Path | None = None, ranks: Ranks | None = None
    ) -> None:
        self._ranks = ranks or Ranks()
        self._spec = spec
        self._events = events
        self._wishes = wishes
        self._resume = resume
        self._phases = PhaseTeller(events)
        self._began_seconds = time.monotonic()
        self._needed_bytes: Callable[[], int] | None = None

    def run_job(self, config: TrainerConfig, callbacks: Sequence[TrainerCallback] = ()) -> TrainingResult:
        """Trains and publishes. Raises JobFaultError with a code, and JobPausedError after a checkpoint."""
        transformers_logging.disable_progress_bar()
        run = self._run_state()
        run.start_clock(self._began_seconds)
        profile = _profile(config)
        origin = Origin(self._spec, config, profile, self._start())
        tokenizer = load_tokenizer(origin.start, profile, self._events.log)
        encoder = Encoder(tokenizer, config.hyperparams.max_length)
        split = self._load_data(config, profile, encoder)
        self._heed_pause()
        try:
            trainer, schedule, safety = self._trainer(config, origin, tokenizer, split, run=run, extra=callbacks)
            self._heed_pause()
            trainer.train(resume_from_checkpoint=str(self._resume) if self._resume else None)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise out_of_memory(error) from error
            raise
        except OSError as error:
            if not checkpoints.is_disk_full(error, Path(self._spec.output_dir)):
                raise
            needed_bytes = self._needed_bytes() if self._needed_bytes else None
            raise checkpoints.disk_full(Path(self._spec.output_dir), error, needed_bytes) from error
        except ImportError as error:
            raise JobFaultError(
                "config_invalid",
                f"The settings ask for a package that is not installed: {error}",
                "Install it (the extra `quant` for 8-bit optimizers), or choose another optimizer or attention.",
            ) from error
        run.read_clock()
        if safety.carried_out is Wish.PAUSE:
            raise JobPausedError
        self._phases.enter("stopping")
        self._take_best(trainer, config, run)
        self._tell_skipped(split, encoder)
        model = trainer.whole_model(lambda: load_model(origin.start, config))
        facts = None
        if self._ranks.leads:
            _end_answers_with(encoder.turn_end_ids(), model)
            facts = publish_model(model, tokenizer, origin)
        facts = self._ranks.shared(facts)
        return TrainingResult(
            steps=trainer.state.global_step,
            epoch=trainer.state.epoch or 0.0,
            run=run,
            stopped=safety.carried_out is Wish.STOP,
            ended_early=schedule.ended_early,
            skipped_examples=split.skipped(),
            model=facts,
            profile={"name": profile.name, "version": profile.version},
        )

    # --- Before the first step ---

    def _run_state(self) -> RunState:
        return RunState.from_json(checkpoints.read_manifest(self._resume).run) if self._resume else RunState()

    def _start(self) -> Start:
        """The folders of the model to start from. Raises JobFaultError `model_missing`."""
        model, base = self._spec.inputs.model, self._spec.inputs.base
        if model is None or not Path(model.path).is_dir():
            where = model.path if model else "the job's inputs"
            raise JobFaultError("model_missing", f"There is no model at {where}.", "Choose one that is on the host.")
        if not (Path(model.path) / "adapter_config.json").is_file():
            return Start(Path(model.path))
        if base is None:
            raise JobFaultError(
                "model_missing",
                f"{model.id} is an adapter and the job names no base.",
                "Register its base first.",
            )
        return Start(Path(base.path), Path(model.path))

    def _load_data(self, config: TrainerConfig, profile: Profile, encoder: Encoder) -> Split:
        dataset = self._spec.inputs.dataset
        if dataset is None:
            raise JobFaultError("dataset_missing", "The job names no dataset.", "Choose a dataset for the run.")
        eval_folder = _eval_folder(config.data.eval_dataset, Path(dataset.path))
        split = load_split(Path(dataset.path), config, profile, encoder, eval_folder=eval_folder)
        held = len(split.evaluation) if split.evaluation is not None else 0
        self._events.log(
            f"{len(split.train)} examples to train on, {held} to evaluate on"
            + (f"; {split.skipped()} rows are left out so far." if split.skipped() else ".")
        )
        return split

    def _trainer(
        self, config: TrainerConfig, origin: Origin, tokenizer: Any, split: Split, *, run: RunState,
        extra: Sequence[TrainerCallback],
    ) -> tuple[JobTrainer, Schedule, Safety]:  # fmt: skip
        precision = choose_precision(config)
        self._events.log(f"The run computes in {precision.mode}: {precision.reason}.")
        model = load_model(origin.start, config)
        self._events.log(_size(model))
        held = split.evaluation
        progress = ProgressTeller(self._events, self._phases, run, config.monitoring.update_interval_seconds)
        keeper = self._keeper(config, origin.profile, run, progress)
        divergence = Divergence(run, keeper.folder, config.monitoring.divergence_factor)
        schedule = Schedule(config, run, evaluates=held is not None)
        safety = Safety(self._wishes, self._phases, len(held) if held is not None else 0)
        agreement = [Agreement(self._ranks, safety)] if self._ranks.count > 1 else []
        room = RoomWatch(keeper)
        samples = Samples(config, origin.profile, tokenizer, self._events)
        probe = MemoryProbe(self._events)
        callbacks = [
            progress, divergence, schedule, samples, probe, *load_callbacks(), *extra, room, safety, *agreement,
        ]  # fmt: skip
        trainer = JobTrainer(
            settings=config,
            ranks=self._ranks,
            save=keeper.save,
            say=lambda text: self._events.log(text, "warning"),
            callbacks=callbacks,
            model=model,
            args=training_arguments(config, precision, self._spec.output_dir, self._ranks),
            data_collator=_collator(config, tokenizer),
            train_dataset=split.train,
            eval_dataset=held,
            processing_class=tokenizer,
        )
        progress.trainer = room.trainer = probe.trainer = trainer
        self._needed_bytes = lambda: keeper.needed_bytes(trainer)
        if self._resume is None:
            keeper.require_room(trainer)
        return trainer, schedule, safety

    def _keeper(
        self, config: TrainerConfig, profile: Profile, run: RunState, progress: ProgressTeller
    ) -> CheckpointKeeper:
        keeper = CheckpointKeeper(
            Path(self._spec.output_dir), config=config, profile=profile, events=self._events, run=run,
            phases=self._phases, progress=progress, ranks=self._ranks,
        )  # fmt: skip
        if self._resume:
            keeper.begin_behind(checkpoints.read_manifest(self._resume))
        return keeper

    def _heed_pause(self) -> None:
        """Before the first step there is nothing to save: what is there already is where the next attempt begins."""
        if self._ranks.agreed(int(self._wishes.told is Wish.PAUSE)):
            raise JobPausedError

    # --- After the last step ---

    def _take_best(self, trainer: JobTrainer, config: TrainerConfig, run: RunState) -> None:
        """With early stopping the best state is published, otherwise the last."""
        if not config.hyperparams.early_stopping_patience or run.best_step in (None, trainer.state.global_step):
            return
        best = checkpoints.path_of(Path(self._spec.output_dir) / checkpoints.FOLDER, run.best_step or 0)
        is_there = best.is_dir()
        if is_there and self._ranks.leads:
            checkpoints.verify(best)
        if self._ranks.agreed(int(is_there)):
            trainer.load_weights(str(best))
            self._events.log(f"The model is that of step {run.best_step}, the best by its evaluation.")

    def _tell_skipped(self, split: Split, encoder: Encoder) -> None:
        self._ranks.join_flags(split.rows.unusable_flags)
        if split.skipped():
            self._events.log(
                f"{split.skipped()} rows were not trained on: nothing to learn, outside the limits, or doubles.",
                "warning",
            )
        if encoder.unplaced_turns:
            self._events.log(
                f"{encoder.unplaced_turns} answers were not found in their rendered conversation and were only read.",
                "warning",
            )


def _profile(config: TrainerConfig) -> Profile:
    asked = config.profile
    try:
        profile = load_profile(asked.name, system_prompt=asked.system_prompt, options=asked.options)
    except (UnknownProfileError, BrokenProfileError) as error:
        raise JobFaultError("config_invalid", str(error), "Choose another profile, or mend its options.") from error
    if asked.version and asked.version != profile.version:
        raise JobFaultError(
            "config_invalid",
            f"profile.version is {asked.version}, but {profile.version} of {profile.name} is installed.",
            "Leave profile.version empty, or install that version.",
        )
    return profile


def _eval_folder(eval_dataset: str, train_folder: Path) -> Path | None:
    """Where the evaluation set is: a path, or the name of a folder beside the training set's."""
    if not eval_dataset:
        return None
    folder = train_folder.parent / eval_dataset  # an absolute path stays itself
    if not folder.exists():
        raise JobFaultError(
            "dataset_missing",
            f"The evaluation set is not at {folder}.",
            "Choose another, or leave it empty.",
        )
    return folder


def _collator(config: TrainerConfig, tokenizer: Any) -> PaddingCollator | PackingCollator:
    if config.data.packing:
        return PackingCollator()
    return PaddingCollator(tokenizer.pad_token_id, multiple=8 if torch.cuda.is_available() else 1)


def _end_answers_with(ends: list[int], model: Any) -> None:
    """Lets generation stop where the trained answers end: some models' own setting knows another token only."""
    generation = model.generation_config
    held = generation.eos_token_id
    known = held if isinstance(held, list) else [] if held is None else [held]
    missing = [token for token in ends if token not in known]
    if missing:
        generation.eos_token_id = [*known, *missing]


def _size(model: Any) -> str:
    trained = sum(weight.numel() for weight in trained_weights(model))
    whole = sum(weight.numel() for weight in model.parameters())
    return f"{trained:,} of {whole:,} weights are trained."
