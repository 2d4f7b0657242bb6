"""Answers in a conversation: asked of an engine, passed on as they come, and kept. Runs in the web process.

What has come is written down every SAVE_SECONDS and at the end, whether that is the engine's, the person's (Stop, or a
tab that was closed) or an engine's death. While an engine is silent the answer is marked as often: another process
knows by that mark that it is still written.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self

from channels.db import database_sync_to_async
from django.db import DatabaseError

from controlplane.errors import (
    FieldFault,
    InvalidInputError,
    NotFoundError,
    PilothouseError,
    TooLargeError,
    UnavailableError,
)
from controlplane.models import Turn
from controlplane.models.access import Actor, Role
from controlplane.models.conversations import FAILED, STOPPED, WRITING, Side, Speaker
from controlplane.services import conversation_turns, conversations, gateway, models
from controlplane.services.finding import ANY_MODEL
from controlplane.services.gateway import Reply
from controlplane.services.passage import Passage

logger = logging.getLogger(__name__)
SAVE_SECONDS = 2.0
BROKEN_RETRY_SECONDS = 5
DATA, DONE = b"data:", b"[DONE]"
PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Wanted:
    """An answer that is asked for: to which question, on which side, of which model (empty: as before on that side).

    `parameters` are those of a chat call (`temperature`, `stop`, `apply_profile`, …); the engine judges them.
    """

    question: int
    side: str = Side.ALONE
    model: str = ""
    system: str = ""
    is_blind: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> dict[str, Any]:
        """What is kept with the answer."""
        return {**({"system": self.system} if self.system.strip() else {}), **self.parameters}


class KeptAnswer:
    """The events of one answer on their way to the browser. Whoever takes them exhausts them or calls `close`."""

    def __init__(self, chunks: AsyncIterator[bytes], turn_id: int, began: float) -> None:
        self.turn_id = turn_id
        self._chunks = chunks
        self._began = began
        self._saved_at = time.monotonic()
        self._first_at: float | None = None
        self._last_at = began
        self._content: list[str] = []
        self._finish = ""
        self._usage: dict[str, Any] = {}
        self._end_as = ""
        self._is_kept = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next events. When there are none any more, the answer is kept."""
        try:
            events = await self._next()
        except StopAsyncIteration:
            await database_sync_to_async(self._end)(self._finish or FAILED)
            raise
        self._read(events)
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            await self._save_so_far()
        return events

    async def _next(self) -> bytes:
        """What the engine says next; what has come is written down meanwhile, as often as otherwise."""
        coming = asyncio.ensure_future(anext(self._chunks))
        try:
            while not (await asyncio.wait({coming}, timeout=SAVE_SECONDS))[0]:
                await self._save_so_far()
        except BaseException:
            coming.cancel()
            raise
        return coming.result()

    def close(self) -> None:
        """Keeps what has come so far as stopped, unless it is over, and ends what the engine writes. From a thread."""
        if isinstance(self._chunks, Passage):
            self._chunks.close()
        self._end(STOPPED)

    def _read(self, events: bytes) -> None:
        for line in events.split(b"\n"):
            data = line.removeprefix(DATA).strip()
            if not line.startswith(DATA):
                continue
            if data == DONE:
                self._finish = self._finish or "stop"
                continue
            try:
                self._note(json.loads(data))
            except (ValueError, KeyError, TypeError, AttributeError):  # an engine's own kind of event says nothing
                continue

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("error"):
            self._finish = FAILED
        if isinstance(usage := event.get("usage"), dict):
            self._usage = usage
        for choice in event.get("choices") or ():
            self._finish = choice.get("finish_reason") or self._finish
            if piece := (choice.get("delta") or {}).get("content"):
                self._content.append(str(piece))
                self._last_at = time.monotonic()
                self._first_at = self._first_at or self._last_at

    def _end(self, finish: str) -> None:
        """Keeps it as it ended first. Where the data base refuses that, `close` tries once more."""
        self._end_as = self._end_as or finish
        if not self._is_kept:
            self._save(self._end_as)
            self._is_kept = True

    async def _save_so_far(self) -> None:
        self._saved_at = time.monotonic()
        try:
            await database_sync_to_async(self._save)(WRITING)
        except DatabaseError:  # the answer goes on, and is written down the next time
            logger.warning("An answer could not be written down", exc_info=True)

    def _save(self, finish: str) -> None:
        content = storable("".join(self._content))
        conversation_turns.keep_answer(self.turn_id, content, storable(str(finish))[:20], self._figures())

    def _figures(self) -> dict[str, Any]:
        """What it took so far; `tokens` as the engine counts them, the pieces where it hasn't come to that."""
        if self._first_at is None:
            return {}
        tokens = self._usage.get("completion_tokens", len(self._content))
        return {
            "prompt_tokens": self._usage.get("prompt_tokens"), "tokens": tokens,
            "first_token_seconds": round(self._first_at - self._began, 4),
            "seconds": round(self._last_at - self._first_at, 4),
        }  # fmt: skip


def storable(text: str) -> str:
    """The text as every data base takes it: halves of a character joined, and what no text has replaced (NUL too)."""
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return joined.replace("\0", "\N{REPLACEMENT CHARACTER}")


async def answer(actor: Actor, conversation_id: int, wanted: Wanted) -> KeptAnswer:
    """Asks an engine, and returns the answer as it comes. Nothing is kept of what is refused.

    Raises NotFoundError, InvalidInputError, RateLimitedError, ForbiddenError, UnavailableError.
    """
    actor.require(Role.USE)
    question, model_name, body = await database_sync_to_async(_prepared)(actor, conversation_id, wanted)
    began = time.monotonic()
    reply = await gateway.forward(PATH, body, actor)
    if reply.chunks is None:
        raise _refusal(reply)
    begun = asyncio.ensure_future(
        database_sync_to_async(conversation_turns.begin_answer)(
            question, wanted.side, model_name, wanted.asked, is_blind=wanted.is_blind
        )
    )
    try:
        turn = await asyncio.shield(begun)
    except BaseException:
        if isinstance(reply.chunks, Passage):
            await reply.chunks.aclose()
        turn = await begun  # whoever asked has gone: the row is there, or will be at once
        await database_sync_to_async(conversation_turns.keep_answer)(turn.pk, "", STOPPED, {})
        raise
    return KeptAnswer(reply.chunks, turn.pk, began)


def _prepared(actor: Actor, conversation_id: int, wanted: Wanted) -> tuple[Turn, str, dict[str, Any]]:
    """The question, the model's name and the body of the call."""
    conversation = conversations.get(actor, conversation_id)
    question = conversation_turns.turn_of(conversation, wanted.question, Speaker.USER, "question")
    if wanted.side not in Side.values:
        raise InvalidInputError(
            "side must be left, right or empty.", (FieldFault("side", "left, right, or empty: one answer alone"),)
        )
    if wanted.is_blind and wanted.side == Side.ALONE:
        raise InvalidInputError(
            "Only two answers side by side can be blind.", (FieldFault("blind", "not for one answer alone"),)
        )
    name = wanted.model or conversation_turns.model_before(question, wanted.side)
    if name in ANY_MODEL and (active := models.active()) is not None:
        name = active.name
    turns = conversation_turns.history(question, wanted.side)
    body = {
        **wanted.parameters, "model": name, "messages": conversation_turns.messages(turns, wanted.system),
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    return question, name, body


def _refusal(reply: Reply) -> PilothouseError:
    """What an engine refused with, as one of our own errors."""
    try:
        message = str(json.loads(reply.content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The engine answered {reply.status_code} without a word."
    if reply.status_code == TooLargeError.status_code:
        return TooLargeError(message)
    if reply.status_code == NotFoundError.status_code:
        return NotFoundError(message)
    if 400 <= reply.status_code < 500 and not reply.is_busy:
        return InvalidInputError(message)
    return UnavailableError(message, reply.retry_after_seconds(BROKEN_RETRY_SECONDS))
