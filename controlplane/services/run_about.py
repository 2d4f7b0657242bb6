"""What people say of a run: its name, tags, group and notes. Runs in the web process.

`Run.edition` counts these changes. Whoever names the edition that they have seen is refused when it isn't the last one,
and told what has changed meanwhile and by whom.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.db import transaction
from django.db.models import F

from controlplane.errors import ConflictError, FieldFault, InvalidInputError
from controlplane.legible import is_legible
from controlplane.models import AuditLine, Job, Run, RunTag
from controlplane.models.access import Actor
from controlplane.services import jobs, run_facts, runs
from controlplane.services.access import audit

LONGEST_NAME, LONGEST_GROUP, LONGEST_TAG, LONGEST_NOTES = 200, 100, 50, 20_000
MOST_TAGS = 20
TRIES = 5
ACTION = "run.change"


class StaleEditionError(ConflictError):
    """Somebody has changed the run since its edition was read; `run` is what it is now, `changed` what was."""

    def __init__(self, run: Run, changed: Iterable[str], by: str) -> None:
        self.run, self.changed = run, tuple(changed)
        what = ", ".join(self.changed) or "it"
        super().__init__(
            f"{by or 'Somebody'} has changed run {run.pk} meanwhile: {what}. Look at it as it is now, then save again."
        )


def about(run: Run) -> dict[str, Any]:
    """The words on a run."""
    return {"name": run.name, "tags": run_facts.tag_names(run), "group": run.group, "notes": run.notes}


def change(actor: Actor, run_id: int, changes: Mapping[str, Any], edition: int | None = None) -> Run:
    """Changes what is given of name, tags, group and notes (who started it, or an admin).

    Raises InvalidInputError with the field at fault, StaleEditionError where `edition` isn't the last one.
    """
    run = runs.get(run_id)
    actor.require_owner(f"Run {run_id}", run.created_by)
    wanted = checked(changes)
    with transaction.atomic():
        before = about(run)
        changed = {name: value for name, value in wanted.items() if value != before[name]}
        if edition is not None and edition != run.edition:
            raise _stale(run, edition)
        if not changed:
            return run
        _store(run, changed)
        noted = {name: value[:200] if isinstance(value, str) else value for name, value in changed.items()}
        audit(actor, ACTION, f"run {run_id}", edition=run.edition + 1, **noted)
        if "name" in changed:
            Job.objects.filter(pk=run.job_id).update(title=changed["name"])
            jobs.announce(jobs.get(run.job_id))
    return runs.get(run_id)


def _store(run: Run, changed: Mapping[str, Any]) -> None:
    """By compare-and-set on the edition."""
    columns = {name: value for name, value in changed.items() if name != "tags"}
    if not Run.objects.filter(pk=run.pk, edition=run.edition).update(edition=F("edition") + 1, **columns):
        raise _stale(runs.get(run.pk), run.edition)
    if "tags" in changed:
        run.tags.exclude(name__in=changed["tags"]).delete()
        RunTag.objects.bulk_create([RunTag(run=run, name=name) for name in changed["tags"]], ignore_conflicts=True)


def _stale(run: Run, edition: int) -> StaleEditionError:
    """Who has changed what since an edition, as the audit log has it."""
    lines = AuditLine.objects.filter(action=ACTION, target=f"run {run.pk}").order_by("-id")[: run.edition]
    since = [line for line in lines if line.detail.get("edition", 0) > edition]
    names = dict.fromkeys(name for line in reversed(since) for name in line.detail if name != "edition")
    return StaleEditionError(run, names, since[0].actor if since else "")


def add_tags(actor: Actor, run_id: int, tags: Iterable[str]) -> Run:
    """Adds tags to those that are there."""
    added = list(tags)
    return _change_tags(actor, run_id, lambda names: [*names, *added])


def remove_tags(actor: Actor, run_id: int, tags: Iterable[str]) -> Run:
    """Takes tags away; those that it doesn't have are no fault."""
    gone = set(tags)
    return _change_tags(actor, run_id, lambda names: [name for name in names if name not in gone])


def _change_tags(actor: Actor, run_id: int, wanted: Callable[[list[str]], list[str]]) -> Run:
    """Makes new tags of those that are there; anew where somebody changes the run in between."""
    for tries_left in reversed(range(TRIES)):
        edition = runs.get(run_id).edition  # before the tags: a change behind it is refused
        try:
            return change(actor, run_id, {"tags": wanted(_tags_of(run_id))}, edition)
        except StaleEditionError:
            if not tries_left:
                raise
    raise AssertionError("the last try answers or raises")


def _tags_of(run_id: int) -> list[str]:
    return list(RunTag.objects.filter(run=run_id).values_list("name", flat=True))


# --- What may be said -------------------------------------------------------------------------------------------------


def checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, tidied. Raises InvalidInputError with the field at fault."""
    found: dict[str, Any] = {}
    if "name" in changes:
        found["name"] = str(changes["name"]).strip()
        if not found["name"] or not _is_short(found["name"], LONGEST_NAME):
            raise _refused("name", f"A run needs a name of 1 to {LONGEST_NAME} printable characters.")
    if "group" in changes:
        found["group"] = str(changes["group"]).strip()
        if not _is_short(found["group"], LONGEST_GROUP):
            raise _refused("group", f"A group's name has at most {LONGEST_GROUP} printable characters.")
    if "notes" in changes:
        found["notes"] = str(changes["notes"]).replace("\r\n", "\n").strip()
        if len(found["notes"]) > LONGEST_NOTES:
            raise _refused("notes", f"Notes have at most {LONGEST_NOTES:,} characters.")
        if "\0" in found["notes"]:
            raise _refused("notes", "Notes hold a NUL, which no text has. Take it out.")
    if "tags" in changes:
        found["tags"] = checked_tags(changes["tags"])
    return found


def checked_tags(tags: str | Iterable[str]) -> list[str]:
    """Tags without doubles, in order; a text has commas between them. Raises InvalidInputError."""
    items = tags.split(",") if isinstance(tags, str) else [str(tag) for tag in tags]
    names = sorted({item.strip() for item in items if item.strip()})
    if any(not _is_short(name, LONGEST_TAG) or "," in name for name in names):
        raise _refused("tags", f"A tag has at most {LONGEST_TAG} printable characters and no comma.")
    if len(names) > MOST_TAGS:
        raise _refused("tags", f"A run has at most {MOST_TAGS} tags, not {len(names)}.")
    return names


def _is_short(text: str, longest: int) -> bool:
    return len(text) <= longest and is_legible(text)


def _refused(path: str, message: str) -> InvalidInputError:
    return InvalidInputError(message, (FieldFault(path, message),))
