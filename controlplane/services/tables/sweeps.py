"""The table of sweeps of training runs. Runs in the web process; reads only."""

from django.db.models import F, Q
from django.http import QueryDict

from controlplane.models import RunSweep
from controlplane.models.run_sweeps import SweepState
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column, named
from controlplane.services.tables.filters import Filters, found_in, one_of, text


class SweepFilters(Filters):
    """What can be asked of sweeps."""

    state = one_of("State", "state", SweepState.choices)
    model = text("Model", "model__name")
    dataset = text("Dataset", "dataset__name")
    created_by = text("Begun by", "created_by")

    def words(self, word: str) -> Q:
        """A word is found in the name."""
        return found_in(word, "name")


COLUMNS = (
    named("sweep", "name"),
    Column("state", "state", "state", F("state"), is_full=True),
    Column("trials", "runs", "count", F("max_trials"), is_full=True),
    Column("best", "best", "number"),
    Column("varies", "varies", "text", is_wide=True),
    Column("model", "model", "text", F("model__name"), is_full=True, is_wide=True),
    Column("dataset", "dataset", "text", F("dataset__name"), is_full=True, is_wide=True),
    Column("created", "started", "moment", F("id"), is_full=True, is_wide=True),
)
TABLE = keyset.table(SweepFilters, COLUMNS, "-created")


def ask(params: QueryDict) -> keyset.Question:
    """What an address asks of sweeps."""
    return keyset.ask(TABLE, params, RunSweep.objects.select_related("model", "dataset").prefetch_related("trials"))
