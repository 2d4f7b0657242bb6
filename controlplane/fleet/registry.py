"""Which carrier reaches which host. Runs in the web process."""

import socket
import threading
from pathlib import Path

from django.conf import settings

from controlplane import fence
from controlplane.fleet.local import LocalCarrier
from controlplane.fleet.protocol import Carrier
from controlplane.fleet.ray import NoFleet, RayBridge, RayCarrier
from controlplane.fleet.ray_members import key_of
from controlplane.models import Host
from monitoring.home_id import home_id

_carriers: dict[tuple[str, str], Carrier] = {}
_bridges: dict[str, RayBridge] = {}
_lock = threading.Lock()


def local() -> LocalCarrier:
    """The carrier to the agent on this machine."""
    return LocalCarrier(Path(settings.HOME))


def bridge() -> RayBridge | None:
    """This process's way to the fleet that RAY_ADDRESS names; None where it names none."""
    address = str(settings.RAY_ADDRESS)
    if not address:
        return None
    with _lock:
        if address not in _bridges:
            _bridges[address] = RayBridge(address, Path(settings.HOME))
        return _bridges[address]


def own_key() -> str:
    """The identity of the host that this machine is with this home."""
    return key_of(home_id(Path(settings.HOME)), socket.gethostname())


def key(host: Host) -> str:
    """A host's identity, whatever it is called here."""
    return key_of(host.home_id, str(host.facts.get("name", "")))


def carrier(host: Host) -> Carrier:
    """The carrier to a host's agent; one each, kept."""
    fence.check()
    way = (host.carrier, key(host))
    with _lock:
        if way in _carriers:
            return _carriers[way]
    made = _make(host)
    with _lock:
        return _carriers.setdefault(way, made)


def of_member(member_key: str) -> RayCarrier | None:
    """The carrier to a member of the fleet that may have no row yet."""
    way = bridge()
    return RayCarrier(way, member_key) if way is not None else None


def _make(host: Host) -> Carrier:
    if host.carrier == "ray":
        return of_member(key(host)) or NoFleet(host.name)
    # A host that was met by its home is reached there; one that was never met is this machine.
    other = host.home_id and host.home_id != home_id(Path(settings.HOME))
    return LocalCarrier(Path(host.facts["home"])) if other else local()
