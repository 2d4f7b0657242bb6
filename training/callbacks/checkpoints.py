"""Writes a run's checkpoints, lets go of those that it may not keep, and ends a run before its disk is full.

Runs in the training process.
"""

import shutil
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitoring.events import Checkpoint, CheckpointGone, EventWriter
from training import checkpoints
from training.callbacks.divergence import require_finite
from training.callbacks.progress import PhaseTeller, ProgressTeller
from training.checkpoints import Manifest
from training.config.schema import TrainerConfig
from training.distributed.ranks import Ranks
from training.estimate.memory import OPTIMIZER_BYTES
from training.models import trained_weights
from training.profiles.base import Profile
from training.state import RunState
from training.trainer import JobTrainer

LOOK_AT_DISK_SECONDS = 5.0


class CheckpointKeeper:
    """Saves when the trainer says so. `output_dir` is the run's folder; paths in events are relative to it."""

    def __init__(
        self, output_dir: Path, *, config: TrainerConfig, profile: Profile, events: EventWriter, run: RunState,
        phases: PhaseTeller, progress: ProgressTeller, ranks: Ranks,
    ) -> None:  # fmt: skip
        self._ranks = ranks
        self.folder = output_dir / checkpoints.FOLDER
        self._output = config.output
        self._profile = {"name": profile.name, "version": profile.version}
        self._moment_bytes = OPTIMIZER_BYTES[config.hyperparams.optim]
        self._early_stopping = config.hyperparams.early_stopping_patience > 0
        self._events = events
        self._run = run
        self._phases = phases
        self._progress = progress
        self.last_step: int | None = None
        self._last_bytes: int | None = None

    def begin_behind(self, manifest: Manifest) -> None:
        """The run goes on from this checkpoint: it isn't written once more, and says how large the next one is."""
        self.last_step, self._last_bytes = manifest.step, manifest.size_bytes

    def save(self, trainer: JobTrainer) -> None:
        """Writes a checkpoint of this step, tells of it, and removes what is too much.

        Raises JobFaultError: `loss_not_finite` (such a state is not worth keeping), `disk_full` (also when it was
        still written, but what must stay free is taken up by now).
        """
        step = trainer.state.global_step
        if step == self.last_step:
            return
        require_finite(trainer, self.folder, self._run)
        self._phases.enter("checkpointing")
        self._progress.take_counts()
        if not self._ranks.leads:
            self._take_part(trainer, step)
            return
        if is_short := self.is_short_of_room(trainer):
            self._let_go(coming=step)
            is_short = self.is_short_of_room(trainer)
        writes = not is_short or self._free_bytes() - self._size_bytes(trainer) > checkpoints.SPARE_BYTES
        self._ranks.agreed(int(writes))
        if writes:
            self._write(trainer, step)
            self.last_step = step
            self._let_go()
        if is_short:
            raise checkpoints.no_room(self.folder, self.needed_bytes(trainer))
        self._phases.enter("active")

    def _take_part(self, trainer: JobTrainer, step: int) -> None:
        """What the ranks do that don't lead: hand over their part of the state, where the first one writes."""
        if self._ranks.agreed(0):
            trainer.write_state(str(checkpoints.unfinished(self.folder, step)))
            self.last_step = step

    # --- Room on the disk ---

    def is_short_of_room(self, trainer: JobTrainer) -> bool:
        """Whether a further checkpoint would take from the disk what must stay free."""
        return self._free_bytes() < self.needed_bytes(trainer)

    def require_room(self, trainer: JobTrainer) -> None:
        """Before the first step: raises JobFaultError `disk_full` where not even one checkpoint has room."""
        if self.is_short_of_room(trainer):
            raise checkpoints.no_room(self.folder, self.needed_bytes(trainer))

    def _free_bytes(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.folder).free

    def needed_bytes(self, trainer: JobTrainer) -> int:
        """What must be free for the next checkpoint: its size, and what stays free."""
        return self._size_bytes(trainer) + int(self._output.min_free_gib * (1 << 30))

    def _size_bytes(self, trainer: JobTrainer) -> int:
        """What a checkpoint takes: as much as the last one; before that what weights and optimizer will come to."""
        if self._last_bytes is None:
            trained = trained_weights(trainer.model)
            saved = trained if hasattr(trainer.model, "peft_config") else list(trainer.model.parameters())
            weights = sum(weight.numel() * weight.element_size() for weight in saved)
            self._last_bytes = weights + int(self._moment_bytes * sum(weight.numel() for weight in trained))
        return self._last_bytes

    # --- Writing and letting go ---

    def _write(self, trainer: JobTrainer, step: int) -> None:
        eval_loss = self._run.eval_loss if self._run.eval_step == step else None
        manifest = Manifest(
            step, trainer.state.epoch, self._run.loss, eval_loss, run=self._run.to_json(), profile=self._profile
        )
        with checkpoints.writing(self.folder, step, self.needed_bytes(trainer)) as temporary:
            trainer.write_state(str(temporary))
            (temporary / "README.md").unlink(missing_ok=True)  # peft's card names paths of this host
            path, manifest, digest = checkpoints.publish(temporary, self.folder, manifest)
        self._last_bytes = manifest.size_bytes
        self._events.emit(
            Checkpoint(
                step=step,
                path=str(path.relative_to(self.folder.parent)),
                bytes=manifest.size_bytes,
                loss=manifest.loss,
                eval_loss=eval_loss,
                manifest_sha256=digest,
            )
        )

    def _let_go(self, coming: int | None = None) -> None:
        """Removes what retention doesn't keep; with `coming` what it won't once that step's checkpoint is there."""
        if not self._output.save_total_limit:
            return  # all are kept
        measured = self._output.metric_for_best_model == "eval_loss" and self._run.eval_step is not None
        scores: dict[int, float | None] = {}
        for step in checkpoints.steps(self.folder):
            try:
                manifest = checkpoints.read_manifest(checkpoints.path_of(self.folder, step))
            except checkpoints.DamagedCheckpointError:
                continue
            scores[step] = manifest.eval_loss if measured else manifest.loss
        protected = [self._run.best_step] if self._early_stopping and self._run.best_step is not None else []
        if self._run.suspect_since is not None:
            protected += [step for step in sorted(scores) if self._run.is_good(step)][-1:]
        if coming is not None:
            protected += [max(scores)] if scores else []  # until the next one is whole, it is the last
            scores[coming] = None
        gone = checkpoints.surplus(
            scores, limit=self._output.save_total_limit, keep_best=self._output.keep_best, protected=protected,
            for_good=[step for step in scores if self._is_for_good(step)],
        )  # fmt: skip
        self.remove([step for step in gone if step != coming])

    def _is_for_good(self, step: int) -> bool:
        every = self._output.keep_every_steps
        return bool(every and step % every == 0) or checkpoints.is_kept(checkpoints.path_of(self.folder, step))

    def remove(self, steps: list[int]) -> None:
        """Takes checkpoints away and tells of it."""
        for step in steps:
            if checkpoints.release(checkpoints.path_of(self.folder, step)):
                self._events.emit(CheckpointGone(step=step))


class RoomWatch(TrainerCallback):  # type: ignore[misc]
    """Looks at the disk every few seconds: when room runs short the run saves at this step, and so ends.

    What else fills the disk does so between two checkpoints as well; while a checkpoint still fits, no step is lost.
    """

    def __init__(self, keeper: CheckpointKeeper) -> None:
        self._keeper = keeper
        self._looked_at = time.monotonic()
        self.trainer: JobTrainer | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Asks for a checkpoint where there won't be room for one later."""
        if self.trainer is None or time.monotonic() - self._looked_at < LOOK_AT_DISK_SECONDS:
            return
        self._looked_at = time.monotonic()
        if self._keeper.is_short_of_room(self.trainer):
            control.should_log = control.should_save = True
