"""Writes a run's checkpoints and lets go of those that it may not keep. Runs in the training process."""

from pathlib import Path

from monitoring.attempt import JobFaultError
from monitoring.events import Checkpoint, CheckpointGone, EventWriter
from training import checkpoints
from training.callbacks.progress import PhaseTeller, ProgressTeller
from training.checkpoints import Manifest
from training.config.schema import TrainerConfig
from training.state import RunState
from training.trainer import JobTrainer


class CheckpointKeeper:
    """Saves when the trainer says so. `output_dir` is the run's folder; paths in events are relative to it."""

    def __init__(
        self, output_dir: Path, *, config: TrainerConfig, events: EventWriter, run: RunState,
        phases: PhaseTeller, progress: ProgressTeller,
    ) -> None:  # fmt: skip
        self.folder = output_dir / checkpoints.FOLDER
        self._output = config.output
        self._early_stopping = config.hyperparams.early_stopping_patience > 0
        self._events = events
        self._run = run
        self._phases = phases
        self._progress = progress
        self.last_step: int | None = None

    def save(self, trainer: JobTrainer) -> None:
        """Writes a checkpoint of this step, tells of it, and removes what is too much.

        Raises JobFaultError: `loss_not_finite` (such a state is not worth keeping), `disk_full`.
        """
        step = trainer.state.global_step
        if step == self.last_step:
            return
        if not trainer.loss_is_finite():
            raise JobFaultError(
                "loss_not_finite",
                f"The loss is no number at step {step}, so no checkpoint of it is kept.",
                "Lower hyperparams.learning_rate and resume from the last checkpoint.",
            )
        self._phases.enter("checkpointing")
        self._progress.take_counts()
        self._write(trainer, step)
        self.last_step = step
        self._let_go()
        self._phases.enter("active")

    def _write(self, trainer: JobTrainer, step: int) -> None:
        eval_loss = self._run.eval_loss if self._run.eval_step == step else None
        manifest = Manifest(step, trainer.state.epoch, self._run.loss, eval_loss, run=self._run.to_json())
        with checkpoints.writing(self.folder, step) as temporary:
            trainer.write_state(str(temporary))
            (temporary / "README.md").unlink(missing_ok=True)  # peft's card names paths of this host
            path, manifest, digest = checkpoints.publish(temporary, self.folder, manifest)
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

    def _let_go(self) -> None:
        """Removes what retention doesn't keep."""
        scores: dict[int, float | None] = {}
        for step in checkpoints.steps(self.folder):
            try:
                manifest = checkpoints.read_manifest(checkpoints.path_of(self.folder, step))
            except checkpoints.DamagedCheckpointError:
                continue
            measured = self._output.metric_for_best_model == "eval_loss" and self._run.eval_step is not None
            scores[step] = manifest.eval_loss if measured else manifest.loss
        best = [self._run.best_step] if self._early_stopping and self._run.best_step is not None else []
        limit, keep_best = self._output.save_total_limit, self._output.keep_best
        self.remove(checkpoints.surplus(scores, limit=limit, keep_best=keep_best, protected=best))

    def remove(self, steps: list[int]) -> None:
        """Takes checkpoints away and tells of it."""
        for step in steps:
            checkpoints.remove(checkpoints.path_of(self.folder, step))
            self._events.emit(CheckpointGone(step=step))
