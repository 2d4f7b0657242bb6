"""What is measured and sampled while a run trains: the section `monitoring`. Runs in every process."""

from typing import Annotated

from pydantic.dataclasses import dataclass

from training.config.sections.about import SETTINGS, about


@dataclass(frozen=True, config=SETTINGS)
class Monitoring:
    """What is measured during the run, and how often."""

    logging_steps: Annotated[
        int,
        about("A point on the loss curve every so many steps.", title="Log every", unit="steps", ge=1, le=1_000_000),
    ] = 1
    eval_steps: Annotated[
        int,
        about(
            "Evaluates every so many steps. 0: at the end of each epoch.",
            title="Evaluate every",
            unit="steps",
            ge=0,
            le=100_000_000,
        ),
    ] = 0
    eval_samples: Annotated[
        int,
        about(
            "At most so many examples are used in each evaluation. 0: all of the evaluation set.",
            unit="examples",
            advanced=True,
            ge=0,
            le=100_000_000,
        ),
    ] = 200
    evaluate_checkpoints: Annotated[
        bool,
        about("Has the model of each checkpoint answer the rows held out, in a job of its own: accuracy and loss."),
    ] = False
    sample_steps: Annotated[
        int,
        about(
            "Lets the model answer the sample prompts every so many steps. 0: never.",
            title="Sample every",
            unit="steps",
            advanced=True,
            ge=0,
            le=100_000_000,
        ),
    ] = 0
    sample_prompts: Annotated[
        tuple[str, ...], about("What the model is asked for samples during the run.", advanced=True)
    ] = ()
    divergence_factor: Annotated[
        float,
        about(
            "Ends the run when the smoothed loss stays above this many times its best, and above where it began. "
            "0: never.",
            title="Diverged above",
            unit="times the best loss",
            advanced=True,
            ge=0,
            le=1_000_000,
        ),
    ] = 3.0
    update_interval_seconds: Annotated[
        float,
        about("The progress bar moves at most this often.", unit="seconds", advanced=True, ge=0, le=3600),
    ] = 0.25
    stuck_timeout_seconds: Annotated[
        float,
        about(
            "A run without a step for this long is reported as stuck.", unit="seconds", advanced=True, gt=0, le=604_800
        ),
    ] = 900.0
