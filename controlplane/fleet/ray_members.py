"""Who belongs to a fleet: what its bridge tells of each node that is up. Runs in the web process and in the bridge."""

from typing import TypedDict


class Member(TypedDict):
    """A node that is up. `key` says which host it is ("" as long as that isn't known, and `fault` then why).

    `version` is its Pilothouse's. `boot_id` tells apart two machines that say that they are the same host.
    """

    key: str
    node_id: str
    address: str
    version: str
    boot_id: str
    fault: str


def key_of(home_id: str, machine: str) -> str:
    """A host's identity: the id of its home folder, and its machine's name."""
    return f"{home_id}/{machine}"
