"""Conversations on the chat page: kept, found, renamed, deleted. Runs in the web process.

Each belongs to who began it; for everybody else, admins too, it doesn't exist. Their turns are `conversation_turns`'s.
"""

import json
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count
from django.utils import timezone

from controlplane.errors import FieldFault, InvalidInputError, NotFoundError
from controlplane.legible import is_legible, made_legible
from controlplane.models import Conversation, Turn
from controlplane.models.access import Actor, Role
from controlplane.models.conversations import Speaker
from controlplane.services import pruning, settings
from controlplane.services.access import audit

LONGEST_TITLE = 200
TITLE_OF_QUESTION = 80
"""How many characters of the first question become the title."""

LONGEST_SETTINGS = 100_000


# --- Looking ----------------------------------------------------------------------------------------------------------


def get(actor: Actor, conversation_id: int) -> Conversation:
    """One of the actor's own. Raises NotFoundError, for another's too."""
    found = Conversation.objects.filter(pk=conversation_id, owner=actor.owner).first()
    if found is None:
        raise NotFoundError(f"You have no conversation {conversation_id}. GET /api/conversations lists yours.")
    return found


def with_questions(rows: list[Conversation]) -> list[Conversation]:
    """The same conversations, each with `questions`, their number: one look at the turns for all of them."""
    asked = Turn.objects.filter(conversation__in=[row.pk for row in rows], role=Speaker.USER)
    counted = dict(asked.order_by().values_list("conversation").annotate(Count("pk")))
    for row in rows:
        row.questions = counted.get(row.pk, 0)  # type: ignore[attr-defined] # for `facts`
    return rows


def facts(conversation: Conversation) -> dict[str, Any]:
    """A conversation as lists tell it."""
    questions = getattr(conversation, "questions", None)
    if questions is None:
        questions = conversation.turns.filter(role=Speaker.USER).count()
    return {
        "id": conversation.pk, "title": conversation.title, "questions": questions,
        "settings": conversation.settings, "created_at": conversation.created_at.isoformat(),
        "updated_at": conversation.updated_at.isoformat(),
    }  # fmt: skip


# --- Changing ---------------------------------------------------------------------------------------------------------


def create(actor: Actor, title: str = "", given: dict[str, Any] | None = None) -> Conversation:
    """An empty conversation; without a title it is called by its first question."""
    actor.require(Role.USE)
    with transaction.atomic():
        made = Conversation.objects.create(
            title=check_title(title), settings=_checked(given or {}), owner=actor.owner, created_by=actor.name
        )
        audit(actor, "conversation.create", made)
    return made


def change(
    actor: Actor, conversation_id: int, *, title: str | None = None, given: dict[str, Any] | None = None
) -> Conversation:
    """Gives it another title, or other settings. Raises NotFoundError, InvalidInputError."""
    actor.require(Role.USE)
    conversation = get(actor, conversation_id)
    fields: dict[str, Any] = {}
    if title is not None:
        fields["title"] = check_title(title)
        if not fields["title"]:
            raise _title_fault()
    if given is not None:
        fields["settings"] = _checked(given)
    with transaction.atomic():
        Conversation.objects.filter(pk=conversation.pk).update(**fields)
        if title is not None:
            audit(actor, "conversation.rename", conversation)
    return get(actor, conversation_id)


def check_title(title: str) -> str:
    """The title in one line. Raises InvalidInputError for one that is too long."""
    tidy = " ".join(title.split())
    if len(tidy) > LONGEST_TITLE or not is_legible(tidy):
        raise _title_fault()
    return tidy


def _title_fault() -> InvalidInputError:
    return InvalidInputError(
        f"A conversation's title has 1 to {LONGEST_TITLE} printable characters.",
        (FieldFault("title", f"1 to {LONGEST_TITLE} printable characters"),),
    )


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(given)) > LONGEST_SETTINGS:
        raise InvalidInputError(
            f"The settings of a conversation have at most {LONGEST_SETTINGS:,} characters as JSON: shorten the system "
            "prompt.",
            (FieldFault("settings", "shorter"),),
        )
    return given


def title_of(question: str) -> str:
    """What a conversation is called after its first question."""
    tidy = " ".join(made_legible(question[: 4 * TITLE_OF_QUESTION]).split())
    return tidy if len(tidy) <= TITLE_OF_QUESTION else f"{tidy[: TITLE_OF_QUESTION - 1].rstrip()}…"


def delete(actor: Actor, conversation_id: int) -> None:
    """Takes it away with its turns. Votes on its answers and what was collected from it stay."""
    actor.require(Role.USE)
    conversation = get(actor, conversation_id)
    with transaction.atomic():
        audit(actor, "conversation.delete", conversation)
        conversation.delete()


def prune() -> int:
    """Takes away what nobody has used for `chat.keep_days` (0: nothing). Returns how many conversations."""
    days = settings.get("chat.keep_days")
    if not days:
        return 0
    old = Conversation.objects.filter(updated_at__lt=timezone.now() - timedelta(days=days))
    return pruning.delete_slowly(old, pruning.AT_ONCE)
