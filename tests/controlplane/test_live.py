"""The websocket: who may listen, and that nobody misses a message."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import AnonymousUser
from django.db import transaction

from controlplane.live import announce
from controlplane.live.consumers import CLOSE_NOT_LOGGED_IN, MAX_TOPICS, LiveConsumer
from tests.factories import make_user

pytestmark = pytest.mark.django_db(transaction=True)


def tell(topic: str, number: int) -> None:
    with transaction.atomic():
        announce.publish(topic, "status", {"number": number})


async def open_socket(user: Any) -> WebsocketCommunicator:
    socket = WebsocketCommunicator(LiveConsumer.as_asgi(), "/ws/live")
    scope: Any = socket.scope
    scope["user"] = user
    await socket.connect()
    return socket


async def converse(user: Any, after: int | None, during: int) -> list[dict[str, Any]]:
    """Subscribes to `jobs` after a seq, lets `during` messages be announced, returns all that came."""
    announce.bind_loop(asyncio.get_running_loop())
    try:
        socket = await open_socket(user)
        await socket.send_json_to({"subscribe": ["jobs"], "after": {} if after is None else {"jobs": after}})
        received = [await socket.receive_json_from(5)]
        while received[-1]["kind"] != "subscribed":
            received.append(await socket.receive_json_from(5))
        for number in range(during):
            await sync_to_async(tell)("jobs", 100 + number)
        received += [await socket.receive_json_from(5) for _ in range(during)]
        assert await socket.receive_nothing(0.05)
        await socket.disconnect()
    finally:
        announce.bind_loop(None)
    return received


def test_a_stranger_is_shown_out() -> None:
    async def scene() -> dict[str, Any]:
        socket = await open_socket(AnonymousUser())
        output: dict[str, Any] = await socket.receive_output(5)
        return output

    output = asyncio.run(scene())
    assert (output["type"], output["code"]) == ("websocket.close", CLOSE_NOT_LOGGED_IN)


def test_who_comes_back_gets_what_was_missed_then_what_is_new_in_order() -> None:
    user = make_user("read")
    for number in range(5):
        tell("jobs", number)
    received = asyncio.run(converse(user, after=2, during=2))
    told = [message for message in received if message["kind"] == "status"]
    assert [message["seq"] for message in told] == [3, 4, 5, 6, 7]
    assert [message["data"]["number"] for message in told] == [2, 3, 4, 100, 101]


def test_who_has_no_seq_starts_now() -> None:
    user = make_user("read")
    tell("jobs", 1)
    received = asyncio.run(converse(user, after=None, during=1))
    assert [(message["kind"], message["seq"]) for message in received] == [("subscribed", 1), ("status", 2)]


def test_who_was_away_too_long_is_told_to_read_everything_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "KEPT_MESSAGES", 10)
    monkeypatch.setattr(announce, "PRUNE_EVERY", 5)
    user = make_user("read")
    for number in range(30):
        tell("jobs", number)
    received = asyncio.run(converse(user, after=3, during=1))
    assert [(message["kind"], message["seq"]) for message in received] == [
        ("reset", 30), ("subscribed", 30), ("status", 31),
    ]  # fmt: skip


def test_nothing_can_be_announced_outside_a_transaction() -> None:
    with pytest.raises(RuntimeError, match="outside a transaction"):
        announce.publish("jobs", "status", {})


@pytest.mark.parametrize("wrong", [{"subscribe": ["nonsense"]}, {"subscribe": "jobs"}, ["jobs"], {"subscribe": [1]}])
def test_a_wrong_request_is_answered_with_a_sentence(wrong: Any) -> None:
    user = make_user("read")

    async def scene() -> dict[str, Any]:
        socket = await open_socket(user)
        await socket.send_json_to(wrong)
        answer: dict[str, Any] = await socket.receive_json_from(5)
        await socket.disconnect()
        return answer

    assert "error" in asyncio.run(scene())


def test_topics_that_are_given_back_make_room_and_bring_nothing_more() -> None:
    user = make_user("read")
    topics = [f"run:{number}" for number in range(1, MAX_TOPICS + 1)]

    async def scene() -> tuple[dict[str, Any], dict[str, Any], bool]:
        announce.bind_loop(asyncio.get_running_loop())
        try:
            socket = await open_socket(user)
            await socket.send_json_to({"subscribe": topics})
            for _ in topics:
                await socket.receive_json_from(5)
            await socket.send_json_to({"subscribe": ["jobs"]})
            refused = await socket.receive_json_from(5)
            await socket.send_json_to({"unsubscribe": ["run:1", "run:1", 7, "nonsense"]})
            await socket.send_json_to({"subscribe": ["jobs"]})
            taken = await socket.receive_json_from(5)
            await sync_to_async(tell)("run:1", 1)
            silent = await socket.receive_nothing(0.05)
            await socket.disconnect()
        finally:
            announce.bind_loop(None)
        return refused, taken, silent

    refused, taken, silent = asyncio.run(scene())
    assert refused == {"error": f"A page may subscribe to {MAX_TOPICS} topics."}
    assert (taken["topic"], taken["kind"]) == ("jobs", "subscribed")
    assert silent
