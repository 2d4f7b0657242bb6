"""The pages Queue and Inbox: what they show and what their buttons do."""

import pytest

from controlplane.models import InboxFile
from controlplane.models.access import SYSTEM
from controlplane.models.inbox import InboxState
from controlplane.services import jobs, queue, runs
from tests.controlplane.page_reading import read
from tests.factories import client_of, make_client, make_dataset, make_job, make_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def test_the_queue_is_reordered_and_paused_from_its_page() -> None:
    admin = client_of("admin")
    first, second = make_job(), make_job()
    admin.post(f"/queue/{second.pk}/move", {"to": "up"})
    assert [job.pk for job in jobs.queue()] == [second.pk, first.pk]
    page = admin.get("/queue/").content.decode()
    assert "Pause the queue" in page
    admin.post("/queue/pause", {"reason": "a new card"})
    assert "A new card. No training run starts" in admin.get("/queue/").content.decode()
    assert "Let runs start" in client_of("read").get("/queue/").content.decode()
    admin.post("/queue/resume")
    assert queue.paused_because() == ""


def test_a_chain_is_shown_and_begun_anew() -> None:
    admin = client_of("admin")
    make_model("tiny")
    run = runs.create(
        SYSTEM, name="link", dataset=make_dataset().pk, model="tiny", config={"model": {"chain": "night"}}
    )
    page = read(admin.get("/queue/chains/"))
    assert "night" in page.by_id("main").text
    assert page.all("a", href=f"/runs/{run.pk}/")
    jobs.cancel(SYSTEM, run.job_id)
    assert admin.post("/queue/chains/reset", {"chain": "night"}).status_code == 302
    assert admin.post("/queue/chains/delete", {"chain": "night"}).status_code == 302
    assert "No chain yet" in admin.get("/queue/chains/").content.decode()


def test_the_inbox_says_where_each_file_stands_and_why() -> None:
    row = InboxFile.objects.create(filename="notes.docx", state=InboxState.REJECTED, reason="It has no suffix.")
    InboxFile.objects.create(filename="chats.jsonl", state=InboxState.SETTLING, bytes=2048)
    page = client_of("read").get("/queue/inbox/").content.decode()
    assert "notes.docx" in page
    assert "It has no suffix." in page
    assert "settling" in page
    assert client_of("read").post(f"/queue/inbox/{row.pk}/dismiss").status_code == 403
    client_of("use").post(f"/queue/inbox/{row.pk}/dismiss")
    assert not InboxFile.objects.filter(pk=row.pk).exists()


def test_the_api_lists_retries_and_dismisses() -> None:
    row = InboxFile.objects.create(filename="chats.jsonl", state=InboxState.REJECTED, reason="It was removed.")
    use, read = make_client("use"), make_client("read")
    listed = read.get("/api/inbox").json()
    assert (listed["enabled"], [item["state"] for item in listed["files"]]) == (True, ["rejected"])
    assert read.post(f"/api/inbox/{row.pk}/retry").status_code == 403
    assert use.post(f"/api/inbox/{row.pk}/retry").status_code == 409, "its file is not there"
    assert use.delete(f"/api/inbox/{row.pk}").status_code == 204
    assert use.delete(f"/api/inbox/{row.pk}").status_code == 404
