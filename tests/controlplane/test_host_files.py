"""The card "Files here" and the calls behind it: copies, transfers, clearing, cancelling, a shared file system."""

from pathlib import Path

import pytest

from controlplane.kinds.registry import kind_of
from controlplane.models import Attempt, Deployment, Host, Transfer
from controlplane.models.transfers import Direction
from controlplane.services import artefacts, deployments, transfers
from tests.controlplane.other_home import OtherHome
from tests.factories import client_of, make_client, make_host, make_job, make_model

pytestmark = pytest.mark.django_db


@pytest.fixture
def other(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OtherHome:
    return OtherHome.make(tmp_path / "other", monkeypatch)


def held(other: OtherHome, name: str = "big") -> None:
    model = make_model(name)
    transfers.hold(other.host, "model", str(model.uuid), name, 3_000_000)


def moving(other: OtherHome, name: str = "on its way") -> Transfer:
    row = transfers.ask(other.host, artefacts.model_need(make_model(name)), Direction.OUT)
    Transfer.objects.filter(pk=row.pk).update(
        state="running", bytes_done=1_200_000_000, bytes_total=3_400_000_000, bytes_per_second=55e6
    )
    return row


def test_the_api_tells_what_a_host_holds_and_what_is_on_its_way(other: OtherHome) -> None:
    held(other)
    moving(other)
    answer = make_client("read").get("/api/hosts/ant/files").json()
    assert (answer["is_apart"], answer["held_bytes"]) == (True, 3_000_000)
    assert [(one["title"], one["in_use"]) for one in answer["copies"]] == [("big", False)]
    assert answer["transfers"][0]["sentence"] == "copying on its way to ant: 1.2 of 3.4 GB, 40 s left"
    assert make_client("read").get("/api/transfers").json()["transfers"] == answer["transfers"]


def test_clearing_needs_an_admin_and_says_how_much_was_freed(other: OtherHome) -> None:
    held(other)
    assert make_client("use").delete("/api/hosts/ant/files").status_code == 403
    assert make_client("admin").delete("/api/hosts/ant/files").json() == {"freed_bytes": 3_000_000}


def test_a_host_that_does_not_answer_is_a_sentence(other: OtherHome) -> None:
    held(other)
    other.files.is_away = True
    answer = make_client("admin").delete("/api/hosts/ant/files")
    assert (answer.status_code, "doesn't answer" in answer.json()["detail"]) == (503, True)
    page = client_of("admin").post("/hosts/ant/files/clear", follow=True).content.decode()
    assert "its copies can&#x27;t be cleared now" in page


def test_a_transfer_is_cancelled_once(other: OtherHome) -> None:
    row = moving(other)
    client = make_client("admin")
    assert client.post(f"/api/transfers/{row.pk}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/api/transfers/{row.pk}/cancel").status_code == 409
    assert client.get("/api/transfers/999").status_code == 404


@pytest.mark.parametrize(
    ("here", "there"), [("relative", "/mnt"), ("/somewhere/else", "/mnt"), ("/", ""), ("/a/../b", "/mnt")]
)
def test_a_shared_file_system_that_can_not_be_is_refused(other: OtherHome, here: str, there: str) -> None:
    body = {"here": here, "there": there}
    answer = make_client("admin").put("/api/hosts/ant/files/shared", body, content_type="application/json")
    assert answer.status_code == 422


def test_a_shared_file_system_is_declared_and_taken_back(other: OtherHome, home: Path) -> None:
    client = make_client("admin")
    body = {"here": str(home), "there": "/mnt/lab"}
    answer = client.put("/api/hosts/ant/files/shared", body, content_type="application/json").json()
    assert (answer["is_apart"], answer["shared"]) == (False, body)
    page = client_of("admin")
    assert "through a shared file system" in page.get("/hosts/ant/").content.decode()
    page.post("/hosts/ant/files/share", {"here": "", "there": ""})
    assert Host.objects.get(name="ant").shared_files is None


def test_the_page_shows_progress_copies_and_who_may_not(other: OtherHome) -> None:
    held(other)
    moving(other)
    page = client_of("read").get("/hosts/ant/").content.decode()
    assert "copying on its way to ant: 1.2 of 3.4 GB, 40 s left" in page
    assert "This needs the role admin" in page
    assert "big" in client_of("admin").get("/hosts/ant/files").content.decode()
    make_host("bee")
    assert "reads the library itself" in client_of("read").get("/hosts/bee/").content.decode()


def test_a_model_is_activated_on_the_host_that_is_named(other: OtherHome) -> None:
    make_host("bee")
    make_model("tiny")
    page = client_of("admin")
    assert '<option value="ant">on ant</option>' in page.get("/models/at/tiny").content.decode()
    page.post("/models/activate", {"name": "tiny", "host": "ant"})
    body = {"id": "tiny", "host": "nobody"}
    refused = make_client("admin").post("/api/models/set_active", body, content_type="application/json")
    assert refused.status_code == 404
    jobs = make_client("read").get("/api/jobs").json()["jobs"]
    assert [(job["kind"], job["host"]) for job in jobs] == [("serve", "ant")]


def test_engines_of_another_machine_listen_where_the_control_plane_reaches_them(other: OtherHome) -> None:
    model = make_model("tiny")
    job = make_job("serve", host=other.host)
    Deployment.objects.create(model=model, job=job, host=other.host, status="ready", port=4711, created_by="mia")

    def spoken_to() -> tuple[str, str, str]:
        row = Deployment.objects.select_related("host").get(job=job)
        attempt = Attempt(job=job, number=1, host=row.host)
        ((engine, _, _),) = deployments.engines()
        listens = kind_of(job).spec(job, attempt).config.get("listen_address", "")
        return deployments.base_url(row), engine.base_url, listens

    assert spoken_to() == ("http://127.0.0.1:4711", "http://127.0.0.1:4711", "")
    Host.objects.filter(pk=other.host.pk).update(carrier="ray", facts={**other.host.facts, "address": "192.0.2.7"})
    assert spoken_to() == ("http://192.0.2.7:4711", "http://192.0.2.7:4711", "192.0.2.7")
    Host.objects.filter(pk=other.host.pk).update(address="ant.lab")
    assert spoken_to() == ("http://ant.lab:4711", "http://ant.lab:4711", "ant.lab")
