"""Run templates: what is kept, what is left out, who may change them; over the services and the API."""

import pytest

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from controlplane.models import AuditLine
from controlplane.models.access import Actor, Role
from controlplane.services import run_templates, runs
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls"), pytest.mark.usefixtures("home")]

ANN = Actor("ann", Role.USE)
BEN = Actor("ben", Role.USE)
ROOT = Actor("root", Role.ADMIN)


def test_a_template_keeps_what_was_chosen_and_makes_a_run() -> None:
    dataset, model = factories.make_dataset(), factories.make_model()
    given = {
        "hyperparams": {"learning_rate": 1e-3, "seed": 42}, "output": {"output_dir": "/x", "register_as": "mine"},
        "locked": {"base_model": "other"}, "data": {"train_dataset": "9", "eval_fraction": 0.05},
    }  # fmt: skip
    row = run_templates.save(ANN, name=" short ", config=given, model=model.name, dataset=dataset.pk)
    assert row.config == {"hyperparams": {"learning_rate": 1e-3}, "data": {"eval_fraction": 0.05}}
    config = run_templates.apply(run_templates.named("short"), hyperparams={"seed": 7}, model=None)
    assert config["hyperparams"] == {"learning_rate": 1e-3, "seed": 7}
    assert row.config["hyperparams"] == {"learning_rate": 1e-3}
    run = runs.create(ANN, name="one", dataset=dataset.pk, model=model.name, config=config)
    assert run.config["hyperparams"]["seed"] == 7
    assert run.config["hyperparams"]["learning_rate"] == 1e-3


def test_names_are_unique_and_only_the_maker_or_an_admin_changes() -> None:
    row = run_templates.save(ANN, name="a", config={})
    run_templates.save(BEN, name="b", config={})
    with pytest.raises(ConflictError, match="already a run template 'a'"):
        run_templates.save(BEN, name="a", config={})
    with pytest.raises(ConflictError, match="already a run template 'b'"):
        run_templates.rename(ANN, row.pk, "b")
    with pytest.raises(ForbiddenError, match="belongs to ann"):
        run_templates.rename(BEN, row.pk, "c")
    with pytest.raises(ForbiddenError, match="needs the role use"):
        run_templates.save(Actor("eve", Role.READ), name="e", config={})
    assert run_templates.rename(ROOT, row.pk, "c").name == "c"
    run_templates.remove(ANN, row.pk)
    with pytest.raises(NotFoundError, match="Saved are: b"):
        run_templates.named("c")
    actions = list(AuditLine.objects.filter(action__startswith="run_template").values_list("action", flat=True))
    assert sorted(actions) == [
        "run_template.create", "run_template.create", "run_template.delete", "run_template.update",
    ]  # fmt: skip


def test_a_setting_that_cannot_be_taken_is_named_with_its_path() -> None:
    with pytest.raises(InvalidInputError) as caught:
        run_templates.save(ANN, name="a", config={"hyperparams": {"learning_rate": 7.0}, "modell": {}})
    assert {fault.path for fault in caught.value.faults} == {"config.hyperparams.learning_rate", "config.modell"}
    with pytest.raises(InvalidInputError, match="There is no profile 'gone'"):
        run_templates.save(ANN, name="a", config={"profile": {"name": "gone"}})


def test_a_template_of_a_run_leaves_out_what_is_the_runs_own() -> None:
    run = runs.create(
        ANN, name="one", dataset=factories.make_dataset(eval_fraction=0.2).pk, model=factories.make_model().name,
        config={"hyperparams": {"seed": 3}, "output": {"register_as": "mine"}},
    )  # fmt: skip
    row = run_templates.save_run(ANN, run, name="again")
    assert row.config == {"hyperparams": {"seed": 3}}
    assert row.dataset_id == run.dataset_id
    assert row.model_id == run.model_id
