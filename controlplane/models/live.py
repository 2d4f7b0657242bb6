"""What was said on the live topics, in order, so that a browser can catch up. Runs in the web process."""

from django.db import models


class Topic(models.Model):
    """The last seq of a topic ("run:7", "jobs", "hosts", "alerts", "deployment:3")."""

    name = models.CharField(max_length=100, primary_key=True)
    seq = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name} at {self.seq}"


class LiveMessage(models.Model):
    """One message of a topic. Old ones are pruned; who asks for pruned ones is told to start anew (`reset`)."""

    topic = models.ForeignKey(Topic, on_delete=models.CASCADE, related_name="messages")
    seq = models.BigIntegerField()
    kind = models.CharField(max_length=16)
    data = models.JSONField()

    class Meta:
        ordering = ["seq"]
        constraints = [models.UniqueConstraint(fields=["topic", "seq"], name="live_seq_once")]

    def __str__(self) -> str:
        return f"{self.topic_id} {self.seq} {self.kind}"
