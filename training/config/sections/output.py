"""Checkpoints, and what a run leaves behind: the section `output`. Runs in every process."""

from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from training.config.sections.about import SETTINGS, about


@dataclass(frozen=True, config=SETTINGS)
class Output:
    """What the run leaves behind."""

    output_dir: Annotated[
        str,
        about("Where checkpoints go: the run's own folder. Filled in when the run starts.", advanced=True),
    ] = ""
    save_steps: Annotated[
        int,
        about(
            "Writes a checkpoint every so many steps. 0: at the end of each epoch.",
            title="Checkpoint every",
            unit="steps",
            ge=0,
            le=100_000_000,
        ),
    ] = 0
    save_total_limit: Annotated[
        int,
        about(
            "Older checkpoints beyond this number are removed; the last and the best never are. 0: all are kept.",
            title="Checkpoints kept",
            unit="checkpoints",
            advanced=True,
            ge=0,
            le=10_000,
        ),
    ] = 3
    keep_best: Annotated[
        int,
        about(
            "So many of the best checkpoints are kept beside the last ones.",
            unit="checkpoints",
            advanced=True,
            ge=0,
            le=10_000,
        ),
    ] = 1
    keep_every_steps: Annotated[
        int,
        about(
            "The checkpoints of every so many steps are kept for good, beside the others. 0: none is.",
            title="Kept for good every",
            unit="steps",
            advanced=True,
            ge=0,
            le=100_000_000,
        ),
    ] = 0
    min_free_gib: Annotated[
        float,
        about(
            "A run pauses when a further checkpoint would leave less of the disk free.",
            title="Stays free on the disk",
            unit="GiB",
            advanced=True,
            ge=0,
            le=1_000_000,
        ),
    ] = 1.0
    metric_for_best_model: Annotated[
        Literal["eval_loss", "loss"],
        about("Which figure decides what is best; lower is better.", title="Best by", advanced=True),
    ] = "eval_loss"
    merge_adapter: Annotated[
        bool,
        about("Publishes a LoRA run as a whole model; off: as an adapter that needs its base.", advanced=True),
    ] = True
    register_as: Annotated[
        str,
        about(
            "The id under which the finished model is listed; where a run has made one of that id, it becomes the next "
            "version of it. Empty: made from the run's name.",
            title="Model id",
        ),
    ] = ""
