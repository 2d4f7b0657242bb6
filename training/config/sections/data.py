"""Which examples are trained on, and how they are put together: the section `data`. Runs in every process."""

from typing import Annotated

from pydantic.dataclasses import dataclass

from training.config.sections.about import SETTINGS, about


@dataclass(frozen=True, config=SETTINGS)
class Data:
    """Which examples are trained on, which are held out for evaluation, and in which order."""

    train_dataset: Annotated[str, about("The id of the dataset to train on.")] = ""
    eval_dataset: Annotated[
        str,
        about("The id of a dataset to evaluate on. Empty: a share of the training set is held out.", advanced=True),
    ] = ""
    eval_fraction: Annotated[
        float,
        about(
            "The share of the dataset that is held out for evaluation. 0: no evaluation.",
            title="Held out for evaluation",
            ge=0,
            le=0.5,
        ),
    ] = 0.05
    shuffle: Annotated[
        bool, about("Takes the examples in another order in each epoch (by the seed).", advanced=True)
    ] = True
    length_grouping: Annotated[
        bool,
        about("Puts examples of like length into one batch, so that less is computed for padding.", advanced=True),
    ] = True
    packing: Annotated[
        bool,
        about(
            "Joins the examples of a batch into one row without padding; they stay apart by their positions. "
            "Faster on GPUs with flash attention when lengths differ much.",
            advanced=True,
        ),
    ] = False
    min_tokens: Annotated[
        int, about("Shorter examples are left out.", unit="tokens", advanced=True, ge=1, le=1_048_576)
    ] = 1
    max_tokens: Annotated[
        int,
        about(
            "Longer examples are left out. 0: none is; what exceeds the longest example is cut off.",
            unit="tokens",
            advanced=True,
            ge=0,
            le=1_048_576,
        ),
    ] = 0
    drop_duplicates: Annotated[bool, about("Leaves out rows that are equal to an earlier one.", advanced=True)] = False
    max_examples: Annotated[
        int,
        about(
            "Trains on at most so many examples, picked by the seed. 0: all.",
            unit="examples",
            advanced=True,
            ge=0,
            le=1_000_000_000,
        ),
    ] = 0
    workers: Annotated[
        int,
        about(
            "Processes that prepare batches ahead. 0: the run does it itself; raise it when the GPU waits.",
            unit="processes",
            advanced=True,
            ge=0,
            le=64,
        ),
    ] = 0
