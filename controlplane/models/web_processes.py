"""Several web processes on one data base: who they are, and which of them dispatches. On SQLite there is one alone."""

from django.db import models


class Lease(models.Model):
    """What one process at a time may do: it holds the place until `expires_at` by the data base's clock, and renews it.

    Each new holder has the next `token`: whoever acts with an older one has lost the place.
    """

    name = models.CharField(max_length=40, primary_key=True)
    holder = models.CharField(max_length=250)
    token = models.BigIntegerField(default=0)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name}: {self.holder} until {self.expires_at}"


class WebProcess(models.Model):
    """A web process that runs, and what the others must know of what it keeps in its memory."""

    name = models.CharField(max_length=250, primary_key=True)
    seen_at = models.DateTimeField()
    doings = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.name
