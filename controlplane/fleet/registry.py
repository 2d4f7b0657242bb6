"""Which carrier reaches which host. Runs in the web process."""

import threading
from pathlib import Path

from django.conf import settings

from controlplane import fence
from controlplane.fleet.local import LocalCarrier
from controlplane.fleet.protocol import Carrier
from controlplane.models import Host

_carriers: dict[str, Carrier] = {}
_lock = threading.Lock()


def local() -> LocalCarrier:
    """The carrier to the agent on this machine."""
    return LocalCarrier(Path(settings.HOME))


def carrier(host: Host) -> Carrier:
    """The carrier to a host's agent; one each, kept."""
    fence.check()
    with _lock:
        if host.name not in _carriers:
            _carriers[host.name] = local()
        return _carriers[host.name]
