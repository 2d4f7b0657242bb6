"""Versions of a model: what runs make under one name, one after the other. Runs in the web process.

The first is called NAME, the next ones NAME-v2, NAME-v3, and so on; all stay, until somebody deletes one. Each is a
model of its own, so any of them can be activated, evaluated and compared.
"""

from typing import Any, NamedTuple

from django.db.models import Max

from controlplane.models import Deployment, Evaluation, LanguageModel
from controlplane.models.jobs import Status
from controlplane.services import deployments

MADE_HERE = ("run", "checkpoint")
"""Sources of models that may have versions. What was fetched from elsewhere stays what it is."""


LONGEST_FAMILY = 190
"""Characters of a name that leaves room for the number of a version."""


class Place(NamedTuple):
    """What a new model is to be called, and which version of what it is."""

    name: str
    family: str
    version: int


def may_follow(name: str) -> bool:
    """Whether a run may make a model of this name: it is free, or its model was made here and gets a next version."""
    source = LanguageModel.objects.filter(name=name).values_list("source", flat=True).first()
    return source is None or source in MADE_HERE


def next_place(wanted: str) -> Place:
    """The place of a new model under a name that `may_follow`; it may be the name of any version of the family."""
    there = LanguageModel.objects.filter(name=wanted).values_list("family", flat=True).first()
    family = there or wanted
    newest = LanguageModel.objects.filter(family=family).aggregate(newest=Max("version"))["newest"]
    if newest is None:
        return Place(family, family, 1)
    version = newest + 1
    while LanguageModel.objects.filter(name=f"{family}-v{version}").exists():
        version += 1
    return Place(f"{family}-v{version}", family, version)


def of_family(model: LanguageModel) -> list[dict[str, Any]]:
    """All versions beside a model, newest first: {"model", "is_active", "activated_at", "evaluation"}; nothing where
    it is the only one.

    `activated_at` is when a version last took the active place, `evaluation` its newest that is done.
    """
    rows = list(LanguageModel.objects.filter(family=model.family).select_related("run").order_by("-version"))
    if len(rows) < 2:
        return []
    active = deployments.active()
    evaluations: dict[Any, Evaluation] = {}
    done = Evaluation.objects.filter(model__in=rows, job__status=Status.DONE).select_related("job", "dataset")
    for evaluation in done.order_by("id"):
        evaluations[evaluation.model_id] = evaluation
    activated: dict[Any, Any] = {}
    for deployment in Deployment.objects.filter(model__in=rows).exclude(activated_at=None).order_by("activated_at"):
        activated[deployment.model_id] = deployment.activated_at
    return [
        {
            "model": row, "is_active": active is not None and active.model_id == row.pk,
            "activated_at": activated.get(row.pk), "evaluation": evaluations.get(row.pk),
        }
        for row in rows
    ]  # fmt: skip
