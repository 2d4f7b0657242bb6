"""A run's page brings what its charts are first drawn from."""

import json
from typing import Any

import pytest

from controlplane.models import Run
from controlplane.services import curve_reading, curves, run_facts
from tests.controlplane.page_reading import HOSTILE, read
from tests.factories import client_of, make_checkpoint, make_run

pytestmark = pytest.mark.django_db


def opening(run: Run) -> dict[str, Any]:
    page = read(client_of("read").get(f"/runs/{run.pk}/"))
    assert page.refused == []
    found: dict[str, Any] = json.loads(page.by_id("run-opening").text)
    return found


def test_the_page_brings_what_the_api_would_answer() -> None:
    run = make_run("long")
    curves.append(run, "loss", [(step, 1 / step, 1e9 + step) for step in range(1, 9001)])
    curves.append(run, "eval_loss", [(100, float("nan"), 1e9), (200, 0.5, 1e9 + 1)])
    curves.append(run, HOSTILE, [(1, 1.0, 1e9)])
    make_checkpoint(run, 100)
    found = opening(run)
    assert found["outline"] == curve_reading.outline(run)
    assert found["checkpoints"] == run_facts.checkpoints(run)
    assert found["series"] == curve_reading.read(run, ["loss", "eval_loss"], None, 2000)
    assert 1900 < len(found["series"]["loss"]["step"]) <= 2000
    assert found["series"]["eval_loss"]["value"] == ["NaN", 0.5]
    assert HOSTILE in [metric["key"] for metric in found["outline"]["keys"]], "it ends no element"


def test_a_run_without_points_brings_none() -> None:
    found = opening(make_run("new"))
    assert (found["series"], found["checkpoints"], found["outline"]["keys"]) == ({}, [], [])
