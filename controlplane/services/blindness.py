"""Whose names wait for a vote. Runs in the web process.

Without a vote the next question keeps the sides of the two blind answers that it stands on: such a stretch of exchanges
hides one and the same pair. Whoever learns the names of one exchange knows them all.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable

from django.db.models import Q

from controlplane.models import Turn, Vote
from controlplane.models.conversations import Speaker


def hidden(turns: Iterable[Turn]) -> set[int]:
    """Of these turns the ids of the answers whose model's name waits for a vote."""
    blind = {turn.pk for turn in turns if turn.is_blind}
    if not blind:
        return blind
    votes = Vote.objects.filter(Q(left__in=blind) | Q(right__in=blind)).values_list("left_id", "right_id")
    return blind - {pk for pair in votes for pk in pair}


def reveal(answer: Turn, *, judged: Collection[int] = ()) -> None:
    """The names of the answer's stretch are known from now on: a later vote on one of them isn't blind.

    `judged`: the ids of the two that are voted on at this moment; that vote was blind.
    """
    turns = list(Turn.objects.filter(conversation=answer.conversation_id).only("role", "parent_id", "is_blind"))
    unknown = hidden(turns)
    questions = _stretch(turns, unknown, answer)
    told = [turn.pk for turn in turns if turn.pk in unknown and turn.parent_id in questions]
    Turn.objects.filter(pk__in=set(told) - set(judged)).update(is_blind=False)


def _stretch(turns: list[Turn], unknown: set[int], answer: Turn) -> set[int]:
    """The ids of the questions that stand on each other's hidden answers, around the one that is answered."""
    answered = {turn.pk: turn.parent_id for turn in turns if turn.pk in unknown}
    beside: defaultdict[int | None, set[int | None]] = defaultdict(set)
    for turn in turns:
        if turn.role == Speaker.USER and turn.parent_id in answered:
            before = answered[turn.parent_id]
            beside[turn.pk].add(before)
            beside[before].add(turn.pk)
    found: set[int] = set()
    left: list[int | None] = [answer.parent_id]
    while left:
        question = left.pop()
        if question is not None and question not in found:
            found.add(question)
            left.extend(beside[question])
    return found
