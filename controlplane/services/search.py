"""Runs, models and datasets by their names: what the command palette finds. Runs in the web process."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Q

from controlplane.models import Dataset, Run
from controlplane.models.access import Actor, Role
from controlplane.models.language_models import ModelState
from controlplane.row_ids import row_id
from controlplane.services import models

FOUND_OF_A_KIND = 6
LONGEST_QUESTION = 200


@dataclass(frozen=True)
class Hit:
    """Something that was found. `id`: a row's number, or a model's name."""

    kind: str
    id: int | str
    name: str
    detail: str
    can_activate: bool = False


def find(actor: Actor, words: str) -> list[Hit]:
    """What has each of the words in its name, of every kind the newest; a number finds run and dataset by it too."""
    actor.require(Role.READ)
    asked = words[:LONGEST_QUESTION].split()
    return [*_models(actor, asked), *_runs(asked), *_datasets(asked)] if asked else []


def _named(words: list[str]) -> Q:
    """In the name every word, or the only word is its number."""
    wanted = Q()
    for word in words:
        wanted &= Q(name__icontains=word)
    number = row_id(words[0].removeprefix("#")) if len(words) == 1 else None
    return wanted if number is None else wanted | Q(pk=number)


def _models(actor: Actor, words: list[str]) -> Iterator[Hit]:
    may_activate = actor.role >= Role.ADMIN
    for model in models.find(words, FOUND_OF_A_KIND):
        serves = bool(getattr(model, "serves", False))
        can_activate = may_activate and model.state == ModelState.READY and not serves
        yield Hit("model", model.name, model.name, "active" if serves else model.state, can_activate)


def _runs(words: list[str]) -> Iterator[Hit]:
    for run in Run.objects.filter(_named(words)).select_related("job").order_by("-pk")[:FOUND_OF_A_KIND]:
        yield Hit("run", run.pk, f"{run.pk} · {run.name}", run.job.status)


def _datasets(words: list[str]) -> Iterator[Hit]:
    for row in Dataset.objects.filter(_named(words)).defer("report").order_by("-pk")[:FOUND_OF_A_KIND]:
        yield Hit("dataset", row.pk, f"{row.name} v{row.version}", row.status)
