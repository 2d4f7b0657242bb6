"""The table of all jobs. Runs in the web process; reads only."""

from django.db.models import Case, ExpressionWrapper, F, FloatField, Q, When
from django.http import QueryDict

from controlplane.models import Job
from controlplane.models.jobs import Kind, Priority, Status
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column, named
from controlplane.services.tables.filters import Filters, found_in, one_of, text
from controlplane.services.tables.spans import SecondsBetween

A_PRIORITY = 1e12
"""As far apart lie priorities in the order of the queue: further than jobs can be moved by hand."""


class JobFilters(Filters):
    """What can be asked of jobs."""

    status = one_of("Status", "status", Status.choices)
    type = one_of("Kind", "kind", Kind.choices)
    host = text("Host", "host__name")
    created_by = text("Asked by", "created_by")

    def words(self, word: str) -> Q:
        """A word is found in the title."""
        return found_in(word, "title")


_PLACE = ExpressionWrapper((Priority.HIGH - F("priority")) * A_PRIORITY + F("position"), output_field=FloatField())
COLUMNS = (
    named("job", "title"),
    Column("status", "status", "state", F("status"), is_full=True),
    Column("host", "host", "text", F("host__name"), is_wide=True),
    Column("place", "place in the queue", "number", Case(When(status=Status.PENDING, then=_PLACE)), is_hidden=True),
    Column("took", "took", "duration", SecondsBetween("started_at", "ended_at"), is_wide=True),
    Column("ended", "ended", "moment", F("ended_at"), is_wide=True),
    Column("created", "asked", "moment", F("id"), is_full=True),
)  # fmt: skip
TABLE = keyset.table(JobFilters, COLUMNS, "-created")


def ask(params: QueryDict) -> keyset.Question:
    """What an address asks of jobs."""
    return keyset.ask(TABLE, params, Job.objects.select_related("host", "run"))
