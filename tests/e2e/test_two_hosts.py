"""A run on two hosts: two agents with a home each on this machine, one curve, one end, whoever of the two dies."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from controlplane.fleet.local import LocalCarrier, ensure_agent
from monitoring.home_id import home_id
from tests.product import Product, wait_for
from tests.tiny import write_style_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 16
SECONDS = 180.0
CONFIG: dict[str, Any] = {
    "hyperparams": {"max_steps": STEPS, "per_device_train_batch_size": 4, "max_length": 64},
    "monitoring": {"logging_steps": 1, "eval_steps": STEPS},
    "output": {"save_steps": 4},
    "environment": {"distributed": "ddp", "gpus": 1, "num_nodes": 2},
}
ADD = "from controlplane.models import Host; Host.objects.create(name='second', home_id={id!r}, facts={facts!r})"


@pytest.fixture
def second(own_product: Product, tmp_path: Path) -> Iterator[Path]:
    """The home of another host's agent, known to the product."""
    home = tmp_path / "second"
    facts = ensure_agent(home)
    try:
        own_product.manage("shell", "-c", ADD.format(id=home_id(home), facts=dict(facts)))
        yield home
    finally:
        carrier = LocalCarrier(home)
        carrier.stop_all(10.0)
        carrier.shutdown()


def ranks_of(homes: list[Path], job_id: int) -> dict[str, psutil.Process]:
    """The processes that train, by their number; empty until there is one in each home."""
    found = {}
    for process in psutil.process_iter(["environ"]):
        environ = process.info["environ"] or {}
        if environ.get("PILOTHOUSE_JOB") == str(job_id) and "RANK" in environ:
            number = environ["RANK"]
            if environ.get("PILOTHOUSE_HOME") == str(homes[int(number)]):
                found[number] = process
    return found if len(found) == len(homes) else {}


def test_one_curve_from_two_hosts_though_one_of_them_dies(own_product: Product, second: Path, tmp_path: Path) -> None:
    product = own_product
    path = write_style_dataset(tmp_path / "style.jsonl", rows=40, seed=5)
    run = product.create_run("two hosts", product.upload(path, "for two hosts")["id"], CONFIG)
    job_id, homes = run["job_id"], [product.home.resolve(), second.resolve()]

    ranks = wait_for("a process on each host", lambda: ranks_of(homes, job_id), SECONDS)
    product.wait_for_step(run["id"], 5, SECONDS)
    ranks["1"].send_signal(signal.SIGKILL)

    done = product.wait_for_run(run["id"], timeout_seconds=SECONDS)
    assert done["attempts"] == 2
    assert done["result_model"]
    with product.client("read") as client:
        loss = client.get(f"/api/runs/{run['id']}/metrics", params={"keys": "loss"}).json()["series"]["loss"]
    assert loss["step"] == list(range(1, STEPS + 1)), "each step once, though two processes took it"
    ((said,),) = product.rows(
        "SELECT json_extract(error, '$.message') FROM controlplane_job WHERE id = ?", [job_id]
    ) or [(None,)]
    assert said is None
    parts = product.rows("SELECT json_extract(error, '$.message') FROM controlplane_member ORDER BY id")
    assert [part for (part,) in parts] == ["Process 2 of the run's 2 was ended by SIGKILL.", None]
    wait_for("its processes to be gone", lambda: not ranks_of(homes, job_id))
