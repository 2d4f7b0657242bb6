"""The websocket `/ws/live`. Runs in the web process, on the server's loop.

A consumer joins a topic's group, then reads the data base behind the browser's seq, then passes on what comes and drops
what it has sent already. A browser that sees a gap asks again.
"""

import re
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.contrib.sessions.models import Session

from controlplane.live import history
from controlplane.live.announce import Message, group_name, last_seq
from controlplane.models import User

TOPIC = re.compile(r"(jobs|hosts|fleet|alerts|datasets|models|sweeps|inbox|run-sweeps|(run|deployment):[0-9]{1,18})")
MAX_TOPICS = 50
MAX_SEQ = 2**63
CLOSE_NOT_LOGGED_IN = 4401


def _is_welcome(user_id: int, session_key: str | None) -> bool:
    known = User.objects.filter(pk=user_id, is_active=True, must_change_password=False).exists()
    return known and (session_key is None or Session.objects.filter(session_key=session_key).exists())


class LiveConsumer(AsyncJsonWebsocketConsumer):
    """One browser page."""

    async def connect(self) -> None:
        """Takes logged-in people only."""
        self.sent: dict[str, int] = {}
        await self.accept()
        if not await self._may_listen():
            await self.close(code=CLOSE_NOT_LOGGED_IN)

    async def _may_listen(self) -> bool:
        """Whether there is a person behind it who is still active, still logged in, and has an own password."""
        user = self.scope.get("user")
        if user is None or not user.is_authenticated:
            return False
        session = self.scope.get("session")
        return bool(await database_sync_to_async(_is_welcome)(user.pk, getattr(session, "session_key", None)))

    async def disconnect(self, code: int) -> None:
        """Leaves every group."""
        for topic in self.sent:
            await self.channel_layer.group_discard(group_name(topic), self.channel_name)

    async def receive_json(self, content: Any, **_kwargs: Any) -> None:
        """`{"subscribe": [topic], "after": {topic: seq}}`, or `{"unsubscribe": [topic]}`; else a sentence says so."""
        if not await self._may_listen():
            await self.close(code=CLOSE_NOT_LOGGED_IN)
            return
        given_back = content.get("unsubscribe") if isinstance(content, dict) else None
        if isinstance(given_back, list):
            await self._unsubscribe(given_back)
            return
        topics = content.get("subscribe") if isinstance(content, dict) else None
        after = content.get("after", {}) if isinstance(content, dict) else {}
        if not isinstance(topics, list) or not isinstance(after, dict):
            await self.send_json({"error": 'Send {"subscribe": [topic, ...], "after": {topic: seq}}.'})
            return
        for topic in topics:
            if not isinstance(topic, str) or not TOPIC.fullmatch(topic):
                await self.send_json({"error": f"There is no topic {str(topic)[:100]!r}."})
            elif len(self.sent) >= MAX_TOPICS and topic not in self.sent:
                await self.send_json({"error": f"A page may subscribe to {MAX_TOPICS} topics."})
            else:
                seq = after.get(topic)
                await self._subscribe(topic, seq if type(seq) is int and 0 <= seq < MAX_SEQ else None)

    async def _subscribe(self, topic: str, seq: int | None) -> None:
        await self.channel_layer.group_add(group_name(topic), self.channel_name)
        if seq is None:
            self.sent[topic] = await database_sync_to_async(last_seq)(topic)
        else:
            self.sent[topic] = seq
            await self._catch_up(topic)
        await self.send_json({"topic": topic, "kind": "subscribed", "seq": self.sent[topic], "data": {}})

    async def _unsubscribe(self, topics: list[Any]) -> None:
        for topic in topics:
            if isinstance(topic, str) and self.sent.pop(topic, None) is not None:
                await self.channel_layer.group_discard(group_name(topic), self.channel_name)

    async def _catch_up(self, topic: str) -> None:
        for message in await database_sync_to_async(history.after)(topic, self.sent[topic]):
            await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        self.sent[message["topic"]] = message["seq"]
        await self.send_json(message)

    async def live_message(self, envelope: dict[str, Any]) -> None:
        """A hint from the channel layer: passed on in order; a gap is filled from the data base."""
        message: Message = envelope["message"]
        sent = self.sent.get(message["topic"])
        if sent is None or message["seq"] <= sent:
            return
        if message["seq"] == sent + 1:
            await self._pass_on(message)
        else:
            await self._catch_up(message["topic"])
