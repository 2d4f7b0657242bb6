"""The only place that sends to the live channel layer. Runs in the web process, from any of its threads.

`publish` belongs inside the transaction that changes what it tells of: the message gets its durable seq there, and goes
out after the commit. What goes out is a hint; `live.history` reads the same message back from the data base.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import Any, TypedDict

from channels.layers import get_channel_layer
from django.db import connection, transaction
from django.db.models import F

from controlplane.models import LiveMessage, Topic

log = logging.getLogger(__name__)
KEPT_MESSAGES = 600
PRUNE_EVERY = 100


class Message(TypedDict):
    """What a browser receives."""

    topic: str
    kind: str
    seq: int
    data: Any


class _Loop:
    """The web server's event loop, once it runs. Without one (a management command) nobody listens."""

    current: asyncio.AbstractEventLoop | None = None


def bind_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    """Tells the module which loop the web server runs on."""
    _Loop.current = loop


def group_name(topic: str) -> str:
    """The channel-layer group of a topic (the layer allows no colon)."""
    return "live." + re.sub(r"[^A-Za-z0-9_.-]", ".", topic)


def publish(topic: str, kind: str, data: Any) -> int:
    """Gives the message the topic's next seq, stores it, and sends it after the commit. Returns the seq.

    Must run inside `transaction.atomic()`: the seq is as durable as what it tells of.
    """
    if not connection.in_atomic_block:
        raise RuntimeError(f"publish({topic!r}) outside a transaction: the seq would not be tied to the change")
    if not Topic.objects.filter(name=topic).update(seq=F("seq") + 1):
        Topic.objects.get_or_create(name=topic)
        Topic.objects.filter(name=topic).update(seq=F("seq") + 1)
    seq = Topic.objects.get(name=topic).seq
    LiveMessage.objects.create(topic_id=topic, seq=seq, kind=kind, data=data)
    if seq % PRUNE_EVERY == 0:
        LiveMessage.objects.filter(topic_id=topic, seq__lte=seq - KEPT_MESSAGES).delete()
    message = Message(topic=topic, kind=kind, seq=seq, data=data)
    transaction.on_commit(lambda: _send(message))
    return seq


def last_seq(topic: str) -> int:
    """The seq of the last message of a topic, 0 for one that nobody has spoken on."""
    return last_seqs([topic])[topic]


def last_seqs(topics: Sequence[str]) -> dict[str, int]:
    """The same of several topics, by one question."""
    spoken = dict(Topic.objects.filter(name__in=topics).values_list("name", "seq"))
    return {topic: spoken.get(topic, 0) for topic in topics}


def _send(message: Message) -> None:
    loop, layer = _Loop.current, get_channel_layer()
    if loop is None or layer is None or loop.is_closed():
        return
    envelope = {"type": "live.message", "message": message}
    asyncio.run_coroutine_threadsafe(_group_send(layer, group_name(message["topic"]), envelope), loop)


async def _group_send(layer: Any, group: str, envelope: dict[str, Any]) -> None:
    try:
        await layer.group_send(group, envelope)
    except Exception:  # a lost hint: the browser reads it from the data base at its next message
        log.exception("could not announce on %s", group)
