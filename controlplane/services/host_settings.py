"""What an admin says of a host: what it is for, what it is labelled with, where it belongs. Runs in the web process."""

import re
from collections.abc import Sequence
from typing import Any

from django.db import transaction

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.legible import is_legible
from controlplane.live.announce import publish
from controlplane.models import Host
from controlplane.models.access import Actor, Role
from controlplane.models.hosts import HostRole, OnLoss
from controlplane.services import bell, hosts
from controlplane.services.access import audit

LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._=-]{0,38}[A-Za-z0-9])?")
LABEL_FORM = "1 to 40 letters, digits and . _ = - inside"
MOST_LABELS = 20
LONGEST_GROUP = 80
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,199}")


def edit(
    actor: Actor, name: str, *, role: str | None = None, labels: Sequence[str] | None = None, group: str | None = None,
    address: str | None = None, on_loss: str | None = None,
) -> Host:  # fmt: skip
    """Changes what is given and leaves the rest. Raises NotFoundError, InvalidInputError (nothing is changed then)."""
    actor.require(Role.ADMIN)
    host = hosts.get(name)
    changes: dict[str, Any] = {}
    if role is not None:
        changes["role"] = _role(role)
    if labels is not None:
        changes["labels"] = _labels(labels)
    if group is not None:
        changes["group"] = _group(group)
    if address is not None:
        changes["address"] = _address(address)
    if on_loss is not None:
        changes["on_loss"] = _on_loss(on_loss)
    with transaction.atomic():
        Host.objects.filter(pk=host.pk).update(**changes)
        audit(actor, "host.edit", f"host {name}", **changes)
        publish("hosts", "status", {"host": name})
        transaction.on_commit(bell.wake)
    return hosts.get(name)


def _role(word: str) -> str:
    if word not in HostRole.values:
        choice = ", ".join(HostRole.values)
        raise InvalidInputError(f"There is no role {word!r}: choose {choice}.", (FieldFault("role", choice),))
    return word


def _on_loss(word: str) -> str:
    if word not in OnLoss.values:
        choice = "wait, resume or empty (the setting fleet.on_host_loss)"
        fault = FieldFault("on_loss", choice)
        raise InvalidInputError(f"There is no {word!r} for a lost host: choose {choice}.", (fault,))
    return word


def _labels(given: Sequence[str]) -> list[str]:
    labels = list(dict.fromkeys(label.strip() for label in given if label.strip()))
    for label in labels:
        if not LABEL.fullmatch(label):
            raise InvalidInputError(f"{label[:60]!r} is no label: {LABEL_FORM}.", (FieldFault("labels", LABEL_FORM),))
    if len(labels) > MOST_LABELS:
        message = f"A host has at most {MOST_LABELS} labels."
        raise InvalidInputError(message, (FieldFault("labels", message),))
    return sorted(labels)


def _group(given: str) -> str:
    group = given.strip()
    if len(group) > LONGEST_GROUP or (group and not is_legible(group)):
        message = f"The name of a group has at most {LONGEST_GROUP} printable characters."
        raise InvalidInputError(message, (FieldFault("group", message),))
    return group


def _address(given: str) -> str:
    address = given.strip()
    if address and not ADDRESS.fullmatch(address):
        message = "An address is a host name or an IP address, without a port."
        raise InvalidInputError(message, (FieldFault("address", message),))
    return address
