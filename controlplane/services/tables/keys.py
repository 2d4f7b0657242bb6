"""The table of API keys. Runs in the web process; reads only."""

from typing import Any

import django_filters
from django.db.models import F, Q, QuerySet
from django.http import QueryDict
from django.utils import timezone

from controlplane.models import ApiKey
from controlplane.models.access import ROLE_CHOICES, Actor, Role
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column, named
from controlplane.services.tables.filters import Filters, found_in, one_of, text

STATES = (("valid", "valid"), ("revoked", "revoked"), ("expired", "expired"))


class KeyFilters(Filters):
    """What can be asked of keys."""

    state = django_filters.ChoiceFilter(
        label="State", choices=STATES, method="in_state",
        error_messages={"invalid_choice": "There is no state %(value)s. There are: valid, revoked, expired."},
    )  # fmt: skip
    role = one_of("Role", "role", ROLE_CHOICES)
    created_by = text("Made by", "created_by")

    def words(self, word: str) -> Q:
        """A word is found in the name or at the beginning of the key."""
        return found_in(word, "name", "prefix")

    def in_state(self, rows: "QuerySet[Any]", _name: str, state: str) -> "QuerySet[Any]":
        """Keys that open something, that were revoked, or whose time is over."""
        if state == "revoked":
            return rows.filter(revoked_at__isnull=False)
        is_over = Q(expires_at__lte=timezone.now())
        rows = rows.filter(revoked_at=None)
        return rows.filter(is_over) if state == "expired" else rows.exclude(is_over)


COLUMNS = (
    named("key", "name"),
    Column("role", "role", "text", F("role"), is_full=True),
    Column("created", "made", "moment", F("id"), is_full=True, is_wide=True),
    Column("used", "last used", "moment", F("last_used_at"), is_wide=True),
    Column("expires", "ends", "moment", F("expires_at"), is_wide=True),
    Column("limits", "limits", "text", is_wide=True),
)
TABLE = keyset.table(KeyFilters, COLUMNS, "-created")


def ask(actor: Actor, params: QueryDict) -> keyset.Question:
    """What an address asks of keys (admin)."""
    actor.require(Role.ADMIN)
    return keyset.ask(TABLE, params, ApiKey.objects.all())
