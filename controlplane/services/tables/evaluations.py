"""The table of evaluations. Runs in the web process; reads only."""

from django.db.models import F, Q
from django.http import QueryDict

from controlplane.models.jobs import Status
from controlplane.services import evaluations
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column, named
from controlplane.services.tables.filters import Filters, found_in, one_of, text


class EvaluationFilters(Filters):
    """What can be asked of evaluations."""

    status = one_of("Status", "job__status", Status.choices)
    model = text("Model", "model_name")
    dataset = text("Dataset", "dataset_name")
    created_by = text("Asked by", "created_by")

    def words(self, word: str) -> Q:
        """A word is found in the name, the model's or the dataset's."""
        return found_in(word, "name", "model_name", "dataset_name")


COLUMNS = (
    named("evaluation", "name"),
    Column("status", "status", "state", F("job__status"), is_full=True),
    Column("figure", "figure", "number"),
    Column("interval", "95 % interval", "number", is_wide=True),
    Column("rows", "rows", "count", is_wide=True),
    named("dataset", "dataset_name", "dataset", is_wide=True),
    Column("created", "asked", "moment", F("id"), is_full=True, is_wide=True),
)
TABLE = keyset.table(EvaluationFilters, COLUMNS, "-created")


def ask(params: QueryDict) -> keyset.Question:
    """What an address asks of evaluations."""
    return keyset.ask(TABLE, params, evaluations.rows())
