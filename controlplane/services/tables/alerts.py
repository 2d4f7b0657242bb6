"""The table of alerts. Runs in the web process; reads only."""

from django.db.models import Case, F, IntegerField, Q, Value, When
from django.http import QueryDict

from controlplane.models import Alert
from controlplane.models.alerts import RANK, Severity
from controlplane.services import alert_rules
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column
from controlplane.services.tables.filters import Filters, found_in, one_of
from controlplane.services.tables.spans import SecondsBetween


class AlertFilters(Filters):
    """What can be asked of alerts."""

    severity = one_of("Severity", "severity", Severity.choices)
    rule = one_of("Rule", "rule", [(rule.key, rule.title) for rule in alert_rules.RULES])

    def words(self, word: str) -> Q:
        """A word is found in what an alert is about, or in what it says."""
        return found_in(word, "subject", "message")


_URGENCY = Case(
    *(When(severity=word, then=Value(rank)) for word, rank in RANK.items()), default=Value(0),
    output_field=IntegerField(),
)  # fmt: skip
COLUMNS = (
    Column("what", "what", "text", F("rule"), is_full=True),
    Column("severity", "severity", "state", _URGENCY, is_full=True),
    Column("said", "what it said", "text", is_wide=True),
    Column("lasted", "went on", "duration", SecondsBetween("created_at", "ended_at"), is_wide=True),
    Column("created", "began", "moment", F("id"), is_full=True),
)  # fmt: skip
TABLE = keyset.table(AlertFilters, COLUMNS, "-created")


def ask(params: QueryDict, *, is_open: bool | None = None) -> keyset.Question:
    """What an address asks of alerts: of all, of those that go on or of those that are over."""
    rows = Alert.objects.order_by()
    return keyset.ask(TABLE, params, rows if is_open is None else rows.filter(ended_at__isnull=is_open))
