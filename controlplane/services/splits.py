"""Names behind which several models answer, by weights: an A/B of two models, or a new one for a few at first.

Runs in the web process.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import IntegrityError, transaction

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import LanguageModel, Split
from controlplane.models.access import Actor, Role
from controlplane.services import models
from controlplane.services.access import audit

MOST_PARTS = 8
MOST_WEIGHT = 1000


def list_splits() -> list[Split]:
    """All of them by name."""
    return list(Split.objects.all())


def get(name: str) -> Split:
    """The split. Raises NotFoundError."""
    split = Split.objects.filter(name=name).first()
    if split is None:
        raise NotFoundError(f"There is no split {name!r}. GET /api/splits lists them.")
    return split


def facts(split: Split) -> dict[str, Any]:
    """A split as the API tells it; `share` of the requests, from 0 to 1."""
    total = sum(part["weight"] for part in split.parts)
    parts = [{**part, "share": part["weight"] / total} for part in split.parts]
    return {"name": split.name, "parts": parts, "created_by": split.created_by,
            "created_at": split.created_at.isoformat()}  # fmt: skip


def put(actor: Actor, name: str, parts: Sequence[Mapping[str, Any]]) -> Split:
    """Makes a split, or gives it other parts ({"model", "weight"}); the next request goes by them.

    Raises InvalidInputError, ConflictError where a model has that name, NotFoundError for a model that isn't there.
    """
    actor.require(Role.ADMIN)
    models.check_name(name)
    checked = _checked(parts)
    try:
        with transaction.atomic():
            if LanguageModel.objects.filter(name=name).exists():
                raise ConflictError(f"There is a model {name!r}. Choose another name for the split.")
            split, _ = Split.objects.update_or_create(
                name=name, defaults={"parts": checked}, create_defaults={"parts": checked, "created_by": actor.name}
            )
            audit(actor, "split.put", name, parts=checked)
            publish("models", "split", {"name": name})
    except IntegrityError as error:
        raise ConflictError(f"Another split became {name!r} at this moment. Try it again.") from error
    return split


def _checked(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = [models.get(str(part["model"])).name for part in parts]
    weights = [part["weight"] for part in parts]
    if not 1 <= len(names) <= MOST_PARTS or len(set(names)) < len(names):
        raise InvalidInputError(
            f"A split has 1 to {MOST_PARTS} models, each once.", (FieldFault("parts", f"1 to {MOST_PARTS} models"),)
        )
    if any(not 0 <= weight <= MOST_WEIGHT for weight in weights) or not sum(weights):
        raise InvalidInputError(
            f"Weights lie between 0 and {MOST_WEIGHT}, and one of them is above 0.",
            (FieldFault("parts", f"weights from 0 to {MOST_WEIGHT}"),),
        )
    return [{"model": name, "weight": weight} for name, weight in zip(names, weights, strict=True)]


def delete(actor: Actor, name: str) -> None:
    """Takes the name away; its models stay."""
    actor.require(Role.ADMIN)
    split = get(name)
    with transaction.atomic():
        Split.objects.filter(pk=split.pk).delete()
        audit(actor, "split.delete", name)
        publish("models", "split", {"name": name, "gone": True})


def in_order(split: Split, user: str = "") -> list[str]:
    """The split's models, the one that a request goes to first; the others, heaviest first, stand in for it.

    The same `user` (OpenAI's option of that name) always gets the same model while the parts stay as they are.
    """
    weighty = [part for part in split.parts if part["weight"] > 0]
    total = sum(part["weight"] for part in weighty)
    if user:
        digest = hashlib.sha256(f"{split.name}\0{user}".encode()).digest()
        point = int.from_bytes(digest[:8], "big") / 2**64 * total
    else:
        point = random.random() * total  # noqa: S311 - a draw, not a secret
    chosen = weighty[-1]
    for part in weighty:
        point -= part["weight"]
        if point < 0:
            chosen = part
            break
    others = sorted((part for part in weighty if part is not chosen), key=lambda part: -part["weight"])
    return [part["model"] for part in (chosen, *others)]
