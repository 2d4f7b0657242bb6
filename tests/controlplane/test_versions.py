"""Versions of a model: the names they get, what a run may follow, and what their page and the API tell."""

from typing import Any

import pytest
from django.utils import timezone

from controlplane.kinds.train import result_model
from controlplane.models import LanguageModel
from controlplane.models.deployments import DeploymentStatus
from controlplane.services import versions
from tests.controlplane.evaluations import make_evaluation
from tests.controlplane.page_reading import read
from tests.factories import client_of, make_client, make_dataset, make_deployment, make_model, make_run
from training.config.loader import parse_config, to_dict

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def made_by_a_run(name: str) -> LanguageModel:
    return result_model(make_run(config=to_dict(parse_config({"output": {"register_as": name}}))))


def test_runs_of_one_model_id_make_versions_of_it() -> None:
    made = [made_by_a_run("helper") for _ in range(3)]
    assert [(row.name, row.family, row.version) for row in made] == [
        ("helper", "helper", 1), ("helper-v2", "helper", 2), ("helper-v3", "helper", 3),
    ]  # fmt: skip
    assert versions.next_place("helper-v2") == ("helper-v4", "helper", 4)


def test_a_deleted_versions_place_is_not_given_again_below_a_newer_one() -> None:
    first, _ = made_by_a_run("helper"), made_by_a_run("helper")
    first.delete()
    again = made_by_a_run("helper")
    assert (again.name, again.version) == ("helper-v3", 3)


def test_a_name_that_somebody_has_is_passed_over() -> None:
    made_by_a_run("helper")
    make_model("helper-v2")
    assert (made_by_a_run("helper").name, versions.next_place("helper").version) == ("helper-v3", 4)


def test_a_model_that_was_fetched_gets_no_versions() -> None:
    make_model("starter", source="hub")
    assert not versions.may_follow("starter")
    run = make_run("starter")
    assert result_model(run).name == f"starter-{run.pk}"
    body = {"name": "more", "dataset": make_dataset().pk, "model": "starter"}
    for name, status in (("starter", 422), ("no such/../name", 422), ("x" * 191, 422), ("fresh", 201)):
        config = {"output": {"register_as": name}}
        answer = make_client("use").post("/api/runs", {**body, "config": config}, content_type="application/json")
        assert answer.status_code == status, answer.content
    made_by_a_run("mine")
    config = {"output": {"register_as": "mine"}}
    answer = make_client("use").post("/api/runs", {**body, "config": config}, content_type="application/json")
    assert answer.status_code == 201, answer.content


def test_the_page_compares_versions_and_rolls_back() -> None:
    old, new = made_by_a_run("helper"), made_by_a_run("helper")
    LanguageModel.objects.update(state="ready")
    make_deployment(old, status=DeploymentStatus.STOPPED, activated_at=timezone.now())
    make_deployment(new, is_active=True, activated_at=timezone.now())
    evaluation = make_evaluation((1, 1, 0, 1), model=old)
    source = read(client_of("admin").get("/models/at/helper-v2")).source
    for shown in ("Versions of helper", "75.0 %", f"/evaluate/{evaluation.pk}/", "Roll back to it"):
        assert shown in source
    alone = read(client_of("read").get(f"/models/at/{make_model('alone').name}"))
    assert "Versions of" not in alone.source


def test_the_api_lists_a_family() -> None:
    for name in ("helper", "helper", "other"):
        made_by_a_run(name)
    LanguageModel.objects.update(state="ready")  # what a run is still to make isn't listed
    rows: list[dict[str, Any]] = make_client("read").get("/api/models", {"family": "helper"}).json()["models"]
    assert {(row["id"], row["version"]) for row in rows} == {("helper", 1), ("helper-v2", 2)}
