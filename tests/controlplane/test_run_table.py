"""The table of runs: what an address filters, how it orders, and pages that go by key in both directions."""

import base64
import json
import math
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from controlplane.models import Job, Run, RunTag
from controlplane.models.jobs import Status
from controlplane.services import run_table
from controlplane.services.tables import columns, keyset
from tests import factories
from tests.controlplane.page_reading import HOSTILE, read
from training.config.loader import parse_config, to_dict

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def names(address: str, size: int = 50) -> list[str]:
    """The names of the first page."""
    return [run.name for run in run_table.page(run_table.ask(QueryDict(address)), size).rows]


def walk(address: str, size: int) -> tuple[list[list[int]], list[list[int]]]:
    """The pages of an address as the way there has them, and as the way back from the last one does."""
    there: list[list[int]] = []
    page = run_table.page(run_table.ask(QueryDict(address)), size)
    while True:
        there.append([run.pk for run in page.rows])
        if page.after is None:
            break
        page = run_table.page(run_table.ask(QueryDict(f"{address}&after={page.after}")), size)
    back = [there[-1]]
    while page.before is not None:
        page = run_table.page(run_table.ask(QueryDict(f"{address}&before={page.before}")), size)
        back.append([run.pk for run in page.rows])
    return there, back


@pytest.fixture
def fleet() -> list[Run]:
    """Eleven runs with ties, gaps and values that are no numbers."""
    dataset, model = factories.make_dataset("harbour"), factories.make_model("tiny")
    other = factories.make_dataset("knots")
    runs = []
    for number in range(11):
        config = to_dict(parse_config({"hyperparams": {"learning_rate": [1e-5, 1e-3, 2e-4][number % 3]}}))
        last: dict[str, Any] = {"loss": [0.5, "NaN", 1.25, 0.5][number % 4]} if number % 5 else {}
        run = factories.make_run(
            f"Run n{number % 6}", dataset=other if number % 2 else dataset, model=model, config=config, last=last,
            status=[Status.DONE, Status.FAILED, Status.RUNNING][number % 3], group=["", "rates"][number % 2],
            last_step=number % 4, created_by=["mara", "jonas"][number % 2],
        )  # fmt: skip
        if number % 3:
            begun = timezone.now() - timedelta(hours=number % 4)
            ended = begun + timedelta(seconds=number % 3) if number % 4 else None
            Job.objects.filter(pk=run.job_id).update(started_at=begun, ended_at=ended)
        runs.append(run)
    return runs


SORTS = [
    "run", "state", "progress", "model", "dataset", "profile", "group", "started_by", "host", "created", "started",
    "took", "last.loss", "last.never", "hyperparams.learning_rate", "hyperparams.lr_scheduler_type", "data.packing",
]  # fmt: skip


@pytest.mark.parametrize("sort", [*SORTS, *(f"-{sort}" for sort in SORTS)])
def test_each_order_is_walked_there_and_back_without_a_gap_or_a_double(fleet: list[Run], sort: str) -> None:
    there, back = walk(f"sort={sort}", 3)
    assert [len(page) for page in there] == [3, 3, 3, 2]
    whole = [run for page in there for run in page]
    assert sorted(whole) == [run.pk for run in fleet]
    assert back == there[::-1]
    rows: list[Any] = run_table.page(run_table.ask(QueryDict(f"sort={sort}"))).rows
    values = [columns.to_cursor(row.sort_value) for row in rows]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=sort.startswith("-"))
    assert values[: len(known)] == known, "what has no value comes last"


def test_numbers_come_in_order_and_what_is_no_number_last(fleet: list[Run]) -> None:
    rows = run_table.page(run_table.ask(QueryDict("sort=-last.loss"))).rows
    assert [run.last.get("loss") for run in rows][:6] == [1.25, 1.25, 0.5, 0.5, 0.5, 0.5]
    assert {run.last.get("loss") for run in rows[6:]} == {"NaN", None}


@pytest.mark.parametrize(
    ("address", "count"),
    [
        ("", 11), ("state=done", 4), ("state=done&state=failed", 8), ("dataset=knots", 5), ("dataset=knots v1", 5),
        ("dataset=knots v2", 0), ("model=tiny", 11), ("model=huge", 0), ("group=rates", 5), ("started_by=mara", 6),
        ("q=run", 11), ("q=run n4", 2), ("q=RATES", 5), ("q=nothing", 0), ("tag=keep", 2), ("tag=keep,late", 1),
        ("q=kee", 2), ("q=secret", 1), ("profile=plain&state=running&group=rates", 1), ("state=", 11),
    ],
)  # fmt: skip
def test_filters(fleet: list[Run], address: str, count: int) -> None:
    RunTag.objects.create(run=fleet[0], name="keep")
    RunTag.objects.bulk_create([RunTag(run=fleet[1], name=name) for name in ("keep", "late")])
    Run.objects.filter(pk=fleet[3].pk).update(notes="a secret reason")
    page = run_table.page(run_table.ask(QueryDict(address)))
    assert (len(page.rows), page.count, page.is_whole_count) == (count, count, True)


def test_a_state_compares_no_rows_with_each_other(fleet: list[Run]) -> None:
    assert "DISTINCT" not in str(run_table.ask(QueryDict("state=done&tag=keep")).filters.qs.query)


def test_pages_go_on_behind_figures_of_any_size(fleet: list[Run]) -> None:
    for run, loss in zip(fleet, (5e21, 1e300, -1e300, 1.0), strict=False):
        Run.objects.filter(pk=run.pk).update(last={"loss": loss})
    there, back = walk("sort=-last.loss", 1)
    assert [page[0] for page in there][:2] == [fleet[1].pk, fleet[0].pk]
    assert sorted(run for page in there for run in page) == [run.pk for run in fleet]
    assert back == there[::-1]


def test_a_run_is_found_by_its_number(fleet: list[Run]) -> None:
    assert fleet[4].pk in [run.pk for run in run_table.page(run_table.ask(QueryDict(f"q={fleet[4].pk}"))).rows]


def cursor(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("column=state&column=nonsense", "nonsense"), ("column=locked.base_model", "locked"),
        ("sort=nonsense", "nonsense"), ("sort=tags", "tags"),
        ('sort=last.a"b', "a"), ("state=odd", "odd"), ("q=" + "x" * 10_000, "200"),
        ("after=%%%", "place"), (f"after={cursor([1])}", "place"), (f"after={cursor(['x', 3])}", "place"),
        (f"after={cursor([3, -1])}", "place"), (f"sort=run&after={cursor([3, 1])}", "place"),
        (f"sort=started&after={cursor(['soon', 1])}", "place"), (f"after={cursor([1e400, 1])}", "place"),
        (f"after={cursor(1)}", "place"), (f"sort=last.loss&after={cursor([math.inf, 1])}", "place"),
        (f"sort=last.loss&after={cursor([2**70, 1])}", "place"), (f"sort=progress&after={cursor([1e30, 1])}", "place"),
        (f"sort=started&after={cursor(['0001-01-01T00:00:00+14:00', 1])}", "place"),
        (f"sort=started&after={cursor(['2026-01-01T00:00:00', 1])}", "place"),
        ("column=last.x&column=" + "&column=".join(f"last.{n}" for n in range(40)), "30"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_left_out_with_a_hint(fleet: list[Run], address: str, part: str) -> None:
    question = run_table.ask(QueryDict(address))
    assert any(part in fault.message for fault in question.faults)
    assert len(run_table.page(question).rows) == 11


def test_a_text_that_no_data_base_takes_is_no_place_in_the_table(fleet: list[Run]) -> None:
    for text in ("\ud800", "a\0b"):
        question = run_table.ask(QueryDict(f"sort=run&after={cursor([text, 1])}"))
        assert question.cursor is None
        assert len(run_table.page(question).rows) == 11


@pytest.mark.parametrize("key", ["eval/rouge.L", "a b,c", "$.x", "naïve[0]", "it's"])
def test_a_metric_is_ordered_whatever_its_key_is(key: str) -> None:
    for value in (3, 1, 2):
        factories.make_run(str(value), last={key: value})
    query = QueryDict(mutable=True)
    query["sort"] = f"last.{key}"
    assert [run.name for run in run_table.page(run_table.ask(query)).rows] == ["1", "2", "3"]


def many_runs(count: int) -> None:
    """Runs by the thousand, as rows alone."""
    first = factories.make_run("first")
    jobs = Job.objects.bulk_create([Job(kind="train", status="done", created_by="mara") for _ in range(count - 1)])
    Run.objects.bulk_create([
        Run(
            name=f"run {number}", job=job, dataset=first.dataset, model=first.model, created_by="mara",
            config={"hyperparams": {"learning_rate": number % 7 / 1000}}, last={"loss": number % 100 / 10},
        )
        for number, job in enumerate(jobs)
    ])  # fmt: skip


def test_a_page_of_ten_thousand_runs_asks_as_many_questions_as_one_of_ten() -> None:
    client = factories.client_of("use")
    address = "/runs/?sort=-last.loss&column=state&column=tags&column=last.loss&column=hyperparams.learning_rate"
    many_runs(10)
    with CaptureQueriesContext(
        connection,
    ) as few:
        client.get(address)
    many_runs(10_001)
    with CaptureQueriesContext(connection) as many:
        response = client.get(address)
    assert len(many) == len(few) <= 22
    assert not any("OFFSET" in query["sql"] for query in many)
    page = read(response)
    assert len(page.all("tr")) == keyset.PAGE_ROWS + 1
    assert "10,000 or more" in page.source
    following = next(link for link in page.all("a") if link.text == "Next page")
    assert len(read(client.get(f"/runs/{following.get('href')}")).all("tr")) == keyset.PAGE_ROWS + 1


# --- The page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_columns_of_its_address_in_its_order(fleet: list[Run]) -> None:
    page = read(
        factories.client_of("read").get("/runs/?column=hyperparams.learning_rate&column=last.loss&sort=-last.loss")
    )
    heads = page.all("th")
    assert [head.text.split("\n")[0].strip() for head in heads][1:] == ["learning rate", "loss ↓"]
    assert heads[2].get("aria-sort") == "descending"
    assert heads[1].get("aria-sort") == ""
    assert page.all("a", title="Sort by loss")[0].get("href").endswith("sort=last.loss")
    assert "0.001" in page.by_id("run-rows").text


def test_the_dialog_offers_all_columns_those_that_are_shown_first_and_ticked(fleet: list[Run]) -> None:
    Run.objects.filter(pk=fleet[0].pk).update(last={HOSTILE: 1.0})
    page = read(factories.client_of("read").get("/runs/columns?column=last.loss&column=tags"))
    boxes = page.all("input", name="column")
    assert [box.get("value") for box in boxes if "checked" in box.attributes] == ["last.loss", "tags"]
    values = [box.get("value") for box in boxes]
    assert values[:2] == ["last.loss", "tags"]
    assert len(values) == len(set(values)) > 60
    assert {"state", "last.eval_loss", "hyperparams.learning_rate", f"last.{HOSTILE}"} <= set(values)


def test_an_address_with_faults_says_so_and_shows_the_rest(fleet: list[Run]) -> None:
    response = factories.client_of("read").get("/runs/?column=bogus&state=odd&sort=no&after=zz&group=rates")
    page = read(response)
    assert response.status_code == 200
    assert len(page.all("p", class_="notice")) == 4
    assert len(page.all("tr")) == 6


def test_names_tags_groups_and_notes_are_text(home: object) -> None:
    run = factories.make_run(HOSTILE, group=HOSTILE[:40], notes=HOSTILE, last={HOSTILE: "Infinity"})
    RunTag.objects.create(run=run, name=HOSTILE[:40])
    query = QueryDict(mutable=True)
    query.setlist("column", ["tags", "group", "notes", f"last.{HOSTILE}"])
    page = read(factories.client_of("use").get(f"/runs/?{query.urlencode()}"))
    assert HOSTILE in page.by_id("run-rows").text
    assert HOSTILE[:40] in page.by_id("run-rows").text
    assert "Infinity" in page.by_id("run-rows").text
    assert [item for item in page.all("script") if not item.get("src")] == []


def test_rows_are_drawn_anew_by_number(fleet: list[Run]) -> None:
    numbers = "&".join(f"run={run.pk}" for run in (fleet[2], fleet[0]))
    page = read(factories.client_of("read").get(f"/runs/rows?column=state&{numbers}&run=999999&run=x"))
    assert [row.get("data-run") for row in page.all("tr")] == [str(fleet[2].pk), str(fleet[0].pk)]


# --- The API ----------------------------------------------------------------------------------------------------------


def test_the_api_takes_the_same_filters_order_and_places(fleet: list[Run]) -> None:
    client = factories.make_client("read")
    answer = client.get("/api/runs?limit=2&sort=-last.loss&state=done&state=failed&state=running").json()
    assert [run["last"]["loss"] for run in answer["runs"]] == [1.25, 1.25]
    assert (answer["count"], answer["before"]) == (11, None)
    following = client.get(f"/api/runs?limit=2&sort=-last.loss&after={answer['after']}").json()
    assert [run["last"]["loss"] for run in following["runs"]] == [0.5, 0.5]
    again = client.get(f"/api/runs?limit=2&sort=-last.loss&before={following['before']}").json()
    assert again["runs"] == answer["runs"]


def test_older_runs_without_a_cursor(fleet: list[Run]) -> None:
    client = factories.make_client("read")
    answer = client.get(f"/api/runs?before_id={fleet[3].pk}&limit=2").json()
    assert [run["id"] for run in answer["runs"]] == [fleet[2].pk, fleet[1].pk]
    assert client.get(f"/api/runs?before_id={fleet[3].pk}&sort=run").status_code == 422


@pytest.mark.parametrize("address", ["sort=nonsense", "state=odd", "after=zz", "q=" + "x" * 201])
def test_the_api_refuses_what_the_page_leaves_out(address: str) -> None:
    response = factories.make_client("read").get(f"/api/runs?{address}")
    assert response.status_code == 422
    assert response.json()["faults"][0]["path"] == address.partition("=")[0]


def test_the_api_lists_runs_without_a_question_for_each(fleet: list[Run]) -> None:
    client = factories.make_client("read")
    client.get("/api/runs?limit=2")
    with CaptureQueriesContext(connection) as few:
        client.get("/api/runs?limit=2")
    with CaptureQueriesContext(connection) as many:
        assert len(client.get("/api/runs?limit=11").json()["runs"]) == 11
    assert len(many) == len(few)
