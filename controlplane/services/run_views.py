"""Saved views of the table of runs: a name for filters, columns and an order. Runs in the web process.

A view is its maker's own; an admin may share one with all.
"""

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.http import QueryDict

from controlplane.errors import ConflictError, FieldFault, ForbiddenError, InvalidInputError, NotFoundError
from controlplane.legible import is_legible
from controlplane.models import RunView
from controlplane.models.access import Actor, Role
from controlplane.services import run_table
from controlplane.services.access import audit

LONGEST_NAME, LONGEST_QUERY, MOST_VIEWS = 100, 4000, 100


def list_views(actor: Actor) -> list[RunView]:
    """One's own, then those that others share, each by name: as many as a menu can hold."""
    mine = list(RunView.objects.filter(owner=actor.owner)[:MOST_VIEWS])
    others = RunView.objects.filter(is_shared=True).exclude(owner=actor.owner)
    return [*mine, *others[: 2 * MOST_VIEWS - len(mine)]]


def get(actor: Actor, view_id: int) -> RunView:
    """A view that this actor sees. Raises NotFoundError."""
    row = RunView.objects.filter(Q(owner=actor.owner) | Q(is_shared=True), pk=view_id).first()
    if row is None:
        raise NotFoundError(f"There is no saved view {view_id}, or it isn't shared with you.")
    return row


def save(actor: Actor, name: str, query: str) -> RunView:
    """Saves what an address asks for; one's own view of that name is replaced. Raises InvalidInputError."""
    actor.require(Role.USE)
    name = name.strip()
    if not 1 <= len(name) <= LONGEST_NAME or not is_legible(name):
        raise _refused("name", f"A view needs a name of 1 to {LONGEST_NAME} printable characters.")
    kept = run_table.view_of(QueryDict(query.removeprefix("?"))) if len(query) <= LONGEST_QUERY else query
    if len(kept) > LONGEST_QUERY:  # signs of other scripts are longer once they are encoded
        raise _refused("query", f"A view's address has at most {LONGEST_QUERY:,} characters: choose fewer columns.")
    mine = RunView.objects.filter(owner=actor.owner)
    if mine.exclude(name=name).count() >= MOST_VIEWS:
        raise ConflictError(f"You have {MOST_VIEWS} saved views: delete one first.")
    try:
        with transaction.atomic():
            row, _ = RunView.objects.update_or_create(
                owner=actor.owner, name=name, defaults={"query": kept, "created_by": actor.name}
            )
            audit(actor, "run_view.save", f"run view {row.pk}", name=name, query=kept)
    except IntegrityError:
        raise ConflictError(f"The view {name} was saved by somebody else at this moment: save it again.") from None
    return row


def share(actor: Actor, view_id: int, is_shared: bool) -> RunView:
    """Shows a view to everybody, or to its maker alone again (an admin)."""
    actor.require(Role.ADMIN)
    row = get(actor, view_id)
    with transaction.atomic():
        RunView.objects.filter(pk=row.pk).update(is_shared=is_shared)
        audit(actor, "run_view.share" if is_shared else "run_view.unshare", f"run view {row.pk}", name=row.name)
    row.is_shared = is_shared
    return row


def remove(actor: Actor, view_id: int) -> None:
    """Forgets a view (its maker, or an admin where it is shared)."""
    actor.require(Role.USE)
    row = get(actor, view_id)
    if row.owner != actor.owner and actor.role < Role.ADMIN:
        raise ForbiddenError(f"The view {row.name} belongs to {row.created_by}: only they or an admin may change it.")
    with transaction.atomic():
        row.delete()
        audit(actor, "run_view.delete", f"run view {view_id}", name=row.name)


def _refused(path: str, message: str) -> InvalidInputError:
    return InvalidInputError(message, (FieldFault(path, message),))
