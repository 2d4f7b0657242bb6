"""The table of models. Runs in the web process; reads only."""

from datetime import UTC, datetime

from django.db.models import Case, F, Q, Value, When
from django.http import QueryDict

from controlplane.models.language_models import ModelState
from controlplane.services import models
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column, named
from controlplane.services.tables.filters import Filters, one_of, text

BEFORE_ALL = Value(datetime(9999, 1, 1, tzinfo=UTC))
"""Where the active model stands among moments."""


class ModelFilters(Filters):
    """What can be asked of models."""

    state = one_of("State", "state", ModelState.choices)
    family = text("Family", "family")
    source = text("Source", "source")
    kind = text("Kind", "kind")

    def words(self, word: str) -> Q:
        """A word is found in the name or what it was fetched from."""
        return Q(name__icontains=word) | Q(hub_id__icontains=word)


COLUMNS = (
    named("model", "name"),
    Column("state", "state", "state", F("state"), is_full=True),
    Column("parameters", "parameters", "count", F("parameters"), is_wide=True),
    Column("bytes", "size", "bytes", F("size_bytes"), is_wide=True),
    named("kind", "kind", is_wide=True),
    Column("created", "added", "moment", F("created_at"), is_full=True, is_wide=True),
    Column(
        "usual", "active one, then the newest", "moment", is_full=True, is_hidden=True,
        order=Case(When(serves=True, then=BEFORE_ALL), default=F("created_at")),
    ),
)  # fmt: skip
TABLE = keyset.table(ModelFilters, COLUMNS, "-usual")


def ask(params: QueryDict) -> keyset.Question:
    """What an address asks of models."""
    return keyset.ask(TABLE, params, models.listed())
