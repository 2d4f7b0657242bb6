"""The rows of a generation: read from its job's shards, looked at, accepted, edited, rejected. Runs in the web process.

A shard is read when it is whole, so reading it again finds the same rows; a row that is known stays as it is.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import DataGeneration, GeneratedExample
from controlplane.models.access import Actor, Role
from controlplane.models.generated import ReviewState
from controlplane.services import config_faults, data_generation
from controlplane.services.access import audit
from monitoring.files import sha256_of
from training.data.rows import iter_lines
from training.data.specs import (
    FAULT_CODES,
    ChatExample,
    Example,
    Message,
    RowFaultError,
    check_encodable,
    check_no_nul,
    is_chat,
    parse_row,
)
from training.profiles.base import Profile, faults_of

SHARD_ROWS = 500
"""How many rows a shard has; the last one may have fewer."""

PAGE_LIMIT = 200
PLAIN = "plain"


class Generated(NamedTuple):
    """A row of a shard: its number within the whole set, from 1, and the row of the seeds that it came from."""

    number: int
    messages: list[Message]
    seed_row: int | None


# --- From the shards --------------------------------------------------------------------------------------------------


def generated(row: DataGeneration, path: Path) -> Iterator[Generated]:
    """The rows of a shard. Raises ConflictError for one that isn't what the job has written."""
    told = {shard["file"]: shard["sha256"] for shard in data_generation.shards(row)}
    if (sha256 := told.get(path.name)) and sha256_of(path) != sha256:
        raise ConflictError(f"{path.name} of generation {row.pk} isn't as its job wrote it: generate the data anew.")
    before = SHARD_ROWS * (int(path.stem.rpartition("-")[2]) - 1)
    with path.open("rb") as stream:
        for line in iter_lines(stream):
            try:
                value = json.loads(line.data or b"")
                example = _row(value)
                if line.number > SHARD_ROWS or not is_chat(example):
                    raise ValueError
            except ValueError:
                raise ConflictError(
                    f"Line {line.number} of {path.name} of generation {row.pk} is no row: generate the data anew."
                ) from None
            yield Generated(before + line.number, example["messages"], _seed_row(value.get("seed_row")))


def _row(value: object) -> Example:
    """The row that a value is. Raises RowFaultError, also for text that the data base can't hold."""
    example = parse_row(value).example
    check_encodable(example)
    check_no_nul(example)
    return example


def _seed_row(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def take_in(row: DataGeneration) -> None:
    """Makes rows of the shards that aren't yet."""
    known = row.shards_read
    for number, path in enumerate(data_generation.shard_files(row)[known:], start=known + 1):
        made = [
            GeneratedExample(generation=row, number=one.number, messages=one.messages, seed_row=one.seed_row)
            for one in generated(row, path)
        ]
        with transaction.atomic():
            GeneratedExample.objects.bulk_create(made, ignore_conflicts=True)
            DataGeneration.objects.filter(pk=row.pk).update(shards_read=number)
            tell(row, {"shards": number})


def tell(row: DataGeneration, what: dict[str, Any]) -> None:
    """Says on the queue's topic what became of a generation's rows. Inside a transaction."""
    publish("jobs", "generated", {"id": row.job_id, "generation": row.pk, **what})


# --- Looked at --------------------------------------------------------------------------------------------------------


def page(row: DataGeneration, *, state: str = "", after: int = 0, limit: int = 50) -> dict[str, Any]:
    """{"total", "counts", "rows"}: rows of a state ("" for any) behind the number `after`, in order."""
    if state and state not in ReviewState.values:
        raise InvalidInputError(f"There is no state {state!r}: choose {', '.join(ReviewState.values)}.")
    if after < 0 or not 1 <= limit <= PAGE_LIMIT:
        raise InvalidInputError(f"after must be 0 or more, limit between 1 and {PAGE_LIMIT}.")
    found = row.examples.order_by("number").filter(number__gt=min(after, 2**31))
    found = found.filter(state=state) if state else found
    counts = data_generation.counts(row)[row.pk]
    total = counts[state] if state else sum(counts[name] for name in ReviewState.values)
    rows = [facts(one) for one in found[:limit]]
    return {"total": total if row.made_at is None else 0, "counts": counts, "rows": rows}


def facts(example: GeneratedExample) -> dict[str, Any]:
    """A row as the API answers it."""
    return {
        "number": example.number, "state": example.state, "messages": example.messages, "original": example.original,
        "seed_row": example.seed_row, "edited_by": example.edited_by, "decided_by": example.decided_by,
        "decided_at": example.decided_at.isoformat() if example.decided_at else None,
    }  # fmt: skip


def faults(row: DataGeneration, messages: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What is wrong with a row that is being edited: [{"code", "message"}], by its shape, else by the profile."""
    try:
        example = _row({"messages": list(messages)})
    except RowFaultError as error:
        return [{"code": error.code, "message": error.message}]
    return _profile_faults(row, example) if is_chat(example) else []


def _profile_faults(row: DataGeneration, example: ChatExample) -> list[dict[str, str]]:
    profile = _profile(row)
    try:
        found = faults_of(profile, example)
    except Exception as error:  # a profile is another's code: whatever it raises is told
        raise ConflictError(f"The profile {profile.name} can't check this row: {error}") from error
    return [{"code": fault.code, "message": fault.message} for fault in found]


def _profile(row: DataGeneration) -> Profile:
    return config_faults.profile_of(
        row.profile.get("name") or PLAIN, system_prompt=row.profile.get("system_prompt", ""),
        options=row.profile.get("options"),
    )  # fmt: skip


# --- Decided ----------------------------------------------------------------------------------------------------------


def decide(
    actor: Actor, row: DataGeneration, number: int, *, state: str = "", messages: list[dict[str, Any]] | None = None
) -> GeneratedExample:
    """Puts a row into a state, with other words where `messages` are given; either may be left out.

    What another has decided meanwhile stays where this says nothing of it. Raises InvalidInputError for a row with a
    fault: one that no dataset takes, or, where the generation keeps only what passes the profile's check, one that
    doesn't (the row as it was generated is always taken back); ConflictError once its dataset is made or being made.
    """
    actor.require(Role.USE)
    if state and state not in ReviewState.values:
        raise InvalidInputError(f"There is no state {state!r}: choose {', '.join(ReviewState.values)}.")
    _require_open(row)
    if messages is not None:
        _check_edit(row, _example(row, number), messages)
    with transaction.atomic():
        _hold(row)
        example = _example(row, number)
        changed = _edit(actor, example, messages) if messages is not None and messages != example.messages else {}
        if state:
            is_decided = state != ReviewState.PENDING
            changed |= {"state": state, "decided_by": actor.name if is_decided else ""}
            changed["decided_at"] = timezone.now() if is_decided else None
        row.examples.filter(pk=example.pk).update(**changed)
        example.refresh_from_db()
    return example


def _example(row: DataGeneration, number: int) -> GeneratedExample:
    example = row.examples.filter(number=min(number, 2**31)).first()
    if example is None:
        raise NotFoundError(f"Generation {row.pk} has no row {number}.")
    return example


def _check_edit(row: DataGeneration, example: GeneratedExample, messages: list[dict[str, Any]]) -> None:
    """The profile's check takes its time, so it is done before the transaction."""
    if messages in (example.messages, example.original):
        return
    found = faults(row, messages)
    if found and not may_be_kept(row, found):
        sentence = f"Row {example.number} can't be saved: {found[0]['message']}"
        raise InvalidInputError(sentence, tuple(FieldFault("messages", fault["message"]) for fault in found))


def _edit(actor: Actor, example: GeneratedExample, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What an edit changes of a row."""
    before = example.original if example.original is not None else example.messages
    if messages == before:
        return {"messages": before, "original": None, "edited_by": ""}
    return {"messages": messages, "original": before, "edited_by": actor.name}


def may_be_kept(row: DataGeneration, found: list[dict[str, str]]) -> bool:
    """Whether a row with these faults may be saved: the profile's own may, where the generation doesn't check."""
    return not found or (not row.options["check"] and not {fault["code"] for fault in found} & set(FAULT_CODES))


def accept_pending(actor: Actor, row: DataGeneration) -> int:
    """Accepts every row that nobody has decided about; returns how many."""
    actor.require(Role.USE)
    with transaction.atomic():
        _hold(row)
        pending = row.examples.filter(state=ReviewState.PENDING)
        number = pending.update(state=ReviewState.ACCEPTED, decided_by=actor.name, decided_at=timezone.now())
        audit(actor, "data_generation.accept_pending", row.name, rows=number)
        tell(row, {"accepted": number})
    return number


def _hold(row: DataGeneration) -> None:
    """Nobody makes a dataset of it or deletes it until the transaction ends. Raises ConflictError, NotFoundError."""
    now = DataGeneration.objects.select_for_update().filter(pk=row.pk).first()
    if now is None:
        raise data_generation.missing(row.pk)
    _require_open(now)


def _require_open(row: DataGeneration) -> None:
    if row.made_at is not None:
        raise ConflictError(f"Generation {row.pk} has become a dataset: edit a copy of that, or generate anew.")
    if row.making_since is not None:
        raise ConflictError(f"The dataset of generation {row.pk} is being made: its rows can't be changed any more.")
