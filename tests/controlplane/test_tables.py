"""Every table that its address asks: orders with equals and gaps, pages in both directions, filters, bad addresses."""

import base64
import json
from typing import Any

import pytest
from django.db import connection
from django.http import QueryDict
from django.test import Client
from django.test.utils import CaptureQueriesContext

from controlplane.services.tables import keyset
from controlplane.services.tables.columns import to_cursor
from tests import factories
from tests.controlplane.listed_tables import LISTINGS, Listing, fill, owner
from tests.controlplane.page_reading import HOSTILE, read

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
EVERY = pytest.mark.parametrize("listing", LISTINGS.values(), ids=list(LISTINGS))
LONG = "\u202e\u0645\u0631\u0633\u0627\u0629 \u2693\U0001f3f4\u200d\u2620\ufe0f " + HOSTILE + "x" * 10_000
"""Right to left, emoji, markup, and no end."""


def asked(listing: Listing, address: str, size: int = 50) -> keyset.Page[Any]:
    """The page of an address."""
    return keyset.page(listing.ask(QueryDict(address)), size)


def browser() -> Client:
    """A logged-in admin: the one whose conversations are listed."""
    client = Client()
    client.force_login(owner())
    return client


def script() -> dict[str, str]:
    """Headers of an admin's key."""
    return {"X-API-Key": factories.make_key("admin")}


@EVERY
def test_each_order_is_walked_there_and_back_without_a_gap_or_a_double(listing: Listing) -> None:
    made = fill(listing, 11)
    for sort in listing.sorts:
        there, page = [], asked(listing, f"sort={sort}", 4)
        values = [to_cursor(row.sort_value) for row in page.rows]
        while page.after is not None:
            there.append([row.pk for row in page.rows])
            page = asked(listing, f"sort={sort}&after={page.after}", 4)
            values += [to_cursor(row.sort_value) for row in page.rows]
        there.append([row.pk for row in page.rows])
        assert set(made) <= {key for keys in there for key in keys}, sort
        assert sum(map(len, there)) == page.count == len({key for keys in there for key in keys}), sort
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=sort.startswith("-")), sort
        assert values[: len(known)] == known, f"{sort}: what has no value comes last"
        back = [there[-1]]
        while page.before is not None:
            page = asked(listing, f"sort={sort}&before={page.before}", 4)
            back.append([row.pk for row in page.rows])
        assert back == there[::-1], sort


@EVERY
def test_rows_that_go_meanwhile_shift_no_page(listing: Listing) -> None:
    fill(listing, 9)
    first = asked(listing, "", 3)
    second = asked(listing, f"after={first.after}", 3)
    rest = asked(listing, f"after={second.after}", 50)
    model = type(first.rows[0])
    model.objects.filter(pk__in=[first.rows[2].pk, second.rows[0].pk]).delete()
    following = asked(listing, f"after={first.after}", 2)
    assert [row.pk for row in following.rows] == [row.pk for row in second.rows[1:]]
    assert [row.pk for row in asked(listing, f"after={following.after}").rows] == [row.pk for row in rest.rows]
    back = asked(listing, f"before={second.after}", 50)
    assert [row.pk for row in back.rows][:2] == [row.pk for row in first.rows[:2]]


@EVERY
def test_page_and_call_take_the_same_address(listing: Listing) -> None:
    fill(listing, 3, "harbour")
    fill_more = [listing.make(number, "knots") for number in range(3, 56)]
    assert fill_more
    client, headers = browser(), script()
    for address in ("q=knots", f"q=knots&sort={next(iter(listing.sorts))}", "q=harbour"):
        page = read(client.get(f"{listing.page}?{address}"))
        shown = [row.get("data-row") for row in page.elements if row.tag == "tr" and row.get("data-row")]
        filters = "&open=false" if listing.page == "/alerts/" else ""
        answer = client.get(f"{listing.call}?{address}&limit=50{filters}", headers=headers).json()
        own = asked(listing, address)
        assert len(shown) == len(own.rows) > 0
        if listing.page != "/chat/conversations":  # a key has conversations of its own
            assert len(answer[listing.rows]) == len(shown)
            assert answer["count"] == own.count
            assert (answer["after"], answer["before"]) == (own.after, own.before)


@EVERY
def test_next_back_and_reload_keep_filters_and_order(listing: Listing) -> None:
    fill(listing, 53, "knots")
    client = browser()
    sort = next(iter(listing.sorts))
    page = read(client.get(f"{listing.page}?q=knots&sort={sort}"))
    following = page.one("a", rel="next").get("href")
    assert "q=knots" in following
    assert f"sort={sort}" in following
    behind = read(client.get(f"{listing.page}{following}"))
    assert len([row for row in behind.elements if row.get("data-row")]) == 3
    assert behind.by_id("table-search").get("value") == "knots"
    before = behind.one("a", rel="prev").get("href")
    again = read(client.get(f"{listing.page}{before}"))
    keys = [[row.get("data-row") for row in one.elements if row.get("data-row")] for one in (page, again)]
    assert keys[0] == keys[1]
    assert any(head.get("aria-sort") for head in page.all("th")) or sort == "place"


def cursor(value: Any) -> str:
    """A place as an address carries it."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


BAD = (
    "sort=nonsense", "sort=-", "after=%%%", "before=-1", f"after={cursor([1])}", f"after={cursor([{}, 1])}",
    f"after={cursor(['x', -3])}", f"after={cursor([1e400, 'x'])}", "q=" + "x" * 10_000, "page=-7",
)  # fmt: skip


@EVERY
def test_what_cannot_be_is_left_out_with_a_sentence(listing: Listing) -> None:
    fill(listing, 2)
    client, headers = browser(), script()
    for address in BAD:
        response = client.get(f"{listing.page}?{address}")
        assert response.status_code == 200, address
        notices = [item for item in read(response).all("p", class_="notice") if "left out" in item.text]
        assert len(notices) == (0 if address == "page=-7" else 1), address
        assert len([row for row in read(response).elements if row.get("data-row")]) >= 2, address
        answer = client.get(f"{listing.call}?{address}", headers=headers)
        assert answer.status_code == (200 if address == "page=-7" else 422), address


@EVERY
def test_any_name_is_text_in_its_row(listing: Listing) -> None:
    listing.make(0, LONG)
    response = browser().get(listing.page)
    page = read(response)
    assert [item for item in page.all("script") if not item.get("src") and item.get("type") != "application/json"] == []
    assert "\u2693\U0001f3f4" in page.source
    assert "<img src=x" not in page.source


@EVERY
def test_a_page_asks_as_many_questions_for_fifty_rows_as_for_two(listing: Listing) -> None:
    client = browser()
    fill(listing, 2)
    client.get(listing.page)
    with CaptureQueriesContext(connection) as few:
        client.get(listing.page)
    for number in range(2, 60):
        listing.make(number, "row")
    with CaptureQueriesContext(connection) as many:
        client.get(listing.page)
    assert len(many) <= len(few) + 1
    assert not any("OFFSET" in query["sql"] for query in many)


@pytest.mark.parametrize("name", [name for name, listing in LISTINGS.items() if "usual" not in listing.sorts])
def test_the_usual_order_is_read_from_an_index(name: str) -> None:
    listing = LISTINGS[name]
    fill(listing, 5)
    page = asked(listing, "", 2)
    with CaptureQueriesContext(connection) as seen:
        asked(listing, f"after={page.after}", 2)
    sql = seen[0]["sql"]
    plan = connection.cursor().execute("EXPLAIN QUERY PLAN " + sql).fetchall() if connection.vendor == "sqlite" else []
    assert not any("TEMP B-TREE" in step[-1] for step in plan)


def test_whole_count_is_said_to_be_more_beyond_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyset, "COUNTED_UP_TO", 4)
    fill(LISTINGS["datasets"], 5)
    page = asked(LISTINGS["datasets"], "")
    assert (page.count, page.is_whole_count) == (4, False)
    assert "4 or more" in browser().get("/datasets/").content.decode()


@pytest.mark.parametrize(
    ("name", "address", "count"),
    [
        ("jobs", "status=done", 2), ("jobs", "status=done&status=failed", 4), ("jobs", "type=eval", 0),
        ("jobs", "created_by=p1", 3), ("datasets", "status=rejected", 3), ("models", "state=ready", 3),
        ("evaluations", "dataset=set 1", 3), ("generations", "strategy=answer", 6), ("sweeps", "state=stopped", 3),
        ("alerts", "severity=critical&severity=info", 4), ("audit", "actor=p0", 3), ("keys", "state=revoked", 2),
        ("keys", "state=expired", 1), ("keys", "state=valid", 3), ("keys", "role=read", 3),
    ],
)  # fmt: skip
def test_filters(name: str, address: str, count: int) -> None:
    fill(LISTINGS[name], 6)
    assert asked(LISTINGS[name], address).count == count


def test_jobs_that_wait_come_in_the_order_in_which_they_start() -> None:
    low, first, second, high = (
        factories.make_job(priority=priority, position=position)
        for priority, position in ((0, 0), (1, -2), (1, -1), (2, 0))
    )
    factories.make_job(status="done")
    page = asked(LISTINGS["jobs"], "status=pending&sort=place")
    assert [job.pk for job in page.rows] == [high.pk, first.pk, second.pk, low.pk]


def test_the_active_model_comes_first() -> None:
    fill(LISTINGS["models"], 3)
    active = factories.make_deployment(is_active=True).model
    factories.make_model("newer")
    assert asked(LISTINGS["models"], "").rows[0] == active


# --- Many at once -----------------------------------------------------------------------------------------------------


def test_one_thing_is_done_to_many_rows_each_by_its_own_permission() -> None:
    mine, theirs = factories.make_job(created_by="mara"), factories.make_job(created_by="jonas")
    user = factories.make_user("use", "mara")
    client = Client()
    client.force_login(user)
    response = client.post("/many/jobs", {"action": "cancel", "row": [mine.pk, theirs.pk, "x"]}, follow=True)
    mine.refresh_from_db()
    theirs.refresh_from_db()
    assert (mine.status, theirs.status) == ("cancelled", "pending")
    assert f"Job {mine.pk} cancelled." in response.content.decode()
    assert "belongs to jonas" in response.content.decode()


@pytest.mark.parametrize("name", [name for name, listing in LISTINGS.items() if listing.noun])
def test_the_call_for_many_names_what_was_refused(name: str) -> None:
    keys = fill(LISTINGS[name], 2)
    client, headers = browser(), script()
    action = {"jobs": "low", "sweeps": "delete", "keys": "revoke"}.get(name, "delete")
    rows = [f"row {number}" for number in range(2)] if name == "models" else keys
    answer = client.post(
        f"/api/many/{name}", {"rows": [*rows, 10**9], "action": action}, "application/json", headers=headers
    )
    assert answer.status_code == 200, answer.content
    outcome = answer.json()
    assert len(outcome["done"]) + len(outcome["refused"]) == 3
    assert outcome["refused"][-1]["row"] in (10**9, str(10**9))
    assert name == "conversations" or len(outcome["done"]) == 2, "an admin may"


@pytest.mark.parametrize(
    ("noun", "rows", "action", "status"),
    [("jobs", [], "cancel", 422), ("jobs", [1], "fly", 422), ("ships", [1], "delete", 404),
     ("jobs", list(range(1, 502)), "cancel", 422)],
)  # fmt: skip
def test_nothing_is_done_where_the_deed_or_the_rows_cannot_be(
    noun: str, rows: list[int], action: str, status: int
) -> None:
    answer = Client().post(f"/api/many/{noun}", {"rows": rows, "action": action}, "application/json", headers=script())
    assert answer.status_code == status
