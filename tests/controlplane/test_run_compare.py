"""Runs side by side: which they are, the settings that differ, last values with the best marked, curves."""

import json
import math
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.errors import InvalidInputError
from controlplane.models import Run
from controlplane.models.jobs import Status
from controlplane.services import curves, run_compare
from tests import factories
from tests.controlplane.page_reading import HOSTILE, Page, read
from training.config.loader import parse_config, to_dict

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def make_run(name: str, *, rate: float = 1e-4, last: dict[str, Any] | None = None, **fields: Any) -> Run:
    config = to_dict(parse_config({"hyperparams": {"learning_rate": rate, "max_steps": 9}}))
    return factories.make_run(name, status=Status.DONE, config=config, last=last or {}, **fields)


@pytest.fixture
def three() -> list[Run]:
    """Three runs of two rates, one with a loss that is no number."""
    runs = [
        make_run("one", last={"loss": 0.5, "eval/accuracy": 0.7, "grad_norm": 1.0}, group="rates"),
        make_run("two", rate=1e-3, last={"loss": 0.25, "eval/accuracy": 0.9, "eval_loss": "NaN"}, group="rates"),
        make_run(HOSTILE, last={"loss": "Infinity", HOSTILE: 3.0}),
    ]
    for place, run in enumerate(runs[:2]):
        curves.append(run, "eval/a.b", [(step, step / 10 + place, 1000.0 + step) for step in range(1, 4)])
    curves.append(runs[0], "loss", [(step, math.nan if step == 2 else 1.0, 1000.0) for step in range(1, 4)])
    return runs


def numbers(runs: list[Run]) -> str:
    return ",".join(str(run.pk) for run in runs)


@pytest.mark.parametrize(
    ("key", "is_larger"),
    [
        ("loss", False), ("eval_loss", False), ("eval/loss", False), ("perplexity", False), ("eval_accuracy", True),
        ("rougeL", True), ("tokens_per_second", True), ("grad_norm", None), ("learning_rate", None), ("lossless", None),
    ],
)  # fmt: skip
def test_which_way_a_metric_is_better(key: str, is_larger: bool | None) -> None:
    assert run_compare.larger_is_better(key) is is_larger


def test_the_api_answers_what_differs_and_what_each_came_to(three: list[Run]) -> None:
    answer = factories.make_client("read").get(f"/api/runs/compare?runs={numbers(three)}").json()
    assert [run["name"] for run in answer["runs"]] == ["one", "two", HOSTILE]
    settings = {row["path"]: row["values"] for row in answer["settings"]}
    assert settings["hyperparams.learning_rate"] == [1e-4, 1e-3, 1e-4]
    assert "hyperparams.max_steps" not in settings
    metrics = {row["key"]: row for row in answer["metrics"]}
    assert metrics["loss"] == {"key": "loss", "values": [0.5, 0.25, "Infinity"], "best": [three[1].pk]}
    assert metrics["eval/accuracy"]["best"] == [three[1].pk]
    assert metrics["eval_loss"] == {"key": "eval_loss", "values": [None, "NaN", None], "best": []}
    assert metrics["grad_norm"]["best"] == []


def test_the_curves_of_one_metric(three: list[Run]) -> None:
    client = factories.make_client("read")
    answer = client.get("/api/runs/compare/metrics", {"runs": numbers(three), "key": "eval/a.b"}).json()
    assert set(answer["series"]) == {str(run.pk) for run in three[:2]}
    assert answer["series"][str(three[1].pk)]["value"] == pytest.approx([1.1, 1.2, 1.3])
    broken = client.get("/api/runs/compare/metrics", {"runs": numbers(three), "key": "loss"}).json()
    assert broken["series"][str(three[0].pk)]["value"] == [1.0, "NaN", 1.0]
    assert client.get("/api/runs/compare/metrics", {"runs": numbers(three), "key": "x" * 10_000}).json()["series"] == {}


def test_a_run_more_is_two_questions_more(three: list[Run]) -> None:
    compared = [*three[:2], *three[:2]]
    with CaptureQueriesContext(connection) as asked:
        run_compare.curves(compared, "eval/a.b", 100)
    assert len(asked) <= 2 * len(compared)
    with pytest.raises(InvalidInputError, match="max_points"):
        run_compare.curves(compared, "eval/a.b", 1)


def test_of_many_numbers_that_are_nobodys_a_few_are_named() -> None:
    reader = factories.make_client("read")
    answer = reader.get("/api/runs/compare", {"runs": ",".join(str(10**6 + place) for place in range(40))})
    assert answer.json()["detail"] == ("There is no run 1000000, 1000001, 1000002, 1000003, 1000004 (and 35 more).")
    answer = reader.get("/api/runs/compare", {"runs": ",".join(map(str, range(1, 602)))})
    assert (answer.status_code, "601 runs are named" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 422), ("runs=1", 404), ("runs=a,b", 422), ("runs=1,2,3", 404), ("group=none", 422), ("view=99", 404)],
)
def test_a_script_is_told_what_cannot_be_compared(query: str, status: int) -> None:
    Run.objects.all().delete()
    assert factories.make_client("read").get(f"/api/runs/compare?{query}").status_code == status


def test_no_more_than_twenty_are_compared() -> None:
    dataset, model = factories.make_dataset(), factories.make_model()
    runs = [make_run(f"run {place}", dataset=dataset, model=model, group="many") for place in range(21)]
    response = factories.make_client("read").get("/api/runs/compare?group=many")
    assert (response.status_code, "2 to 20" in response.json()["detail"]) == (422, True)
    page = read(factories.client_of("read").get(f"/runs/compare?runs={numbers(runs)}"))
    assert "The first 20 of 21 runs" in page.by_id("main").text
    looks = {(item.get("data-colour"), item.get("data-dash")) for item in page.elements if item.get("data-line")}
    assert len(looks) == 20
    assert len({colour for colour, _ in looks}) == 4


# --- The page ---------------------------------------------------------------------------------------------------------


def table(page: Page, place: int) -> str:
    return [item.text for item in page.all("table", class_="data compare-table")][place]


def test_the_page_shows_the_settings_that_differ_and_all_of_them_when_asked(three: list[Run]) -> None:
    client = factories.client_of("read")
    page = read(client.get(f"/runs/compare?runs={numbers(three[:2])}"))
    assert "Learning rate" in table(page, 0)
    assert "Max steps" not in table(page, 0)
    everything = next(link for link in page.all("a") if link.text.startswith("all "))
    assert "Max steps" in table(read(client.get(f"/runs/compare{everything.get('href')}")), 0)


def test_the_best_is_marked_by_a_word(three: list[Run]) -> None:
    page = read(factories.client_of("read").get(f"/runs/compare?runs={numbers(three)}"))
    row = next(item for item in page.all("tr") if item.text.strip().startswith("loss"))
    assert row.text == "loss0.50000.2500 bestInfinity"


def test_a_group_and_a_view_are_compared_too(three: list[Run]) -> None:
    client = factories.client_of("use")
    assert "2 runs compared" in read(client.get("/runs/compare?group=rates")).one("h1").text
    client.post("/runs/views/save", {"name": "all of them", "query": "state=done"})
    link = next(item for item in read(client.get("/runs/?state=done")).all("a") if item.text == "Compare its runs")
    assert "3 runs compared" in read(client.get(link.get("href"))).one("h1").text


def test_names_and_keys_are_text(three: list[Run]) -> None:
    page = read(factories.client_of("read").get(f"/runs/compare?runs={numbers(three)}"))
    plotted = json.loads(page.by_id("compare-axes").get("data-plotted"))
    assert f"last.{HOSTILE}" in [axis["key"] for axis in plotted["axes"]]
    assert HOSTILE in page.by_id("main").text


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("/runs/compare", 200, "Nothing to compare yet"), ("/runs/compare?runs=999999", 200, "There is no run 999999."),
        ("/runs/compare?runs=x", 422, "numbers with commas"), ("/runs/compare?view=9", 404, "no saved view"),
        (f"/runs/compare?runs={10**30}", 422, "numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said(address: str, status: int, words: str) -> None:
    response = factories.client_of("read").get(address)
    assert response.status_code == status
    assert words in read(response).by_id("main").text


def test_choices_of_the_charts_come_from_the_address_and_odd_ones_are_left_out(three: list[Run]) -> None:
    client = factories.client_of("read")
    address = f"/runs/compare?runs={numbers(three)}"
    page = read(client.get(f"{address}&key=eval/accuracy&axis=clock&smooth=0.9&log=yes&px=last.grad_norm"))
    chosen = {item.get("value") for item in page.all("option") if "selected" in item.attributes}
    assert {"eval/accuracy", "last.grad_norm"} <= chosen
    assert page.by_id("compare-smooth").get("value") == "0.9"
    odd = read(client.get(f"{address}&key=none&axis=up&smooth=9&px=none&pm=x&hide=a&within=%3Cb"))
    assert odd.by_id("compare-smooth").get("value") == "0"
