"""The turns of a conversation: a tree of questions and answers. Runs in the web process.

A question stands on an answer and may have branches beside it (an edited question, another answer). Where two models
were asked, a question stands on both answers: each side goes on from its own.
"""

from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.models import Conversation, Turn, Vote
from controlplane.models.access import Actor, Role
from controlplane.models.conversations import FAILED, WRITING, Side, Speaker
from controlplane.services import blindness, conversations

LONGEST_QUESTION = 1_000_000


# --- Looking ----------------------------------------------------------------------------------------------------------


def turn_of(conversation: Conversation, turn_id: int, role: Speaker, field: str) -> Turn:
    """A turn of a conversation. Raises NotFoundError, naming the field that named it."""
    found = conversation.turns.filter(pk=turn_id, role=role).first()
    if found is None:
        what = "question" if role == Speaker.USER else "answer"
        raise NotFoundError(f"{field}: there is no {what} {turn_id} in conversation {conversation.pk}.")
    return found


def history(question: Turn, side: str = Side.ALONE) -> list[Turn]:
    """The turns up to a question, as the answer on this side goes on from them, the first one first."""
    known = {turn.pk: turn for turn in question.conversation.turns.all()}
    found = [question]
    while True:
        asked = found[-1]
        before = asked.beside_id if side == Side.RIGHT and asked.beside_id else asked.parent_id
        if before is None:
            return found[::-1]
        answer = known[before]
        assert answer.parent_id is not None  # noqa: S101 - an answer stands on a question
        found += [answer, known[answer.parent_id]]
        side = answer.side


def messages(turns: Iterable[Turn], system: str = "") -> list[dict[str, str]]:
    """Turns as a chat call takes them, behind a system prompt where there is one."""
    opening = [{"role": "system", "content": system}] if system.strip() else []
    return [*opening, *({"role": turn.role, "content": turn.content} for turn in turns)]


def facts(turn: Turn, *, is_hidden: bool = False) -> dict[str, Any]:
    """A turn as the API tells it; `is_hidden`: the model's name waits for a vote."""
    return {
        "id": turn.pk, "parent": turn.parent_id, "beside": turn.beside_id, "role": turn.role, "content": turn.content,
        "side": turn.side, "model": None if is_hidden or turn.role == Speaker.USER else turn.model_name,
        "blind": is_hidden, "finish": _finish(turn), "asked": turn.asked, "figures": turn.figures,
        "created_at": turn.created_at.isoformat(),
    }  # fmt: skip


def _finish(turn: Turn) -> str:
    return FAILED if turn.finish == WRITING and not turn.is_being_written else turn.finish


def whole_facts(conversation: Conversation) -> dict[str, Any]:
    """A conversation with all its turns, and the votes on its answers."""
    turns = list(conversation.turns.all())
    hidden = blindness.hidden(turns)
    return {
        **conversations.facts(conversation),
        "turns": [facts(turn, is_hidden=turn.pk in hidden) for turn in turns],
        "votes": [_vote(vote) for vote in conversation.votes.all()],
    }


def _vote(vote: Vote) -> dict[str, Any]:
    return {"left": vote.left_id, "right": vote.right_id, "choice": vote.choice}


# --- Asking -----------------------------------------------------------------------------------------------------------


def ask(actor: Actor, conversation_id: int, content: str, parent: int | None = None, beside: int | None = None) -> Turn:
    """Stores a question behind an answer (`beside`: and behind the other one of two), or at the beginning.

    Raises NotFoundError, InvalidInputError, ConflictError behind an answer that is still being written.
    """
    actor.require(Role.USE)
    conversation = conversations.get(actor, conversation_id)
    if not content.strip() or len(content) > LONGEST_QUESTION:
        raise InvalidInputError(
            f"A message has 1 to {LONGEST_QUESTION:,} characters.",
            (FieldFault("content", f"1 to {LONGEST_QUESTION:,} characters"),),
        )
    behind = None if parent is None else turn_of(conversation, parent, Speaker.ASSISTANT, "parent")
    other = None if beside is None else turn_of(conversation, beside, Speaker.ASSISTANT, "beside")
    if other is not None and (behind is None or other.parent_id != behind.parent_id):
        raise InvalidInputError(
            "beside must be the other answer to the question that parent answers.",
            (FieldFault("beside", "the other answer to the same question"),),
        )
    if any(answer is not None and answer.is_being_written for answer in (behind, other)):
        raise ConflictError("That answer is still being written. Ask again when it is there, or stop it.")
    with transaction.atomic():
        turn = Turn.objects.create(
            conversation=conversation, parent=behind, beside=other, role=Speaker.USER, content=content
        )
        fields: dict[str, Any] = {"updated_at": timezone.now()}
        if not conversation.title:
            fields["title"] = conversations.title_of(content)
        Conversation.objects.filter(pk=conversation.pk).update(**fields)
    return turn


def model_before(question: Turn, side: str) -> str:
    """The model that answered on this side before: this question, else the last one before it. Empty: none did."""
    again = question.children.filter(role=Speaker.ASSISTANT, side=side).exclude(model_name="").last()
    if again is not None:
        return again.model_name
    answers = [turn for turn in history(question, side) if turn.role == Speaker.ASSISTANT]
    return answers[-1].model_name if answers else ""


def begin_answer(question: Turn, side: str, model_name: str, asked: dict[str, Any], *, is_blind: bool) -> Turn:
    """The row of an answer that is about to be written."""
    return Turn.objects.create(
        conversation_id=question.conversation_id, parent=question, role=Speaker.ASSISTANT, side=side,
        model_name=model_name, asked=asked, is_blind=is_blind, finish=WRITING, written_at=timezone.now(),
    )  # fmt: skip


def keep_answer(turn_id: int, content: str, finish: str, figures: dict[str, Any]) -> None:
    """What an answer is now; WRITING marks it as still written. One that ended without a word is no turn: it goes.

    A late WRITING changes nothing of one that has ended.
    """
    row = Turn.objects.filter(pk=turn_id)
    if finish == WRITING:
        row.filter(finish=WRITING).update(content=content, figures=figures, written_at=timezone.now())
    elif content:
        row.update(content=content, finish=finish, figures=figures)
    else:
        row.delete()
