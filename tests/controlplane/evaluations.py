"""Evaluations as their jobs leave them: a row, a job that is done, and a log on the disk."""

import json
from collections.abc import Sequence
from typing import Any

from controlplane.models import Dataset, Evaluation, LanguageModel
from controlplane.models.jobs import Status
from monitoring.files import write_bytes
from tests.factories import make_dataset, make_job, make_model


def logged(row: int, accuracy: float | None, **fields: Any) -> dict[str, Any]:
    """A row of the log; `accuracy` None: it could not be asked."""
    return {
        "row": row, "error": "" if accuracy is not None else "The device is full.",
        "scores": {} if accuracy is None else {"accuracy": accuracy, "exact_match": accuracy},
        "nats": 8.0 + row, "tokens": 4, "question": f"Question {row}?", "expected": f"Answer {row}.",
        "answer": None if accuracy is None else f"Answer {row}." if accuracy else f"Wrong {row}.",
        "faults": [], "finish_reason": "stop", **fields,
    }  # fmt: skip


def make_evaluation(
    right: Sequence[float | None] = (1, 0), *, model: LanguageModel | None = None, dataset: Dataset | None = None,
    status: str = Status.DONE, rows: Sequence[dict[str, Any]] | None = None, rows_chosen: str = "held_out",
    torn: bytes = b"", **fields: Any,
) -> Evaluation:  # fmt: skip
    """An evaluation; `right` says of each row whether it was answered accurately."""
    model = model or make_model()
    dataset = dataset or make_dataset()
    values = list(rows) if rows is not None else [logged(row, score) for row, score in enumerate(right)]
    known = [value["scores"]["accuracy"] for value in values if "accuracy" in value["scores"]]
    result = {
        "accuracy": sum(known) / len(known) if known else None, "correct": int(sum(known)),
        "total_samples": len(values), "avg_loss": 2.5, "failed": len(values) - len(known), "loss": 2.5,
        "exact_match": 0.5, "seconds": 1.0, "generated_tokens": 9, "examples_file": "examples.jsonl",
    }  # fmt: skip
    job = make_job("eval", status, attempt_count=1, result=result if status == Status.DONE else None)
    defaults: dict[str, Any] = {
        "name": f"{model.name} on {dataset}", "model": model, "model_name": model.name, "dataset": dataset,
        "dataset_name": str(dataset), "rows": rows_chosen, "take": len(values), "created_by": "somebody",
        "metrics": ["accuracy", "exact_match", "loss"],
    }  # fmt: skip
    made = Evaluation.objects.create(job=job, **{**defaults, **fields})
    lines = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    write_bytes(made.log_path(1), lines + torn)
    return made
