"""The table of data that models generate. Runs in the web process; reads only."""

from django.db.models import F, Q
from django.http import QueryDict

from controlplane.models.generated import Strategy
from controlplane.models.jobs import Status
from controlplane.services import data_generation
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column, named
from controlplane.services.tables.filters import Filters, found_in, one_of, text


class GenerationFilters(Filters):
    """What can be asked of generations."""

    status = one_of("Status", "job__status", Status.choices)
    strategy = one_of("Strategy", "strategy", Strategy.choices)
    model = text("Model", "model_name")
    created_by = text("Asked by", "created_by")

    def words(self, word: str) -> Q:
        """A word is found in the name, the model's or that of the seeds."""
        return found_in(word, "name", "model_name", "seeds_name")


COLUMNS = (
    named("data", "name"),
    Column("status", "status", "state", F("job__status"), is_full=True),
    Column("examples", "examples", "count"),
    Column("review", "review", "text"),
    named("seeds", "seeds_name", "seeds", is_wide=True),
    Column("dataset", "dataset", "text", F("dataset__name"), is_wide=True),
    Column("created", "asked", "moment", F("id"), is_full=True, is_wide=True),
)
TABLE = keyset.table(GenerationFilters, COLUMNS, "-created")


def ask(params: QueryDict) -> keyset.Question:
    """What an address asks of generations."""
    return keyset.ask(TABLE, params, data_generation.rows())
