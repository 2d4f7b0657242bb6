"""What people say of a run, one thing done to many, and saved views: by service, API and page."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from controlplane.errors import ForbiddenError, InvalidInputError
from controlplane.models import AuditLine, Job, Run, RunTag, RunView
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import Desired, Status
from controlplane.services import run_about, run_facts, run_views
from controlplane.services.run_about import StaleEditionError
from tests import factories
from tests.controlplane.page_reading import HOSTILE, read

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
MARA, JONAS = Actor("mara", Role.USE, user_id=1), Actor("jonas", Role.USE, user_id=2)
JSON = "application/json"


def mine(**fields: Any) -> Run:
    """A run of mara's."""
    return factories.make_run("first", created_by="mara", **fields)


def test_words_on_a_run_are_kept_and_written_down() -> None:
    run = mine()
    changes = {"name": "  second ", "tags": "b, a,,b ", "group": "rates", "notes": "one\r\ntwo"}
    changed = run_about.change(MARA, run.pk, changes)
    assert run_about.about(changed) == {"name": "second", "tags": ["a", "b"], "group": "rates", "notes": "one\ntwo"}
    assert changed.edition == 2
    assert Job.objects.get(pk=run.job_id).title == "second"
    line = AuditLine.objects.filter(action="run.change").get()
    assert (line.actor, line.target, line.detail["edition"], line.detail["tags"]) == (
        "mara",
        f"run {run.pk}",
        2,
        ["a", "b"],
    )


def test_what_stays_the_same_is_no_change() -> None:
    run = mine(group="rates")
    assert run_about.change(MARA, run.pk, {"name": "first", "group": "rates"}).edition == 1
    assert not AuditLine.objects.filter(action="run.change").exists()


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": ""}, "name"), ({"name": "x" * 10_000}, "name"), ({"name": "a\nb"}, "name"),
        ({"name": "a\u202eb"}, "name"), ({"group": "x" * 101}, "group"),
        ({"notes": "x" * 20_001}, "notes"), ({"tags": ["x" * 51]}, "tags"),
        ({"tags": ["a,b"]}, "tags"), ({"tags": [str(number) for number in range(21)]}, "tags"),
        ({"group": "fine", "tags": ["a\0"]}, "tags"),
    ],
)  # fmt: skip
def test_words_that_cannot_be_are_refused_with_their_field(changes: dict[str, Any], path: str) -> None:
    run = mine()
    with pytest.raises(InvalidInputError) as refused:
        run_about.change(MARA, run.pk, changes)
    assert [fault.path for fault in refused.value.faults] == [path]
    assert run_about.about(Run.objects.get(pk=run.pk)) == run_about.about(run)


@pytest.mark.parametrize("name", ["שלום עולם", "🌊 tide", "👨\u200d👩\u200d👧 at sea", HOSTILE, "a/b.c"])
def test_any_writing_is_a_name(name: str) -> None:
    assert run_about.change(MARA, mine().pk, {"name": name, "tags": [name[:40]]}).name == name


def test_somebody_elses_run_is_left_alone() -> None:
    run = mine()
    for who in (JONAS, Actor("mara", Role.READ)):
        with pytest.raises(ForbiddenError):
            run_about.change(who, run.pk, {"group": "rates"})
    assert run_about.change(SYSTEM, run.pk, {"group": "rates"}).group == "rates"


def test_the_second_of_two_changes_is_refused_with_what_the_first_was() -> None:
    run = mine()
    run_about.change(SYSTEM, run.pk, {"name": "theirs", "tags": ["x"]}, edition=1)
    with pytest.raises(StaleEditionError, match=r"pilothouse has changed run \d+ meanwhile: name, tags"):
        run_about.change(MARA, run.pk, {"name": "ours"}, edition=1)
    assert Run.objects.get(pk=run.pk).name == "theirs"
    assert run_about.change(MARA, run.pk, {"name": "ours"}, edition=2).edition == 3


@pytest.mark.parametrize(
    ("deed", "left"), [(run_about.add_tags, ["a", "b", "theirs"]), (run_about.remove_tags, ["a", "theirs"])]
)
def test_tags_of_two_people_at_once_are_both_kept(
    monkeypatch: pytest.MonkeyPatch, deed: Callable[[Actor, int, list[str]], Run], left: list[str]
) -> None:
    run = mine()
    run_about.change(MARA, run.pk, {"tags": ["a"]})
    real, calls = run_about._tags_of, []

    def meanwhile(run_id: int) -> list[str]:
        names = real(run_id)
        calls.append(names)
        if len(calls) == 1:
            run_about.change(SYSTEM, run_id, {"tags": [*names, "theirs"]})
        return names

    monkeypatch.setattr(run_about, "_tags_of", meanwhile)
    assert run_facts.tag_names(deed(MARA, run.pk, ["b"])) == left


def test_notes_hold_no_nul() -> None:
    with pytest.raises(InvalidInputError, match="NUL") as refusal:
        run_about.change(MARA, mine().pk, {"notes": "a\0b"})
    assert [fault.path for fault in refusal.value.faults] == ["notes"]


# --- The API and the page ---------------------------------------------------------------------------------------------


def test_the_api_changes_what_is_given() -> None:
    run = factories.make_run("first", created_by="key mine", group="rates")
    client = factories.make_client("use", name="mine")
    answer = client.patch(f"/api/runs/{run.pk}", {"tags": ["b", "a"], "edition": 1}, content_type=JSON)
    assert answer.status_code == 200, answer.content
    told = answer.json()
    assert (told["tags"], told["group"], told["name"], told["edition"]) == (["a", "b"], "rates", "first", 2)
    assert client.get(f"/api/runs/{run.pk}").json()["tags"] == ["a", "b"]
    late = client.patch(f"/api/runs/{run.pk}", {"notes": "late", "edition": 1}, content_type=JSON)
    assert (late.status_code, "tags" in late.json()["detail"]) == (409, True)
    for body, status in (({"tags": ["x" * 51]}, 422), ({"surplus": 1}, 422)):
        assert client.patch(f"/api/runs/{run.pk}", body, content_type=JSON).status_code == status
    other = factories.make_run(created_by="mara")
    assert client.patch(f"/api/runs/{other.pk}", {"group": "x"}, content_type=JSON).status_code == 403
    assert factories.make_client("read").patch(f"/api/runs/{run.pk}", {}, content_type=JSON).status_code == 403


def test_the_pages_form_keeps_what_was_typed_when_it_came_too_late() -> None:
    run = mine()
    client = factories.client_of("use", "mara")
    form = read(client.get(f"/runs/{run.pk}/about?edit"))
    assert form.one("input", name="edition").get("value") == "1"
    run_about.change(SYSTEM, run.pk, {"group": "theirs", "notes": HOSTILE})
    typed = {"name": "first", "tags": "a, b", "group": "ours", "notes": "mine", "edition": "1"}
    page = read(client.post(f"/runs/{run.pk}/about", typed))
    assert "pilothouse has changed" in page.one("div", role="alert").text
    assert page.by_id("about-group").get("value") == "ours"
    assert page.by_id("about-notes").text == "mine"
    assert "theirs" in page.source
    assert f"now: {HOSTILE}" in page.one("span", class_="hint run-notes").text
    saved = read(
        client.post(f"/runs/{run.pk}/about", {**typed, "edition": page.one("input", name="edition").get("value")})
    )
    assert "ours" in saved.source
    assert run_facts.tag_names(Run.objects.get(pk=run.pk)) == ["a", "b"]


def test_a_fault_stands_beside_its_field_and_nothing_is_lost() -> None:
    run = mine()
    client = factories.client_of("use", "mara")
    typed = {"name": "x" * 10_000, "tags": "a", "group": "g", "notes": "n", "edition": "1"}
    page = read(client.post(f"/runs/{run.pk}/about", typed))
    assert page.by_id("about-name").get("aria-invalid") == "true"
    assert "1 to 200" in page.one("span", class_="fault").text
    assert page.by_id("about-tags").get("value") == "a"
    assert Run.objects.get(pk=run.pk).edition == 1


def test_a_reader_sees_the_words_and_no_form() -> None:
    run = mine(notes="why")
    client = factories.client_of("read")
    page = read(client.get(f"/runs/{run.pk}/"))
    assert "why" in page.by_id("run-about").text
    assert page.button("Edit name, tags and notes") is None
    assert client.get(f"/runs/{run.pk}/about?edit").status_code == 403


# --- Many runs --------------------------------------------------------------------------------------------------------


def test_what_refuses_one_run_leaves_the_others_alone() -> None:
    client = factories.make_client("use", name="mine")
    done, running = (
        factories.make_run(created_by="key mine", status=status) for status in (Status.DONE, Status.RUNNING)
    )
    foreign = factories.make_run(created_by="mara", status=Status.DONE)
    body = {"runs": [done.pk, running.pk, foreign.pk, 10**9], "action": "delete"}
    answer = client.post("/api/runs/many", body, content_type=JSON).json()
    assert answer["done"] == [done.pk]
    reasons = {item["run"]: item["reason"] for item in answer["refused"]}
    assert "stop it first" in reasons[running.pk]
    assert "belongs to mara" in reasons[foreign.pk]
    assert "no run" in reasons[10**9]
    assert set(Run.objects.values_list("pk", flat=True)) == {running.pk, foreign.pk}


@pytest.mark.parametrize(
    ("action", "text", "tags", "group"),
    [
        ("tag", "b, c", ["a", "b", "c"], "g"),
        ("untag", "a,b", [], "g"),
        ("group", "new", ["a"], "new"),
        ("group", "", ["a"], ""),
    ],
)
def test_tags_and_groups_of_many(action: str, text: str, tags: list[str], group: str) -> None:
    runs = [factories.make_run(created_by="mara", group="g") for _ in range(2)]
    RunTag.objects.bulk_create([RunTag(run=run, name="a") for run in runs])
    client = factories.client_of("use", "mara")
    back = {"Referer": "http://testserver/runs/?group=g&sort=run"}
    sent = {"run": [run.pk for run in runs], "action": action, "text": text}
    assert client.post("/runs/many", sent, headers=back)["Location"] == "/runs/?group=g&sort=run"
    for run in Run.objects.all():
        assert (run_facts.tag_names(run), run.group) == (tags, group)


@pytest.mark.parametrize(("action", "desired"), [("stop", Desired.STOP), ("cancel", Desired.CANCEL)])
def test_many_are_stopped(action: str, desired: str) -> None:
    run = factories.make_run(created_by="mara", status=Status.RUNNING)
    factories.client_of("use", "mara").post("/runs/many", {"run": [run.pk], "action": action})
    assert Job.objects.get(pk=run.job_id).desired == desired


def test_the_page_tells_what_was_refused_and_why() -> None:
    runs = [factories.make_run(created_by=who) for who in ("mara", "jonas", "jonas")]
    client = factories.client_of("use", "mara")
    sent = {"run": [run.pk for run in runs], "action": "tag", "text": "keep"}
    page = read(client.post("/runs/many", sent, follow=True))
    said = page.by_id("messages").text
    assert f"Run {runs[0].pk} tagged." in said
    assert said.count("belongs to jonas") == 2


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"runs": [], "action": "tag", "text": "a"}, "runs"), ({"runs": [1], "action": "dance"}, "action"),
        ({"runs": list(range(501)), "action": "stop"}, "runs"), ({"runs": [1], "action": "tag", "text": " , "}, "text"),
        ({"runs": [1], "action": "tag", "text": "x" * 51}, "tags"),
        ({"runs": [1], "action": "group", "text": "x" * 101}, "group"),
    ],
)  # fmt: skip
def test_a_deed_that_cannot_be_is_refused_whole(body: dict[str, Any], path: str) -> None:
    answer = factories.make_client("use").post("/api/runs/many", body, content_type=JSON)
    assert answer.status_code == 422
    assert answer.json()["faults"][0]["path"] == path


def test_a_reader_does_nothing_to_many() -> None:
    run = factories.make_run()
    body = {"runs": [run.pk], "action": "tag", "text": "a"}
    assert factories.make_client("read").post("/api/runs/many", body, content_type=JSON).status_code == 403


# --- Saved views ------------------------------------------------------------------------------------------------------


def saved(client: Client, name: str = "best", query: str = "?state=done&sort=last.loss&after=x&odd=1&q=") -> RunView:
    assert client.post("/runs/views/save", {"name": name, "query": query}).status_code == 302
    return RunView.objects.get(name=name)


def test_a_view_keeps_filters_columns_and_order_and_is_its_makers_own() -> None:
    client, other = factories.client_of("use", "mara"), factories.client_of("use", "jonas")
    factories.make_run()
    row = saved(client)
    assert row.query == "state=done&sort=last.loss"
    page = read(client.get(f"/runs/?{row.query}"))
    assert [link.text for link in page.all("a", aria_current="page") if "best" in link.text] == ["best"]
    assert "best" not in read(other.get("/runs/")).one("nav", aria_label="Saved views").text
    assert other.post(f"/runs/views/{row.pk}/delete").status_code == 404
    saved(client, "best", "q=x")
    assert RunView.objects.get().query == "q=x"
    client.post(f"/runs/views/{row.pk}/delete")
    assert not RunView.objects.exists()


def test_ones_own_views_come_before_those_of_others() -> None:
    RunView.objects.bulk_create(
        RunView(name=f"a{place:03}", owner=f"user:{place + 5}", is_shared=True, created_by="x") for place in range(250)
    )
    RunView.objects.create(name="z", owner=MARA.owner, created_by="mara")
    listed = [row.name for row in run_views.list_views(MARA)]
    assert (listed[:2], len(listed)) == (["z", "a000"], 200)


def test_a_view_is_as_short_as_it_is_stored() -> None:
    with pytest.raises(InvalidInputError, match="at most 4,000"):
        run_views.save(MARA, "long", "q=" + "ü" * 1000)
    assert run_views.save(MARA, "fits", "q=" + "ü" * 600).query.startswith("q=%C3%BC")


def test_an_admin_shares_a_view_with_all() -> None:
    admin, other = factories.client_of("admin", "boss"), factories.client_of("read")
    factories.make_run()
    row = saved(admin)
    assert factories.client_of("use").post(f"/runs/views/{row.pk}/share", {"shared": "yes"}).status_code == 403
    admin.post(f"/runs/views/{row.pk}/share", {"shared": "yes"})
    assert "best" in read(other.get("/runs/")).one("nav", aria_label="Saved views").text
    assert other.post(f"/runs/views/{row.pk}/delete").status_code == 403
    admin.post(f"/runs/views/{row.pk}/share", {"shared": "no"})
    assert "best" not in read(other.get("/runs/")).one("nav", aria_label="Saved views").text
    assert [line.action for line in AuditLine.objects.filter(action__startswith="run_view").order_by("id")] == [
        "run_view.save", "run_view.share", "run_view.unshare",
    ]  # fmt: skip


def test_views_over_the_api() -> None:
    client = factories.make_client("admin")
    view = client.post("/api/run-views", {"name": HOSTILE, "query": "state=done"}, content_type=JSON).json()
    assert client.patch(f"/api/run-views/{view['id']}", {"is_shared": True}, content_type=JSON).json()["is_shared"]
    reader = factories.make_client("read")
    assert [item["name"] for item in reader.get("/api/run-views").json()["views"]] == [HOSTILE]
    assert reader.delete(f"/api/run-views/{view['id']}").status_code == 403
    assert client.delete(f"/api/run-views/{view['id']}").status_code == 204
    for body in ({"name": "", "query": ""}, {"name": "x" * 10_000}, {"name": "a", "query": "q=" + "x" * 5000}):
        assert client.post("/api/run-views", body, content_type=JSON).status_code == 422
    assert client.patch("/api/run-views/999999", {"is_shared": True}, content_type=JSON).status_code == 404
