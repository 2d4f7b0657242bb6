"""Which of two answers people found better, and what that says of the models. Runs in the web process.

Votes hold names of models and a choice, no texts: everybody sees the sums of all of them.
"""

import csv
import io
from collections import Counter
from typing import Any

from django.db import transaction

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.models import Turn, Vote
from controlplane.models.access import Actor, Role
from controlplane.models.conversations import Choice, Side, Speaker
from controlplane.services import blindness, conversation_turns, conversations
from controlplane.services.access import audit
from controlplane.services.spreadsheets import harmless
from controlplane.services.statistics import wilson

COLUMNS = ("id", "left_model", "right_model", "choice", "blind", "created_at")
MOST_LISTED = 1000


def vote(actor: Actor, conversation_id: int, left: int, right: int, choice: str) -> Vote:
    """Notes which of two answers to one question is better; a second vote on them takes the place of the first.

    It counts as blind when the names were hidden until now; from now on they are known, and those of all exchanges that
    kept the same sides. Raises NotFoundError, InvalidInputError.
    """
    actor.require(Role.USE)
    conversation = conversations.get(actor, conversation_id)
    first = conversation_turns.turn_of(conversation, left, Speaker.ASSISTANT, "left")
    second = conversation_turns.turn_of(conversation, right, Speaker.ASSISTANT, "right")
    _check(first, second, choice)
    fields = {
        "left_model": first.model_name, "right_model": second.model_name, "choice": choice,
        "conversation": conversation, "owner": actor.owner, "created_by": actor.name,
    }  # fmt: skip
    with transaction.atomic():
        before = Vote.objects.filter(left=first, right=second).first()
        is_blind = before.is_blind and before.choice == choice if before else first.is_blind and second.is_blind
        blindness.reveal(first, judged=(first.pk, second.pk))
        row, _is_new = Vote.objects.update_or_create(
            left=first, right=second, defaults={**fields, "is_blind": is_blind}
        )
        audit(actor, "vote", row, choice=choice)
    return row


def _check(first: Turn, second: Turn, choice: str) -> None:
    if choice not in Choice.values:
        raise InvalidInputError(
            f"There is no choice {choice!r}: choose {', '.join(Choice.values)}.",
            (FieldFault("choice", ", ".join(Choice.values)),),
        )
    if first.parent_id != second.parent_id or (first.side, second.side) != (Side.LEFT, Side.RIGHT):
        raise InvalidInputError(
            "A vote is on two answers side by side: give the left and the right one to the same question.",
            (FieldFault("right", "the right answer to the same question"),),
        )
    if first.is_being_written or second.is_being_written:
        raise InvalidInputError("An answer is still being written. Vote when both are there.")


def facts(row: Vote) -> dict[str, Any]:
    """A vote as the API tells it."""
    return {
        "id": row.pk, "left_model": row.left_model, "right_model": row.right_model, "choice": row.choice,
        "blind": row.is_blind, "created_at": row.created_at.isoformat(),
    }  # fmt: skip


def list_votes(limit: int = 100, *, blind_only: bool = False) -> list[Vote]:
    """Votes, newest first."""
    rows = Vote.objects.filter(is_blind=True) if blind_only else Vote.objects.all()
    return list(rows[: max(1, min(limit, MOST_LISTED))])


def pairs(*, blind_only: bool = False) -> list[dict[str, Any]]:
    """Each pair of models with its wins, the most voted on first; which side a model stood on makes no difference.

    `share` is that of the first one's wins of all wins with its interval (95 %), None where nobody has won.
    """
    rows = Vote.objects.filter(is_blind=True) if blind_only else Vote.objects.all()
    counted: dict[tuple[str, str], Counter[str]] = {}
    for left, right, choice, is_blind in rows.values_list("left_model", "right_model", "choice", "is_blind"):
        if left == right:
            continue
        first, second = sorted((left, right))
        outcomes = counted.setdefault((first, second), Counter())
        outcomes[_outcome(choice, is_turned=left != first)] += 1
        outcomes["votes"] += 1
        outcomes["blind"] += is_blind
    found = [_pair(first, second, outcomes) for (first, second), outcomes in counted.items()]
    return sorted(found, key=lambda pair: (-pair["votes"], pair["first"], pair["second"]))


def _outcome(choice: str, *, is_turned: bool) -> str:
    if choice in (Choice.TIE, Choice.BOTH_BAD):
        return choice
    return "first" if (choice == Choice.LEFT) != is_turned else "second"


def _pair(first: str, second: str, outcomes: Counter[str]) -> dict[str, Any]:
    wins = outcomes["first"] + outcomes["second"]
    share = wilson(outcomes["first"], wins) if wins else None
    return {
        "first": first, "second": second, "first_wins": outcomes["first"], "second_wins": outcomes["second"],
        "ties": outcomes[Choice.TIE], "both_bad": outcomes[Choice.BOTH_BAD], "votes": outcomes["votes"],
        "blind": outcomes["blind"],
        "share": None if share is None else {"value": outcomes["first"] / wins, "low": share.low, "high": share.high},
    }  # fmt: skip


def as_csv() -> str:
    """All votes as a table with a header line, the oldest first."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for row in Vote.objects.order_by("id").iterator():
        writer.writerow({name: harmless(value) for name, value in facts(row).items()})
    return out.getvalue()
