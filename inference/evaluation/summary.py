"""All rows of an evaluation as the figures of its result. Runs in the inference process of `evaluate`."""

import math
from collections.abc import Iterable
from typing import Any

from inference.evaluation.options import EvaluationOptions
from inference.evaluation.scores import corpus_bleu


def summary(logged: Iterable[dict[str, Any]], options: EvaluationOptions) -> dict[str, Any]:
    """`total_samples`, `correct`, `accuracy`, `avg_loss`, `failed`, and one entry for each metric that was asked for.

    A figure is the mean over the rows that have it; None: no row has. `avg_loss` is in nats a token.
    """
    total = failed = tokens = 0
    nats = 0.0
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    bleu_counts: list[int] = []
    for value in logged:
        total += 1
        failed += bool(value["error"])
        tokens += value["tokens"] or 0
        nats += value["nats"] or 0.0
        for name, score in value["scores"].items():
            sums[name] = sums.get(name, 0.0) + score
            counts[name] = counts.get(name, 0) + 1
        if row := value.get("bleu_counts"):
            bleu_counts = [a + b for a, b in zip(bleu_counts or [0] * len(row), row, strict=True)]
    means = {name: sums[name] / counts[name] for name in sums}
    loss = nats / tokens if tokens else None
    figures: dict[str, Any] = {name: means.get(name) for name in options.metrics}
    figures |= {"loss": loss} if "loss" in options.metrics else {}
    figures |= {"perplexity": _perplexity(loss)} if "perplexity" in options.metrics else {}
    if bleu_counts:
        figures["corpus_bleu"] = corpus_bleu(bleu_counts)
    return {
        **figures,
        "accuracy": means.get("accuracy"),
        "correct": round(sums["accuracy"]) if "accuracy" in sums else None,
        "total_samples": total,
        "avg_loss": loss,
        "failed": failed,
    }


def _perplexity(loss: float | None) -> float | None:
    """None also where it is beyond what a float holds."""
    try:
        return math.exp(loss) if loss is not None else None
    except OverflowError:
        return None
