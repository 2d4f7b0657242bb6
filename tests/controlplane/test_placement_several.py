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


def test_several_processes_are_asked_for_by_the_api_and_several_hosts_are_refused() -> None:
    client = factories.make_client("use")
    body = {"name": "first", "dataset": factories.make_dataset().pk, "model": factories.make_model().name}
    config = {"environment": {"distributed": "fsdp", "gpus": 4}}
    made = client.post("/api/runs", {**body, "config": config}, content_type="application/json")
    assert made.status_code == 201, made.content
    config = {"environment": {"distributed": "fsdp", "num_nodes": 2}}
    refused = client.post("/api/runs", {**body, "config": config}, content_type="application/json")
    assert refused.status_code == 422
    assert "A run trains on one host: leave environment.num_nodes at 1." in refused.content.decode()
