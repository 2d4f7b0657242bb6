"""Which host is which: by home and machine, whatever its name; two that can't both be right get no work."""

from typing import Any, cast

import pytest

from controlplane import fleet_watch
from controlplane.fleet.protocol import HostFacts, HostReading
from controlplane.fleet.ray_members import Member, key_of
from controlplane.models import Gpu, Host
from controlplane.services import host_identity, hosts
from tests.factories import make_host

pytestmark = pytest.mark.django_db
A, B = "a" * 32, "b" * 32


@pytest.fixture(autouse=True)
def nothing_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_identity, "_refusals", {})


def facts(name: str, home_id: str, **other: Any) -> HostFacts:
    """What an agent says of itself."""
    described = cast(HostFacts, {**make_host().facts, "name": name, "home_id": home_id, **other})
    Host.objects.filter(home_id="").delete()
    return described


def test_a_host_keeps_its_row_when_its_home_is_mounted_elsewhere() -> None:
    first = hosts.register(facts("machine", A, home="/one"))
    again = hosts.register(facts("machine", A, home="/two"), carrier="ray")
    assert (again.pk, again.name, again.carrier, again.facts["home"]) == (first.pk, "machine", "ray", "/two")


def test_two_machines_of_one_name_are_two_hosts() -> None:
    hosts.register(facts("machine", A))
    other = hosts.register(facts("machine", B))
    assert (Host.objects.count(), other.name) == (2, "machine-bbbbbb")
    assert hosts.register(facts("machine", B)).pk == other.pk


def test_two_machines_that_share_a_home_are_two_hosts() -> None:
    assert hosts.register(facts("one", A)).pk != hosts.register(facts("two", A)).pk


def test_a_row_from_before_homes_had_ids_is_taken_over_by_its_name() -> None:
    described = facts("machine", A)
    old = make_host("machine")
    assert hosts.register(described).pk == old.pk
    assert Host.objects.get().home_id == A


def reading(host: Host, *uuids: str) -> HostReading:
    """A reading that names these GPUs."""
    gpus = [{"index": index, "uuid": uuid, "name": "a card", "processes": []} for index, uuid in enumerate(uuids)]
    found: HostReading = {**host.reading, "gpus": gpus}  # type: ignore[typeddict-item]
    return found


def test_gpus_of_another_host_are_not_taken_over() -> None:
    owner, other = make_host("owner"), make_host("other")
    hosts.record(owner, reading(owner, "GPU-1", "GPU-2"))
    hosts.record(other, reading(other, "GPU-2", "GPU-3"))
    other.refresh_from_db()
    assert "GPU-2, which owner has" in other.fault
    assert [gpu["uuid"] for gpu in other.reading["gpus"]] == ["GPU-3"]
    assert list(Gpu.objects.filter(uuid="GPU-2").values_list("host__name", flat=True)) == ["owner"]
    hosts.record(owner, reading(owner, "GPU-1", "GPU-2"))
    owner.refresh_from_db()
    assert owner.fault == ""


def test_a_card_that_was_moved_is_its_new_hosts_once_the_old_one_has_said_so() -> None:
    old, new = make_host("old"), make_host("new")
    hosts.record(old, reading(old, "GPU-1"))
    hosts.record(old, reading(old))
    hosts.record(new, reading(new, "GPU-1"))
    new.refresh_from_db()
    assert new.fault == ""
    assert new.gpus.get().uuid == "GPU-1"


class Agent:
    """A node's agent that describes itself."""

    def __init__(self, described: HostFacts) -> None:
        self.described = described

    def describe(self) -> HostFacts:
        return self.described


class Fleet:
    """A bridge to nodes that aren't here."""

    def __init__(self, *members: Member) -> None:
        self.nodes = list(members)

    def members(self) -> list[Member]:
        return self.nodes


def member(described: HostFacts, node: str = "node-1", address: str = "10.0.0.1", boot: str = "boot") -> Member:
    return Member(key=key_of(described["home_id"], described["name"]), node_id=node, address=address, version="0",
                  boot_id=boot, fault="")  # fmt: skip


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> fleet_watch.FleetWatch:
    monkeypatch.setattr(fleet_watch, "own_key", lambda: "here")
    monkeypatch.setattr(fleet_watch, "version", lambda _package: "1.0")
    return fleet_watch.FleetWatch()


def look(watch: fleet_watch.FleetWatch, monkeypatch: pytest.MonkeyPatch, described: HostFacts, *nodes: Member) -> Host:
    """One look at a fleet of these nodes, whose agent says this."""
    monkeypatch.setattr(fleet_watch, "of_member", lambda _key: Agent(described))
    watch.look(Fleet(*nodes))  # type: ignore[arg-type]
    return Host.objects.get()


def test_a_node_becomes_a_host_and_keeps_its_row_under_another_node_id(
    watch: fleet_watch.FleetWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = facts("machine", A, agent_version="1.0")
    first = look(watch, monkeypatch, described, member(described))
    again = look(watch, monkeypatch, described, member(described, node="node-2"))
    assert (again.pk, again.carrier, again.fault) == (first.pk, "ray", "")


def test_a_host_of_another_version_gets_no_work_until_it_is_of_ours(
    watch: fleet_watch.FleetWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = facts("machine", A, agent_version="0.9")
    host = look(watch, monkeypatch, described, member(described))
    assert "Its agent is Pilothouse 0.9, this is 1.0" in host.fault
    hosts.record(host, make_host("other").reading)
    host.refresh_from_db()
    assert "git checkout v1.0" in host.fault
    Host.objects.filter(name="other").delete()
    described["agent_version"] = "1.0"
    host = look(watch, monkeypatch, described, member(described, node="node-2"))
    hosts.record(host, host.reading or make_host("another").reading)
    host.refresh_from_db()
    assert host.fault == ""


def test_a_copied_home_is_no_second_host_and_neither_gets_work(
    watch: fleet_watch.FleetWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = facts("machine", A, agent_version="1.0")
    nodes = member(described), member(described, node="node-2", address="10.0.0.2", boot="another boot")
    host = look(watch, monkeypatch, described, *nodes)
    assert "Two machines say that they are this host (10.0.0.1 and 10.0.0.2)" in host.fault


def test_a_node_that_comes_back_before_the_old_one_is_forgotten_is_no_copy(
    watch: fleet_watch.FleetWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = facts("machine", A, agent_version="1.0")
    host = look(watch, monkeypatch, described, member(described), member(described, node="node-2"))
    assert host.fault == ""
