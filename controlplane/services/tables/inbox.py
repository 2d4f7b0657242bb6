"""The table of files that came by the inbox. Runs in the web process; reads only."""

from django.db.models import BigIntegerField, Case, F, Q, When
from django.http import QueryDict

from controlplane.models import InboxFile
from controlplane.models.inbox import OVER, InboxState
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column, named
from controlplane.services.tables.filters import Filters, found_in, one_of

BEYOND_ALL = 2**60
"""What is under way is numbered from here on: above all that is over."""


class InboxFilters(Filters):
    """What can be asked of the inbox."""

    state = one_of("State", "state", InboxState.choices)

    def words(self, word: str) -> Q:
        """A word is found in the file's name or in the reason."""
        return found_in(word, "filename", "reason")


_UNDER_WAY_FIRST = Case(
    When(state__in=OVER, then=F("id")), default=BEYOND_ALL - F("id"), output_field=BigIntegerField()
)
COLUMNS = (
    named("file", "filename"),
    Column("state", "state", "state", F("state"), is_full=True),
    Column("why", "why", "text"),
    Column("leads_to", "leads to", "text", is_wide=True),
    Column("bytes", "size", "bytes", F("bytes"), is_full=True, is_wide=True),
    Column("seen", "seen", "moment", F("id"), is_full=True, is_wide=True),
    Column("usual", "under way, then the newest", "moment", _UNDER_WAY_FIRST, is_full=True, is_hidden=True),
)
TABLE = keyset.table(InboxFilters, COLUMNS, "-usual")


def ask(params: QueryDict) -> keyset.Question:
    """What an address asks of the inbox."""
    return keyset.ask(TABLE, params, InboxFile.objects.select_related("dataset", "run", "run__job"))
