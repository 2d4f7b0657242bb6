"""Exchanges that people collect from conversations, set by set, and the datasets that become of them. Web process.

A set is a name and its rows, and belongs to who collects it. Making a dataset leaves it as it is: more rows make the
next version.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.db import IntegrityError, transaction
from django.db.models import Count, Max

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError
from controlplane.models import CollectedExample, Dataset
from controlplane.models.access import Actor, Role
from controlplane.models.conversations import Speaker
from controlplane.services import blindness, conversation_turns, conversations, dataset_intake
from controlplane.services.access import audit
from controlplane.services.lineage import LONGEST_NAME, Lineage

GENERATOR = "pilothouse chat"
MOST_LISTED = 500
FILENAME = "collected.jsonl"


# --- Looking ----------------------------------------------------------------------------------------------------------


def list_sets(actor: Actor) -> list[dict[str, Any]]:
    """The actor's sets with the number of their rows, the last used first."""
    own = CollectedExample.objects.filter(owner=actor.owner)
    found = own.values("set_name").annotate(rows=Count("id"), last=Max("created_at")).order_by("-last")
    return [{"name": row["set_name"], "rows": row["rows"], "last_at": row["last"].isoformat()} for row in found]


def rows_of(actor: Actor, set_name: str, offset: int = 0, limit: int = 100) -> list[CollectedExample]:
    """The rows of a set of the actor's, the first one first. Raises NotFoundError for a set without any."""
    own = CollectedExample.objects.filter(owner=actor.owner, set_name=set_name).select_related("turn", "dataset")
    if not own.exists():
        raise NotFoundError(f"You have collected no set {set_name!r}. GET /api/collected lists yours.")
    return list(own[max(0, offset) : max(0, offset) + max(1, min(limit, MOST_LISTED))])


def hidden(rows: Iterable[CollectedExample]) -> set[int]:
    """The ids of the turns of these rows that are blind answers: their models' names wait for a vote."""
    return blindness.hidden(row.turn for row in rows if row.turn is not None)


def facts(row: CollectedExample, *, is_hidden: bool = False) -> dict[str, Any]:
    """A row as the API tells it; `is_hidden`: the model's name waits for a vote."""
    return {
        "id": row.pk, "set": row.set_name, "messages": row.messages,
        "model": None if is_hidden else row.model_name, "turn": row.turn_id,
        "dataset_id": row.dataset_id, "created_at": row.created_at.isoformat(),
    }  # fmt: skip


# --- Collecting -------------------------------------------------------------------------------------------------------


def collect(
    actor: Actor, conversation_id: int, answer: int, set_name: str, *, with_system: bool = True
) -> CollectedExample:
    """Puts an answer with all that was said before it into a set, with the system prompt where it had one.

    Raises NotFoundError, InvalidInputError, ConflictError where the set has it.
    """
    actor.require(Role.USE)
    conversation = conversations.get(actor, conversation_id)
    turn = conversation_turns.turn_of(conversation, answer, Speaker.ASSISTANT, "answer")
    if turn.is_being_written or turn.parent is None:
        raise InvalidInputError("The answer is still being written. Collect it when it is there.")
    if not turn.content.strip():
        raise InvalidInputError(
            "The answer holds nothing but white space, which no dataset takes. Collect another one."
        )
    name = dataset_intake.check_name(set_name)
    turns = [*conversation_turns.history(turn.parent, turn.side), turn]
    system = str(turn.asked.get("system", "")) if with_system else ""
    try:
        with transaction.atomic():
            row = CollectedExample.objects.create(
                set_name=name, messages=conversation_turns.messages(turns, system), model_name=turn.model_name,
                turn=turn, owner=actor.owner, created_by=actor.name,
            )  # fmt: skip
            audit(actor, "collected.add", row)
    except IntegrityError:
        raise ConflictError(f"The set {name} holds this answer. Take it out there to collect it anew.") from None
    return row


def remove(actor: Actor, row_id: int) -> str:
    """Takes a row out of its set; returns the set's name. Raises NotFoundError."""
    actor.require(Role.USE)
    row = CollectedExample.objects.filter(pk=row_id, owner=actor.owner).first()
    if row is None:
        raise NotFoundError(f"You have collected no row {row_id}. GET /api/collected lists your sets.")
    with transaction.atomic():
        audit(actor, "collected.remove", row)
        row.delete()
    return row.set_name


# --- Making a dataset -------------------------------------------------------------------------------------------------


def make_dataset(actor: Actor, set_name: str, name: str = "", eval_fraction: float = 0.05) -> tuple[Dataset, bool]:
    """Makes a dataset of a set's rows, called as the set where no name is given, and has it checked like any other.

    Returns the dataset that has these very rows already, and False, where there is one. The dataset names the models:
    blind answers among the rows aren't blind any more. Raises NotFoundError, InvalidInputError.
    """
    actor.require(Role.USE)
    rows = list(CollectedExample.objects.filter(owner=actor.owner, set_name=set_name).select_related("turn"))
    if not rows:
        raise NotFoundError(f"You have collected no set {set_name!r}. GET /api/collected lists yours.")
    called = dataset_intake.check_name(name or set_name)
    fraction = dataset_intake.check_eval_fraction(eval_fraction)
    lineage = Lineage(GENERATOR, _models(rows)).check()
    with tempfile.NamedTemporaryFile(dir=Path(django_settings.HOME) / "tmp", prefix="dataset-") as stream:
        data = b"".join(json.dumps({"messages": row.messages}, ensure_ascii=False).encode() + b"\n" for row in rows)
        stream.write(data)
        stream.flush()
        dataset, is_new = dataset_intake.adopt(
            actor, Path(stream.name), sha256=hashlib.sha256(data).hexdigest(), filename=FILENAME, name=called,
            eval_fraction=fraction, lineage=lineage,
        )  # fmt: skip
    with transaction.atomic():
        CollectedExample.objects.filter(pk__in=[row.pk for row in rows]).update(dataset=dataset)
        told = hidden(rows)
        for row in rows:
            if row.turn is not None and row.turn_id in told:
                blindness.reveal(row.turn)
    return dataset, is_new


def _models(rows: list[CollectedExample]) -> str:
    """The models that answered, as the version of what made the rows."""
    names = list(dict.fromkeys(row.model_name for row in rows if row.model_name))
    whole = ", ".join(names)
    return whole if len(whole) <= LONGEST_NAME else f"{len(names)} models, {names[0]}"[:LONGEST_NAME]
