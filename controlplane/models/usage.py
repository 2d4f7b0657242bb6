"""Who has asked for how much, and how fast it came. Runs in the web process; written by `services.usage` alone."""

from django.db import models

MINUTE_SECONDS = 60
DAY_SECONDS = 86_400


class UsageDay(models.Model):
    """What a caller took of a model on one day (local time). Names, not rows: it outlives models, keys and people.

    `caller` is an actor's name, `key_number` the id of the key, 0 for anybody else. `cut_short`: requests whose client
    went away before the end; their tokens are counted by the gateway, all others by the engine.
    """

    day = models.DateField()
    caller = models.CharField(max_length=150)
    key_number = models.PositiveIntegerField(default=0)
    model = models.CharField(max_length=200)
    requests = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    cut_short = models.PositiveIntegerField(default=0)
    prompt_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["-day", "caller", "model"]
        constraints = [
            models.UniqueConstraint(fields=["day", "caller", "key_number", "model"], name="one_usage_row_a_day")
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.caller} {self.model}"


class ServedSpan(models.Model):
    """How a model answered in one minute or day (UTC). The two histograms are `services.log_histogram`'s: seconds to
    the first token, tokens a second of one answer after it.
    """

    model = models.CharField(max_length=200)
    resolution_seconds = models.PositiveIntegerField()
    begin = models.DateTimeField()
    requests = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    first_token_seconds = models.JSONField(default=dict)
    tokens_per_second = models.JSONField(default=dict)

    class Meta:
        ordering = ["begin"]
        constraints = [models.UniqueConstraint(fields=["model", "resolution_seconds", "begin"], name="one_served_span")]
        indexes = [models.Index(fields=["resolution_seconds", "begin"])]

    def __str__(self) -> str:
        return f"{self.model} {self.begin:%Y-%m-%d %H:%M}"
