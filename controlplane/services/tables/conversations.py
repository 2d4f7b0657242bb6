"""The table of somebody's own conversations. Runs in the web process; reads only."""

from django.db.models import F, Q
from django.http import QueryDict

from controlplane.models import Conversation
from controlplane.models.access import Actor
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column, named
from controlplane.services.tables.filters import Filters
from controlplane.services.tables.json_values import JsonText


class ConversationFilters(Filters):
    """What can be asked of conversations."""

    def words(self, word: str) -> Q:
        """A word is found in the title."""
        return Q(title__icontains=word)


COLUMNS = (
    named("conversation", "title"),
    Column("model", "model", "text", JsonText("settings", "model"), is_wide=True),
    Column("questions", "questions", "count"),
    Column("used", "last used", "moment", F("updated_at"), is_full=True),
)
TABLE = keyset.table(ConversationFilters, COLUMNS, "-used")


def ask(actor: Actor, params: QueryDict) -> keyset.Question:
    """What an address asks of the actor's own conversations; `search` is `q` by its older name."""
    if "search" in params and "q" not in params:
        params = params.copy()
        params.setlist("q", params.getlist("search"))
    return keyset.ask(TABLE, params, Conversation.objects.filter(owner=actor.owner))
