"""Conversations with served models, how people judged their answers, what they collected. Runs in the web process."""

from datetime import timedelta

from django.db import models
from django.utils import timezone

from controlplane.models.access import LONGEST_OWNER
from controlplane.models.datasets import Dataset


class Conversation(models.Model):
    """A tree of turns that belongs to one person or key, its `owner` (`Actor.owner`); `created_by` shows their name.

    `settings`: how it was asked last, as the page has it.
    """

    title = models.CharField(max_length=200, blank=True)
    settings = models.JSONField(default=dict, blank=True)
    owner = models.CharField(max_length=LONGEST_OWNER)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ["-updated_at", "-id"]
        indexes = [models.Index(fields=["owner", "updated_at", "id"])]

    def __str__(self) -> str:
        return f"conversation {self.pk}"


class Speaker(models.TextChoices):
    """Whose turn it is."""

    USER = "user"
    ASSISTANT = "assistant"


class Side(models.TextChoices):
    """Where an answer stands: alone, or as one of two on the same prompt."""

    ALONE = "", "alone"
    LEFT = "left"
    RIGHT = "right"


STILL_WRITTEN_SECONDS = 20
"""Whoever passes an answer on marks it every few seconds (`written_at`). Without a mark for this long it is cut off."""

WRITING, STOPPED, FAILED = "writing", "stopped", "failed"
"""The `finish` of an answer that isn't whole yet, that somebody stopped, that its engine didn't end. Else the engine's
own: `stop` or `length`."""


class Turn(models.Model):
    """What somebody said. A question stands on an answer (or begins the conversation), an answer on a question.

    A question behind two answers has both: `parent` is the history of the left side, `beside` that of the right one.
    Turns with the same parent are branches of each other. `asked` holds what an answer was asked with,
    `figures` what it took, `finish` how it ended, `written_at` when it was last known to be still written.
    """

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="turns")
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.CASCADE, related_name="children")
    beside = models.ForeignKey("self", null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    role = models.CharField(max_length=9, choices=Speaker.choices)
    content = models.TextField(blank=True)
    side = models.CharField(max_length=5, choices=Side.choices, default=Side.ALONE, blank=True)
    model_name = models.CharField(max_length=200, blank=True)
    is_blind = models.BooleanField(default=False)
    finish = models.CharField(max_length=20, blank=True)
    written_at = models.DateTimeField(null=True, blank=True)
    asked = models.JSONField(default=dict, blank=True)
    figures = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"turn {self.pk} of {self.conversation_id}"

    @property
    def is_being_written(self) -> bool:
        """Whether some process is passing this answer on."""
        since = timezone.now() - timedelta(seconds=STILL_WRITTEN_SECONDS)
        return self.finish == WRITING and self.written_at is not None and self.written_at > since


class Choice(models.TextChoices):
    """How two answers compare."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both_bad"


class Vote(models.Model):
    """Which of two answers to one prompt somebody found better. It outlives the conversation that it was given in."""

    left = models.ForeignKey(Turn, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    right = models.ForeignKey(Turn, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    conversation = models.ForeignKey(
        Conversation, null=True, blank=True, on_delete=models.SET_NULL, related_name="votes"
    )
    left_model = models.CharField(max_length=200)
    right_model = models.CharField(max_length=200)
    choice = models.CharField(max_length=8, choices=Choice.choices)
    is_blind = models.BooleanField(default=False)
    owner = models.CharField(max_length=LONGEST_OWNER)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["left", "right"], name="vote_once_a_pair")]

    def __str__(self) -> str:
        return f"vote {self.pk}: {self.left_model} or {self.right_model}"


class CollectedExample(models.Model):
    """An exchange that somebody put into a set of theirs, as a row of a dataset: `messages` is [{"role", "content"}].

    `dataset`: the newest one that was made of it.
    """

    set_name = models.CharField(max_length=200)
    messages = models.JSONField(default=list)
    model_name = models.CharField(max_length=200, blank=True)
    turn = models.ForeignKey(Turn, null=True, blank=True, on_delete=models.SET_NULL, related_name="collected")
    dataset = models.ForeignKey(Dataset, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    owner = models.CharField(max_length=LONGEST_OWNER, db_index=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["set_name", "turn", "owner"], name="collected_once")]

    def __str__(self) -> str:
        return f"row {self.pk} of {self.set_name}"
