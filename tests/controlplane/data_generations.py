"""Generations of data as their jobs leave them: a row, a job, and whole shards on the disk."""

import hashlib
import json
from typing import Any

from controlplane.models import DataGeneration
from controlplane.models.jobs import Status
from controlplane.services.data_generation import DEFAULTS
from monitoring.files import write_bytes
from tests.factories import make_dataset, make_job, make_model


def turns(number: int, answer: str = "") -> list[dict[str, str]]:
    """A conversation that no other number has."""
    said = answer or f"Answer {number}."
    return [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": said}]


def line(messages: Any, seed_row: int | None = None) -> bytes:
    """A line of a shard."""
    return json.dumps({"messages": messages, "seed_row": seed_row}, ensure_ascii=False).encode() + b"\n"


def write_shard(row: DataGeneration, number: int, lines: list[bytes]) -> dict[str, Any]:
    """Writes a shard as a job does, and returns what its result tells of it."""
    name, data = f"shard-{number:05d}.jsonl", b"".join(lines)
    write_bytes(row.folder / name, data)
    return {"file": name, "rows": len(lines), "sha256": hashlib.sha256(data).hexdigest()}


def make_generation(
    *shards: list[bytes], status: str = Status.DONE, strategy: str = "answer", options: dict[str, Any] | None = None,
    **fields: Any,
) -> DataGeneration:  # fmt: skip
    """A generation whose job is in that state and has left these shards; nobody has read them yet."""
    if strategy != "regime3":
        fields = {"model": make_model(), "seeds": make_dataset(), **fields}
        fields = {"model_name": fields["model"].name, "seeds_name": str(fields["seeds"]), **fields}
    job = make_job("data_gen", status, attempt_count=1)
    defaults: dict[str, Any] = {"name": "more", "created_by": "somebody"}
    row = DataGeneration.objects.create(
        job=job, strategy=strategy, options={**DEFAULTS, **(options or {})}, **{**defaults, **fields}
    )
    told = [write_shard(row, number, lines) for number, lines in enumerate(shards, start=1)]
    if status == Status.DONE:
        examples = sum(shard["rows"] for shard in told)
        dropped = {"check": 0, "duplicate": 3, "similar": 0, "failed": 0, "unreadable": 0}
        job.result = {
            "examples": examples, "shards": told, "dropped": dropped, "generated_tokens": 900, "seconds": 2.5,
        }  # fmt: skip
        job.save()
    return row


def some_rows(count: int = 3, first: int = 1) -> list[bytes]:
    """Lines of a shard, from seed row 0 on."""
    return [line(turns(number), number - first) for number in range(first, first + count)]
