"""Two nodes of a real Ray cluster: hosts appear, a job runs on the second, its raylet is killed, it comes back."""

import os
import socket
from collections.abc import Iterator

import pytest

from tests.fleet.cluster import START_SECONDS, Cluster
from tests.fleet.runs import SECONDS, start_there, steps_of, trainer
from tests.product import wait_for
from tests.tiny import write_style_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def dataset_id(fleet: Cluster, tmp_path_factory: pytest.TempPathFactory) -> int:
    path = write_style_dataset(tmp_path_factory.mktemp("fleet-data") / "style.jsonl", rows=200, seed=31)
    found: int = fleet.web.upload(path, "for the fleet")["id"]
    return found


def test_hosts_appear_by_themselves_with_identities_of_their_own(fleet: Cluster) -> None:
    rows = fleet.web.rows("SELECT name, carrier, home_id FROM controlplane_host ORDER BY id")
    assert [carrier for _, carrier, _ in rows] == ["local", "ray"]
    assert len({home_id for *_, home_id in rows}) == 2
    machine = socket.gethostname()
    assert rows[0][0] == machine
    assert rows[1][0] == f"{machine}-{rows[1][2][:6]}"


def test_a_raylet_that_is_killed_costs_no_job_and_its_node_returns(fleet: Cluster, dataset_id: int) -> None:
    host = fleet.second_host()["name"]
    run = start_there(fleet, dataset_id, "on the second node", 400)
    process, agent = trainer(fleet, run["job_id"]), fleet.second.agent_pid
    fleet.second.kill_raylet()
    wait_for("the host to be missed", lambda: fleet.second_host()["fault"], SECONDS)
    assert process.exists()
    assert fleet.second.agent_pid == agent
    wait_for("the host to be back", lambda: not fleet.second_host()["fault"], SECONDS)
    facts = fleet.web.wait_for_run(run["id"], timeout_seconds=SECONDS)
    assert facts["attempts"] == 1
    assert facts["host"] == host
    assert steps_of(fleet, run["id"]) == list(range(1, 401))
    assert len(fleet.hosts()) == 2


@pytest.fixture
def short_grace(fleet: Cluster) -> Iterator[None]:
    """A host is lost after 15 s, and its jobs go on elsewhere."""
    with fleet.web.client() as client:
        client.put("/api/settings/fleet.lost_after_seconds", json={"value": 15}).raise_for_status()
        client.put("/api/settings/fleet.on_host_loss", json={"value": "resume"}).raise_for_status()
        yield
        client.put("/api/settings/fleet.lost_after_seconds", json={"value": 60}).raise_for_status()
        client.put("/api/settings/fleet.on_host_loss", json={"value": "wait"}).raise_for_status()


@pytest.mark.fleet
@pytest.mark.usefixtures("short_grace")
def test_a_lost_hosts_run_goes_on_elsewhere_and_not_twice_when_it_returns(fleet: Cluster, dataset_id: int) -> None:
    run = start_there(fleet, dataset_id, "taken over", 1500)
    process = trainer(fleet, run["job_id"])
    with fleet.web.client("read") as client:
        wait_for("a checkpoint", lambda: client.get(f"/api/runs/{run['id']}/checkpoints").json(), SECONDS)
    os.kill(process_id := int(process.name), 0)
    assert fleet.second.stop() == 0
    wait_for("another attempt", lambda: fleet.web.run_facts(run["id"])["attempts"] == 2, SECONDS)
    os.kill(process_id, 0)
    fleet.second.start()
    wait_for("the old process to be ended", lambda: not process.exists(), START_SECONDS)
    facts = fleet.web.wait_for_run(run["id"], timeout_seconds=SECONDS)
    assert (facts["attempts"], facts["host"]) == (2, fleet.first_host()["name"])
    assert steps_of(fleet, run["id"]) == list(range(1, 1501))
