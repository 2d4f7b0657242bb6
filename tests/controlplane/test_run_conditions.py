"""Conditions on figures and settings of runs: what they find, NaN, the infinities and what is missing included."""

from typing import Any

import pytest
from django.http import QueryDict

from controlplane.models import Metric
from controlplane.services import run_table
from tests import factories
from training.config.loader import parse_config, to_dict

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


@pytest.fixture
def fleet() -> None:
    """Runs a to f, by what their loss came to: numbers, what is none, nothing."""
    dataset, model = factories.make_dataset(), factories.make_model()
    losses: dict[str, Any] = {"a": 0.5, "b": 2, "c": "NaN", "d": "Infinity", "e": "-Infinity", "f": None}
    for number, (name, loss) in enumerate(losses.items()):
        config = to_dict(parse_config({"hyperparams": {"learning_rate": [1e-4, 1e-3][number % 2]}}))
        config["data"]["packing"] = number == 0
        if name == "f":
            del config["hyperparams"]["learning_rate"]  # written before there was such a setting
        last = {} if loss is None else {"loss": loss, 'eval/rouge "L"': 1, "a b": number}
        run = factories.make_run(name, dataset=dataset, model=model, config=config, last=last, last_step=10 * number)
        if number < 2:
            Metric.objects.create(run=run, key="loss", first_step=0, last_step=9, low=number, high=number + 5)


def found(text: str) -> str:
    """The names of the runs that fit, in order."""
    query = QueryDict(mutable=True)
    query["where"], query["sort"] = text, "run"
    question = run_table.ask(query)
    assert question.faults == ()
    return "".join(run.name for run in run_table.page(question).rows)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("loss<2", "ae"), ("loss <= 2", "abe"), ("loss>2", "d"), ("loss>=2", "bd"), ("loss=2", "b"), ("loss==0.5", "a"),
        ("loss!=2", "acde"), ("loss=nan", "c"), ("loss!=nan", "abde"), ("loss=inf", "d"), ("loss<inf", "abe"),
        ("loss>-inf", "abd"), ("loss=-Infinity", "e"), ("loss=none", "f"), ("loss!=none", "abcde"),
        ("loss<1e999", "abe"), ("never<1", ""), ("min.loss<1", "a"), ("max.loss>=6", "b"), ("min.loss!=0", "b"),
        ("learning_rate>=1e-3", "bd"), ("hyperparams.learning_rate = 0.0001", "ace"), ("learning_rate=0.0002", "f"),
        ("last.learning_rate>0", ""), ("packing=yes", "a"), ("data.packing!=true", "bcdef"),
        ("lr_scheduler_type=COSINE", "abcdef"), ("lr_scheduler_type!=cosine", ""), ("step>=40", "ef"),
        ("loss<2, step>0", "e"), ("loss<3 and learning_rate>=1e-3", "b"), ('"a b"=1', "b"), ("a b<1", "a"),
        (" ", "abcdef"),
    ],
)  # fmt: skip
def test_what_fits(fleet: None, text: str, names: str) -> None:
    assert found(text) == names


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("loss", "is no condition"), ("loss<", "is no condition"), ("<2", "is no condition"),
        ("loss<2 step>3", "is no condition"), ("loss<low", "number"), ("loss<nan", "NaN"), ("loss<none", "none"),
        ("packing<1", "= or !="), ("packing=maybe", "yes or no"), ("min.loss<inf", "finite"),
        ("min.loss=none", "finite"),
        ('a\\b<1', "can't be asked"), (", ".join(["loss<1"] * 11), "At most 10"), ("x" * 300, "200"),
        ("loss<2; DROP TABLE", "number"), ("<script>alert(1)</script>", "is no condition"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_left_out_with_a_sentence(fleet: None, text: str, part: str) -> None:
    query = QueryDict(mutable=True)
    query["where"] = text
    question = run_table.ask(query)
    assert part in question.faults[0].message
    assert len(run_table.page(question).rows) == 6
    answer = factories.make_client("read").get("/api/runs", {"where": text})
    assert answer.status_code == 422
    assert answer.json()["faults"][0]["path"] == "where"


def test_the_page_keeps_what_was_typed(fleet: None) -> None:
    response = factories.client_of("read").get("/runs/", {"where": "loss<2"})
    assert 'name="where" value="loss&lt;2"' in response.content.decode()
