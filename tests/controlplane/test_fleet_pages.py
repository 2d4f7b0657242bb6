"""The map of a large fleet, its filters and messages; a host's work; why a job waits: pages and API."""

from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from controlplane.models import Gpu, Host, Job, LiveMessage
from controlplane.models.jobs import Status
from controlplane.services import fleet_figures
from controlplane.services.fleet_figures import FleetFigures
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


@pytest.fixture
def fleet() -> list[Host]:
    """Six hosts: of two groups, one away, one that serves, one that drains."""
    return [
        factories.make_host("node-1", gpus=2, group="east", labels=["nvlink"]),
        factories.make_host("node-2", gpus=1, group="east", state="draining"),
        factories.make_host("node-10", gpus=1, group="west", role="serve"),
        factories.make_host("node-11", group="west"),
        factories.make_host("away", online=False),
        factories.make_host("<b>odd", gpus=1),
    ]


def shown(query: str = "") -> list[str]:
    """The hosts of the map, in order."""
    text = factories.client_of("read").get(f"/hosts/{query}").content.decode()
    return [part.partition('"')[0] for part in text.split('data-tile="')[1:]]


def test_hosts_stand_in_their_groups_by_number(fleet: list[Host]) -> None:
    assert shown() == ["node-1", "node-2", "node-10", "node-11", "&lt;b&gt;odd", "away"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?q=EAST", ["node-1", "node-2"]),
        ("?q=nvl", ["node-1"]),
        ("?state=draining", ["node-2"]),
        ("?state=offline", ["away"]),
        ("?role=serve", ["node-10"]),
        ("?label=nvlink", ["node-1"]),
        ("?group=west&state=online", ["node-10", "node-11"]),
        ("?q=nothing-at-all", []),
        ("?state=nonsense&role=nonsense&heat=nonsense&q=node-10", ["node-10"]),
    ],
)
def test_filters_stand_in_the_address(fleet: list[Host], query: str, found: list[str]) -> None:
    assert shown(query) == found


def test_few_hosts_are_shown_card_by_card() -> None:
    factories.make_host("alone", gpus=1)
    assert "data-gpu=" in factories.client_of("read").get("/hosts/").content.decode()


def test_a_cell_tells_the_figure_that_was_asked_for_or_that_it_is_not_known(fleet: list[Host]) -> None:
    Gpu.objects.filter(host__name="node-1", index=1).update(state="maintenance")
    host = Host.objects.get(name="node-1")
    host.reading["gpus"][1]["temperature_celsius"] = None
    host.save()
    text = factories.client_of("read").get("/hosts/?q=node-1&heat=heat").content.decode()
    assert 'title="GPU 0: 40 % busy, 61 °C, 25 % of its memory">61<' in text
    assert 'title="GPU 1: 40 % busy, – °C, 25 % of its memory, maintenance">–<' in text


def test_only_what_changed_is_sent(fleet: list[Host]) -> None:
    figures = FleetFigures()

    def told() -> list[tuple[str, Any]]:
        figures.tell()
        rows = [(row.kind, row.data) for row in LiveMessage.objects.filter(topic_id="fleet").order_by("seq")]
        LiveMessage.objects.filter(topic_id="fleet").delete()
        return rows

    first = told()
    assert (first[0][0], len(first[0][1]["hosts"])) == ("figures", 6)
    assert told() == []
    host = Host.objects.get(name="node-1")
    host.reading["gpus"][0]["utilization_gpu_percent"] = 97.4
    host.save()
    assert told() == [("figures", {"hosts": {"node-1": [12, [[97, 61, 25], [40, 61, 25]]]}})]
    Host.objects.filter(name="node-1").update(state="draining")
    assert told() == [("status", {})]


# --- A host's work ----------------------------------------------------------------------------------------------------


def test_an_admin_drains_and_describes_a_host_on_its_page() -> None:
    factories.make_host("tower", gpus=1)
    admin = factories.client_of("admin")
    admin.post("/hosts/tower/state", {"state": "draining", "reason": "new fans"})
    admin.post("/hosts/tower/gpus/0/state", {"state": "maintenance"})
    admin.post("/hosts/tower/edit", {"role": "train", "labels": "ssd, nvlink", "group": "east", "address": "10.0.0.7"})
    host = Host.objects.get()
    assert (host.state, host.role, host.labels, host.group) == ("draining", "train", ["nvlink", "ssd"], "east")
    text = admin.get("/hosts/tower/").content.decode()
    assert "tower is draining (by " in text
    assert "Nothing runs here any more." in text
    refused = factories.client_of("use").post("/hosts/tower/state", {"state": "open"})
    assert (refused.status_code, Host.objects.get().state) == (403, "draining")


def test_a_reason_that_is_too_long_is_a_sentence(client: Client) -> None:
    factories.make_host("tower")
    answer = factories.client_of("admin").post(
        "/hosts/tower/state", {"state": "draining", "reason": "x" * 999}, follow=True
    )
    assert "The reason has at most 200 printable characters." in answer.content.decode()
    assert Host.objects.get().state == "open"


def test_the_api_drains_and_describes_a_host() -> None:
    factories.make_host("tower", gpus=1)
    admin, use = factories.make_client("admin"), factories.make_client("use")

    def asked(client: Client, method: str, path: str, body: dict[str, Any]) -> Any:
        return getattr(client, method)(path, body, content_type="application/json")

    answer = asked(admin, "put", "/api/hosts/tower/state", {"state": "maintenance", "reason": "dust"})
    assert (answer.json()["state"], answer.json()["note"]["reason"]) == ("maintenance", "dust")
    answer = asked(admin, "put", "/api/hosts/tower/gpus/0/state", {"state": "draining"})
    assert [gpu["state"] for gpu in answer.json()["gpus"]] == ["draining"]
    answer = asked(admin, "patch", "/api/hosts/tower", {"labels": ["b", "a", "b"]})
    assert (answer.json()["labels"], answer.json()["role"]) == (["a", "b"], "both")
    for body, said in (({"labels": ["two words"]}, "is no label"), ({"role": "boss"}, "There is no role"),
                       ({"address": "a b"}, "without a port")):  # fmt: skip
        refused = asked(admin, "patch", "/api/hosts/tower", body)
        assert refused.status_code == 422
        assert said in refused.content.decode()
    assert asked(use, "put", "/api/hosts/tower/state", {"state": "open"}).status_code == 403
    assert asked(admin, "put", "/api/hosts/nowhere/state", {"state": "open"}).status_code == 404


# --- Why is it waiting? -----------------------------------------------------------------------------------------------


def test_each_host_says_why_not() -> None:
    busy = factories.make_host("busy", gpus=1)
    factories.make_host("drains", gpus=1, state="draining")
    factories.make_host("away", gpus=1, online=False)
    factories.make_job("train", status=Status.RUNNING, host=busy, gpus=[busy.gpus.get().uuid])
    job = factories.make_run().job
    answer = factories.make_client("read").get(f"/api/jobs/{job.pk}/waiting").json()
    assert answer["reason"].startswith("waits for a free GPU on busy")
    assert {row["host"]: (row["outlook"], row["reason"]) for row in answer["hosts"]} == {
        "busy": ("busy", "waits for a free GPU on busy: GPU 0 (max) takes 1 at a time"),
        "drains": ("closed", "waits for drains, which is draining"),
        "away": ("fault", "doesn't answer"),
    }
    text = factories.client_of("read").get(f"/queue/{job.pk}/log").content.decode()
    assert "Why is it waiting?" in text
    assert "waits for drains, which is draining" in text


def test_a_job_that_runs_says_why_it_is_where_it_is() -> None:
    host = factories.make_host("tower")
    run = factories.make_run()
    Job.objects.filter(pk=run.job_id).update(status=Status.RUNNING, host=host, attempt_count=1)
    run.job.attempts.create(number=1, host=host, placed_because="tower is the only host that answers")
    answer = factories.make_client("read").get(f"/api/jobs/{run.job_id}/waiting").json()
    assert (answer["reason"], answer["hosts"]) == ("", [])
    assert answer["placed"] == [{"attempt": 1, "host": "tower", "because": "tower is the only host that answers"}]


def test_what_could_not_be_told_is_told_at_the_next_look(fleet: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    figures = FleetFigures()
    figures.tell()
    Host.objects.filter(name="node-1").update(state="draining")
    host = Host.objects.get(name="node-2")
    host.reading["gpus"][0]["temperature_celsius"] = 77
    host.save()
    LiveMessage.objects.all().delete()

    def locked(*_args: object) -> int:
        raise OperationalError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(fleet_figures, "publish", locked)
        with pytest.raises(OperationalError):
            figures.tell()
    figures.tell()
    assert {row.kind for row in LiveMessage.objects.filter(topic_id="fleet")} == {"figures", "status"}
