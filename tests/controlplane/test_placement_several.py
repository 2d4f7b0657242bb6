"""Where a run of several processes may run: as many cards as it asks for, or a processor that they share."""

from typing import Any

import pytest

from controlplane.models import Job, Run
from controlplane.placement import Place, place
from controlplane.services import hosts
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def placed(**environment: Any) -> Place | str:
    run = factories.make_run()
    Run.objects.filter(pk=run.pk).update(config={**run.config, "environment": environment})
    return place(Job.objects.get(run=run), hosts.list_hosts())


@pytest.mark.parametrize("distributed", ["ddp", "fsdp"])
def test_it_gets_as_many_cards_as_it_asks_for_or_says_why_not(distributed: str) -> None:
    host = factories.make_host("box")
    cards = [factories.make_gpu(host, index) for index in range(3)]
    assert placed(distributed=distributed, gpus=3) == Place(host, tuple(card.uuid for card in cards))
    assert placed(distributed=distributed, gpus=4) == "asks for 4 GPUs, box has 3"


def test_without_cards_its_processes_share_the_processor() -> None:
    host = factories.make_host("box")
    assert placed(distributed="ddp", gpus=2) == Place(host, ())
    assert placed(distributed="none", gpus=2) == "asks for 2 GPUs, box has none"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"num_nodes": 2}, "needs environment.distributed ddp or fsdp"),
        ({"num_nodes": 2, "distributed": "ddp", "host": "box"}, "can't name one"),
        ({"host": "nowhere"}, "There is no host 'nowhere'"),
    ],
)
def test_the_api_refuses_what_no_fleet_could_do(environment: dict[str, Any], said: str) -> None:
    factories.make_host("box")
    refused = asked_for(environment)
    assert refused.status_code == 422
    assert said in refused.content.decode()


def test_several_processes_on_several_hosts_are_asked_for_by_the_api() -> None:
    assert asked_for({"distributed": "fsdp", "gpus": 4}).status_code == 201
    assert asked_for({"distributed": "ddp", "gpus": 2, "num_nodes": 2, "labels": ["nvlink"]}).status_code == 201


def asked_for(environment: dict[str, Any]) -> Any:
    body = {"name": "first", "dataset": factories.make_dataset().pk, "model": factories.make_model().name}
    client = factories.make_client("use")
    return client.post("/api/runs", {**body, "config": {"environment": environment}}, content_type="application/json")


def test_it_gets_its_cards_on_several_hosts_at_once_or_waits() -> None:
    first, second = factories.make_host("a", gpus=2), factories.make_host("b", gpus=2)
    found = placed(distributed="ddp", gpus=2, num_nodes=2)
    assert isinstance(found, Place)
    assert (found.host, [host for host, _ in found.others]) == (first, [second])
    assert (len(found.gpus), len(found.others[0][1])) == (2, 2)
    assert placed(distributed="ddp", gpus=3, num_nodes=2) == (
        "asks for 2 hosts at once, 0 of 2 have room; asks for 3 GPUs, a has 2"
    )
    assert placed(distributed="ddp", gpus=1, num_nodes=3) == "asks for 3 hosts at once, there are 2"
