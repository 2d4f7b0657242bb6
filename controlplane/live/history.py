"""What a browser missed on a topic. Runs in the web process."""

from controlplane.live.announce import Message, last_seq
from controlplane.models import LiveMessage


def after(topic: str, seq: int) -> list[Message]:
    """Every message of `topic` behind `seq`, in order; one `reset` where they are no longer all kept."""
    rows = list(LiveMessage.objects.filter(topic_id=topic, seq__gt=seq).order_by("seq"))
    newest = rows[-1].seq if rows else last_seq(topic)
    if newest < seq or (newest > seq and (not rows or rows[0].seq != seq + 1)):
        return [Message(topic=topic, kind="reset", seq=newest, data={})]
    return [Message(topic=topic, kind=row.kind, seq=row.seq, data=row.data) for row in rows]
