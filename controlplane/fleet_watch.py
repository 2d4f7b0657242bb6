"""Hosts of a Ray cluster appear by themselves, and come back under their own names. A thread of the dispatcher.

Which nodes are up is asked of the bridge again and again; what a node's agent says of itself, when the node is new.
"""

import logging
import threading
import time
from importlib.metadata import version

from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError
from controlplane.fleet.ray import RayBridge
from controlplane.fleet.ray_members import Member
from controlplane.fleet.registry import bridge, of_member, own_key
from controlplane.kept_connections import keep_sound
from controlplane.services import host_identity, hosts

log = logging.getLogger(__name__)
LOOK_SECONDS = 2.0
AGAIN_SECONDS = 30.0
"""After how long a host that takes no work is asked again what it is."""


class FleetWatch:
    """Remembers on which node each host was met."""

    def __init__(self) -> None:
        self._met: dict[str, str] = {}
        self._refused_at: dict[str, float] = {}
        self._said: set[str] = set()

    def run(self, stopping: threading.Event) -> None:
        """Looks until it is told to end; where there is no fleet it ends at once."""
        fleet = bridge()
        if fleet is None:
            return
        while not stopping.is_set():
            keep_sound()
            try:
                self.look(fleet)
            except HostUnreachableError as error:
                self._say(str(error))
            except Exception:  # this loop must live
                log.exception("looking at the fleet stumbled")
            stopping.wait(LOOK_SECONDS)
        fleet.close()

    def look(self, fleet: RayBridge) -> None:
        """One look at the nodes that are up. Raises HostUnreachableError."""
        members = fleet.members()
        for member in members:
            if member["fault"]:
                self._say(member["fault"])
        here = own_key()
        for member in members:
            if member["key"] and member["key"] != here and self._is_due(member):
                self._meet(member, [other for other in members if other["key"] == member["key"]])

    def _is_due(self, member: Member) -> bool:
        refused_at = self._refused_at.get(member["key"])
        is_new = self._met.get(member["key"]) != member["node_id"]
        return is_new or (refused_at is not None and time.monotonic() - refused_at > AGAIN_SECONDS)

    def _meet(self, member: Member, alike: list[Member]) -> None:
        """Makes or renews the row of a node's host, and decides whether it may work."""
        way = of_member(member["key"])
        if way is None:
            return
        try:
            facts = way.describe()
            facts["address"] = member["address"]
        except (HostUnreachableError, AgentRefusedError) as error:
            self._say(str(error))
            return
        why = _why_two(alike) or _why_other_version(facts["agent_version"], member)
        host = hosts.register(facts, carrier="ray", fault=why)
        host_identity.refuse(host, why)
        self._met[member["key"]] = member["node_id"]
        if why:
            self._refused_at[member["key"]] = time.monotonic()
        else:
            self._refused_at.pop(member["key"], None)
        log.info("%s is node %s of the fleet%s", host.name, member["address"], f": {why}" if why else "")

    def _say(self, sentence: str) -> None:
        """Each sentence once."""
        if sentence not in self._said:
            self._said.add(sentence)
            log.warning("%s", sentence)


def _why_two(alike: list[Member]) -> str:
    """Two machines that are up and say that they are one host: a home folder was copied."""
    if len({member["boot_id"] for member in alike}) < 2:
        return ""  # one machine, whose node before a crash counts as up for a while
    addresses = " and ".join(sorted({member["address"] for member in alike}))
    return (
        f"Two machines say that they are this host ({addresses}): its home folder was copied. Delete the file home_id "
        "in the copy's home, and start its agent and its node again."
    )


def _why_other_version(agent_version: str, member: Member) -> str:
    ours = version("pilothouse")
    if agent_version == ours:
        return ""
    return (
        f"Its agent is Pilothouse {agent_version}, this is {ours}: it gets no work. On {member['address']}: "
        f"git fetch && git checkout v{ours}, end the agent (python -m monitoring stop; jobs go on), then bin/up --join."
    )
