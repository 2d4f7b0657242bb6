"""By which names and addresses this machine may be called. Run by `bin/up` when it listens beyond loopback.

`python -m controlplane.addresses HOST` prints them, comma-separated, as PILOTHOUSE_ALLOWED_HOSTS takes them.
"""

import socket
import sys

import psutil

WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared, not bound


def names_of(host: str) -> list[str]:
    """What a browser may have in its address bar when the server listens on `host`."""
    names = {socket.gethostname(), socket.getfqdn()}
    if host in WILDCARDS:
        families = (socket.AF_INET, socket.AF_INET6)
        addresses = [entry for entries in psutil.net_if_addrs().values() for entry in entries]
        names |= {entry.address.partition("%")[0] for entry in addresses if entry.family in families}
    else:
        names.add(host)
    return sorted(f"[{name}]" if ":" in name else name for name in names)


if __name__ == "__main__":
    sys.stdout.write(",".join(names_of(sys.argv[1])) + "\n")
