"""Saved views of the table of runs. Runs in the web process."""

from django.db import models
from django.utils import timezone

from controlplane.models.access import LONGEST_OWNER


class RunView(models.Model):
    """A name for what an address of the table asks for: its filters, columns and order.

    `owner` is whose it is ("user:3", as `Actor.owner` has it); a shared one is listed for everybody.
    """

    name = models.CharField(max_length=100)
    query = models.CharField(max_length=4000)
    is_shared = models.BooleanField(default=False)
    owner = models.CharField(max_length=LONGEST_OWNER)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name", "id"]
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="run_view_once")]

    def __str__(self) -> str:
        return self.name
