"""The table of datasets. Runs in the web process; reads only."""

from django.db.models import F, Q
from django.http import QueryDict

from controlplane.models import Dataset
from controlplane.models.datasets import DatasetStatus
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column, named
from controlplane.services.tables.filters import Filters, found_in, one_of, text


class DatasetFilters(Filters):
    """What can be asked of datasets."""

    status = one_of("Status", "status", DatasetStatus.choices)
    name = text("Name", "name")
    generator = text("Generator", "generator")
    created_by = text("Uploaded by", "created_by")

    def words(self, word: str) -> Q:
        """A word is found in the name or the file's."""
        return found_in(word, "name", "filename")


COLUMNS = (
    named("dataset", "name"),
    Column("status", "status", "state", F("status"), is_full=True),
    Column("examples", "examples", "count", F("examples")),
    Column("bytes", "size", "bytes", F("bytes"), is_full=True, is_wide=True),
    named("filename", "filename", "file", is_wide=True),
    named("created_by", "created_by", "by", is_wide=True),
    Column("created", "uploaded", "moment", F("id"), is_full=True, is_wide=True),
)
TABLE = keyset.table(DatasetFilters, COLUMNS, "-created")


def ask(params: QueryDict) -> keyset.Question:
    """What an address asks of datasets."""
    return keyset.ask(TABLE, params, Dataset.objects.select_related("job").defer("report"))
