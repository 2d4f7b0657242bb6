"""What is kept of an answer on its way: odd characters, a data base that refuses, a silent engine, who goes away."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest
from django.db import OperationalError
from django.utils import timezone

from controlplane.models import Turn
from controlplane.models.access import Actor, Role
from controlplane.models.conversations import STILL_WRITTEN_SECONDS
from controlplane.services import conversation_answers, conversation_turns, conversations, gateway
from controlplane.services.conversation_answers import KeptAnswer, Wanted, answer, storable
from controlplane.services.gateway import Reply
from controlplane.services.passage import Passage

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("home")]
ME = Actor("me", Role.USE)
keep_answer = conversation_turns.keep_answer


def begun() -> Turn:
    """An answer that is about to be written."""
    row = conversations.create(ME)
    return conversation_turns.begin_answer(conversation_turns.ask(ME, row.pk, "Q"), "", "m", {}, is_blind=False)


async def events(*texts: str, silent_seconds: float = 0.0) -> AsyncIterator[bytes]:
    """An engine's stream of these texts; after the first one it says nothing for a while."""
    for place, text in enumerate(texts):
        if place == 1:
            await asyncio.sleep(silent_seconds)
        yield b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


async def whole(kept: KeptAnswer) -> bytes:
    return b"".join([piece async for piece in kept])


@pytest.mark.parametrize(
    ("said", "kept"),
    [("a\0b", "a\N{REPLACEMENT CHARACTER}b"), ("\ud83d\ude00", "\N{GRINNING FACE}"),
     ("\ud83d.", "\N{REPLACEMENT CHARACTER}."), ("\ufeffa", "\ufeffa")],
)  # fmt: skip
def test_a_text_is_as_every_data_base_takes_it(said: str, kept: str) -> None:
    assert storable(said) == kept


def test_halves_of_a_character_in_two_events_are_one() -> None:
    turn = begun()
    asyncio.run(whole(KeptAnswer(events("\ud83d", "\ude00\0"), turn.pk, time.monotonic())))
    turn.refresh_from_db()
    assert (turn.content, turn.finish) == ("\N{GRINNING FACE}\N{REPLACEMENT CHARACTER}", "stop")


def test_an_end_that_the_data_base_refuses_once_is_kept_at_the_close(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = begun()
    refused: list[str] = []

    def keep(turn_id: int, content: str, finish: str, figures: dict[str, Any]) -> None:
        if not refused:
            refused.append(finish)
            raise OperationalError("data base is locked")
        keep_answer(turn_id, content, finish, figures)

    monkeypatch.setattr(conversation_turns, "keep_answer", keep)
    kept = KeptAnswer(events("whole"), turn.pk, time.monotonic())
    with pytest.raises(OperationalError):
        asyncio.run(whole(kept))
    kept.close()
    turn.refresh_from_db()
    assert (turn.content, turn.finish, refused) == ("whole", "stop", ["stop"])


def test_a_refusal_in_the_middle_does_not_end_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = begun()

    def keep(turn_id: int, content: str, finish: str, figures: dict[str, Any]) -> None:
        if finish == "writing":
            raise OperationalError("data base is locked")
        keep_answer(turn_id, content, finish, figures)

    monkeypatch.setattr(conversation_turns, "keep_answer", keep)
    monkeypatch.setattr(conversation_answers, "SAVE_SECONDS", 0.0)
    asyncio.run(whole(KeptAnswer(events("a", "b"), turn.pk, time.monotonic())))
    turn.refresh_from_db()
    assert (turn.content, turn.finish) == ("ab", "stop")


def test_a_silent_engines_answer_is_still_written(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = begun()
    Turn.objects.filter(pk=turn.pk).update(written_at=timezone.now() - timedelta(seconds=STILL_WRITTEN_SECONDS + 1))
    turn.refresh_from_db()
    assert not turn.is_being_written
    monkeypatch.setattr(conversation_answers, "SAVE_SECONDS", 0.05)
    marks: list[str] = []

    def keep(turn_id: int, content: str, finish: str, figures: dict[str, Any]) -> None:
        keep_answer(turn_id, content, finish, figures)
        marks.append(f"{finish} {content} {Turn.objects.get(pk=turn_id).is_being_written}")

    monkeypatch.setattr(conversation_turns, "keep_answer", keep)
    asyncio.run(whole(KeptAnswer(events("a", "b", silent_seconds=0.4), turn.pk, time.monotonic())))
    assert "writing a True" in marks
    assert marks[-1] == "stop ab False"


def test_a_late_mark_changes_nothing_of_an_answer_that_has_ended() -> None:
    turn = begun()
    conversation_turns.keep_answer(turn.pk, "whole", "stop", {})
    conversation_turns.keep_answer(turn.pk, "who", "writing", {})
    turn.refresh_from_db()
    assert (turn.content, turn.finish) == ("whole", "stop")


def test_who_goes_while_the_answer_begins_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    row = conversations.create(ME)
    question = conversation_turns.ask(ME, row.pk, "Q")
    begin_answer, made = conversation_turns.begin_answer, []

    async def forward(_path: str, _body: dict[str, Any], _actor: Actor) -> Reply:
        return Reply(200, "text/event-stream", chunks=cast(Passage, events("a")))

    def begin_and_cancel(*given: Any, **fields: Any) -> Turn:
        made.append(begin_answer(*given, **fields))
        asking[0].get_loop().call_soon_threadsafe(asking[0].cancel)
        return made[0]

    asking: list[asyncio.Task[KeptAnswer]] = []
    monkeypatch.setattr(gateway, "forward", forward)
    monkeypatch.setattr(conversation_turns, "begin_answer", begin_and_cancel)

    async def ask() -> None:
        asking.append(asyncio.create_task(answer(ME, row.pk, Wanted(question.pk, model="m"))))
        await asking[0]

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ask())
    assert len(made) == 1
    assert not Turn.objects.filter(role="assistant").exists()
