"""The table of power sweeps. Runs in the web process; reads only."""

from django.db.models import F, Q
from django.http import QueryDict

from controlplane.models import PowerSweep
from controlplane.models.telemetry import SweepStatus
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column, named
from controlplane.services.tables.filters import Filters, found_in, one_of, text


class PowerSweepFilters(Filters):
    """What can be asked of power sweeps."""

    status = one_of("Status", "status", SweepStatus.choices)
    model = text("Model", "model_name")
    host = text("Host", "host__name")
    created_by = text("Started by", "created_by")

    def words(self, word: str) -> Q:
        """A word is found in the model's name or the host's."""
        return found_in(word, "model_name", "host__name")


COLUMNS = (
    named("sweep", "model_name"),
    Column("status", "status", "state", F("status"), is_full=True),
    Column("gpu", "GPU", "text", F("host__name"), is_full=True, is_wide=True),
    Column("recommended", "recommends", "text", F("recommended"), is_full=True),
    named("created_by", "created_by", "by", is_wide=True),
    Column("created", "started", "moment", F("id"), is_full=True),
)
TABLE = keyset.table(PowerSweepFilters, COLUMNS, "-created")


def ask(params: QueryDict) -> keyset.Question:
    """What an address asks of power sweeps."""
    return keyset.ask(TABLE, params, PowerSweep.objects.select_related("host"))
