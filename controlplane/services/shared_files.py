"""File systems that the control plane and a host share, as somebody has declared them. Runs in the web process."""

from pathlib import PurePosixPath

from django.db import transaction

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.live.announce import publish
from controlplane.models import Host
from controlplane.models.access import Actor, Role
from controlplane.services import hosts
from controlplane.services.access import audit
from controlplane.services.artefacts import home

LONGEST_PATH = 1000


def declare(actor: Actor, name: str, here: str, there: str) -> Host:
    """Says that what the control plane sees under `here`, the host sees under `there`; two empty paths: nothing.

    Raises InvalidInputError unless both are absolute and the library lies under `here`.
    """
    actor.require(Role.ADMIN)
    host = hosts.get(name)
    here, there = here.strip(), there.strip()
    shared = {"here": _checked("here", here), "there": _checked("there", there)} if here or there else None
    if shared is not None and not home().is_relative_to(shared["here"]):
        message = f"The library lies in {home()}, which is not under {shared['here']}."
        raise InvalidInputError(message, (FieldFault("here", f"a folder above {home()}"),))
    with transaction.atomic():
        Host.objects.filter(pk=host.pk).update(shared_files=shared)
        audit(actor, "host.shared_files", name, shared=shared)
        publish("hosts", "progress", {"host": name})
    return hosts.get(name)


def _checked(field: str, path: str) -> str:
    folder = PurePosixPath(path)
    if not folder.is_absolute() or ".." in folder.parts or len(path) > LONGEST_PATH or not path.isprintable():
        message = f"{field} must be the absolute path of a folder, without '..'."
        raise InvalidInputError(message, (FieldFault(field, "an absolute path"),))
    return str(folder)
