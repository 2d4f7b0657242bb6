"""The table of who did what. Runs in the web process; reads only."""

from django.db.models import F, Q
from django.http import QueryDict

from controlplane.models import AuditLine
from controlplane.models.access import Actor, Role
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column
from controlplane.services.tables.filters import Filters, text


class AuditFilters(Filters):
    """What can be asked of the audit log."""

    actor = text("Who", "actor")
    action = text("What", "action")
    target = text("To what", "target")

    def words(self, word: str) -> Q:
        """A word is found in who, what, to what or from where."""
        return (
            Q(actor__icontains=word) | Q(action__icontains=word) | Q(target__icontains=word)
            | Q(address__icontains=word)
        )  # fmt: skip


COLUMNS = (
    Column("time", "when", "moment", F("id"), is_full=True, is_left=True),
    Column("actor", "who", "text", F("actor"), is_full=True),
    Column("action", "what", "text", F("action"), is_full=True),
    Column("target", "to what", "text", F("target"), is_full=True),
    Column("detail", "detail", "text", is_wide=True),
    Column("address", "from", "text", F("address"), is_full=True, is_wide=True),
)
TABLE = keyset.table(AuditFilters, COLUMNS, "-time")


def ask(actor: Actor, params: QueryDict) -> keyset.Question:
    """What an address asks of the audit log (admin)."""
    actor.require(Role.ADMIN)
    return keyset.ask(TABLE, params, AuditLine.objects.all())
