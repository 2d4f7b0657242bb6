"""The link to a host is cut past the grace time, in mid-run, and healed: nothing is lost, nothing runs twice."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.cluster import Cluster
from tests.fleet.network import Cable, NoNetworkError
from tests.fleet.runs import SECONDS, start_there, steps_of, trainer
from tests.product import wait_for
from tests.tiny import write_style_dataset

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    try:
        with Cable() as link:
            yield link
    except NoNetworkError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, static_home: Path, cable: Cable
) -> Iterator[Cluster]:
    """A fleet whose second node is at the other end of the cable; a host is lost after 15 s."""
    with Cluster(tmp_path_factory.mktemp("linked"), tiny_model, static_home, cable) as running:
        with running.web.client() as client:
            client.put("/api/settings/fleet.lost_after_seconds", json={"value": 15}).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def dataset_id(fleet: Cluster, tmp_path_factory: pytest.TempPathFactory) -> int:
    path = write_style_dataset(tmp_path_factory.mktemp("linked-data") / "style.jsonl", rows=200, seed=32)
    found: int = fleet.web.upload(path, "over the cable")["id"]
    return found


def test_a_cut_link_loses_nothing_and_a_stop_given_meanwhile_applies_afterwards(
    fleet: Cluster, cable: Cable, dataset_id: int
) -> None:
    run = start_there(fleet, dataset_id, "behind a cable", 100_000)
    process = trainer(fleet, run["job_id"])
    cable.cut()
    wait_for("the job to be lost", lambda: fleet.web.run_facts(run["id"])["phase"] == "lost", SECONDS)
    with fleet.web.client("use") as client:
        client.post(f"/api/runs/{run['id']}/stop", json={"mode": "save"}).raise_for_status()
    assert fleet.web.run_facts(run["id"])["status"] == "running"
    os.kill(int(process.name), 0)
    cable.heal()
    facts = fleet.web.wait_for_run(run["id"], timeout_seconds=SECONDS)
    assert (facts["attempts"], facts["result"]["stopped"]) == (1, True)
    last = facts["progress"]["step"]
    assert steps_of(fleet, run["id"]) == list(range(1, last + 1))
    assert not fleet.second_host()["fault"]
    assert fleet.second_host()["lost_at"] is None
