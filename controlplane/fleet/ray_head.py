"""What a fleet's head knows of the fleet: which Pilothouse it is of. Runs in `controlplane.fleet`'s commands."""

import socket
import subprocess
import sys

from controlplane.fleet.ray_node import FleetError, Node
from controlplane.fleet.ray_token import TOKEN_FILE
from monitoring.system import product_version

ANSWER_SECONDS = 40.0
KNOCK_SECONDS = 5.0


def note_version(node: Node) -> None:
    """The head writes down which Pilothouse this fleet is of."""
    tell(node.address, node.environment(), product_version())


def tell(address: str, environment: dict[str, str], version: str) -> None:
    """Writes a version down at a head. Raises FleetError."""
    _ask_head(address, environment, version)


def check_version(node: Node) -> None:
    """Raises FleetError where the fleet is of another version, can't be reached, or refuses the token."""
    found, ours = _ask_head(node.address, node.environment()), product_version()
    if found and found != ours:
        raise FleetError(
            f"This machine has Pilothouse {ours}, the fleet at {node.address} {found}: nothing was joined. Bring this "
            f"checkout to {found} (git fetch && git checkout v{found} && bin/setup --extras ray), then join again."
        )


ASK_HEAD = """
import sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
if len(sys.argv) > 2:
    client.internal_kv_put(b"version", sys.argv[2].encode(), True, b"pilothouse")
print((client.internal_kv_get(b"version", b"pilothouse") or b"").decode())
"""
"""In a process of its own: Ray's client has no end of its tries where nobody answers."""


def _ask_head(address: str, environment: dict[str, str], version: str = "") -> str:
    _knock(address)
    command = [sys.executable, "-c", ASK_HEAD, address, *([version] if version else [])]
    try:
        asked = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
        said = asked.stderr
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace") if isinstance(error.stderr, bytes) else ""
    else:
        if asked.returncode == 0:
            return asked.stdout.strip()
    if "AuthToken" in said or "Unauthenticated" in said:
        raise FleetError(
            f"The fleet at {address} refuses this machine's token: hand over the head's {TOKEN_FILE} again."
        )
    if "No module named 'ray'" in said:
        raise FleetError("Ray is not installed here: bin/setup --extras ray.")
    raise _nobody(address)


def _knock(address: str) -> None:
    """Ray's own client would try for a minute where nobody listens."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()
    except (OSError, ValueError):
        raise _nobody(address) from None


def _nobody(address: str) -> FleetError:
    return FleetError(
        f"Nothing answers at {address}: is the head up (bin/up --fleet there), and are its ports open (docs/fleet.md)?"
    )
