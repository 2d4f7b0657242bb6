"""The settings of an evaluation: the part `evaluation` of its spec's `config`, read and checked.

Runs in the inference process of the verb `evaluate`.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import regex

from monitoring.attempt import JobFaultError

SECTION = "evaluation"
ANSWER_METRICS = ("accuracy", "exact_match", "contains", "regex", "rouge_l", "bleu", "profile_check")
"""What is measured on answers; each is a figure from 0 to 1 a row."""

LOSS_METRICS = ("loss", "perplexity")
METRICS = (*ANSWER_METRICS, *LOSS_METRICS)


@dataclass(frozen=True)
class EvaluationOptions:
    """`take` 0: every row, else so many of them in the order of `seed`, which is that of a training run.

    `pattern` is what the metric `regex` looks for. `max_tokens` limits an answer. Without `keep_texts` the log holds
    scores alone.
    """

    metrics: tuple[str, ...] = ("accuracy", "loss")
    take: int = 0
    seed: int = 42
    max_tokens: int = 256
    pattern: str = ""
    keep_texts: bool = True

    @property
    def wants_answers(self) -> bool:
        """Whether anything has to be generated."""
        return any(metric in ANSWER_METRICS for metric in self.metrics)

    @property
    def wants_loss(self) -> bool:
        """Whether losses are asked for; they are measured in any case."""
        return any(metric in LOSS_METRICS for metric in self.metrics)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Reads the section. Raises JobFaultError `bad_setting`."""
        given = dict(config.get(SECTION, {}))
        known = {field.name for field in dataclasses.fields(cls)}
        for name in sorted(set(given) - known):
            raise _refused(f"evaluation has no setting {name!r}.", f"Known: {', '.join(sorted(known))}.")
        options = cls(**{**given, "metrics": tuple(given.get("metrics", cls.metrics))})
        unknown = [metric for metric in options.metrics if metric not in METRICS]
        if unknown or not options.metrics:
            raise _refused(f"There is no metric {(unknown or [''])[0]!r}.", f"Choose from {', '.join(METRICS)}.")
        if options.take < 0 or options.max_tokens < 1:
            raise _refused("take and max_tokens must be at least 0 and 1.", "Give larger figures.")
        if "regex" in options.metrics:
            options.compiled()
        return options

    def compiled(self) -> Any:
        """The pattern of the metric `regex`. Raises JobFaultError."""
        if not self.pattern:
            raise _refused("The metric regex needs a pattern.", "Give one, or leave the metric out.")
        try:
            return regex.compile(self.pattern)
        except regex.error as error:
            raise _refused(f"The pattern {self.pattern!r} is no regular expression: {error}.", "Mend it.") from error


def _refused(message: str, fix: str) -> JobFaultError:
    return JobFaultError("bad_setting", message, fix)
