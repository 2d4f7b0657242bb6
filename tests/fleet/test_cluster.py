"""Two nodes of a real Ray cluster: hosts appear, a job runs on the second, its raylet is killed, it comes back."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.fleet import ray_head
from controlplane.fleet.ray_node import PORT, Node
from monitoring.system import product_version
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
    run = start_there(fleet, dataset_id, "taken over", 600)
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
    assert steps_of(fleet, run["id"]) == list(range(1, 601))


def test_who_may_not_join_is_told_why_and_stays_outside(fleet: Cluster, tmp_path: Path) -> None:
    def join(token: Path, address: str = "") -> tuple[int, str]:
        place = ["--home", str(tmp_path / "third"), "--token-file", str(token)]
        done = fleet.second.python("-m", "controlplane.fleet", "join", address or fleet.address, *place)
        return done.returncode, done.stderr.strip()

    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    assert join(wrong) == (
        1, f"The fleet at {fleet.address} refuses this machine's token: hand over the head's fleet_token again."
    )  # fmt: skip
    wrong.write_text("hello")
    assert "That is no fleet's token" in join(wrong)[1]
    assert "Nothing answers at 127.0.0.1:9" in join(fleet.token, "127.0.0.1:9")[1]
    environment = Node(fleet.web.home, PORT, fleet=fleet.address).environment()
    try:
        ray_head.tell(fleet.address, environment, "9.9.9")
        code, said = join(fleet.token)
        assert code == 1
        assert f"the fleet at {fleet.address} 9.9.9: nothing was joined" in said
        assert "git checkout v9.9.9" in said
    finally:
        ray_head.tell(fleet.address, environment, product_version())
    assert (tmp_path / "third" / "fleet_token").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "third" / "agent.lock").exists()
    assert len(fleet.hosts()) == 2
