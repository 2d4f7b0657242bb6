"""Promote when better: activated only on a real difference, by one step after the other, whatever happens between."""

import json
from typing import Any

import pytest
from django.utils import timezone

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError
from controlplane.models import AuditLine, Checkpoint, Deployment, Evaluation, Job, LanguageModel, Promotion
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Status
from controlplane.services import evaluations_promotion, models
from controlplane.services.evaluations_promotion import promote, work
from monitoring.files import write_bytes
from tests.controlplane.evaluations import logged, make_evaluation
from tests.controlplane.page_reading import read
from tests.factories import client_of, make_client, make_dataset, make_deployment, make_model, make_run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
ADMIN = Actor("ada", Role.ADMIN)
GOOD, BAD = [1] * 24, [0] * 24


@pytest.fixture
def old(home: Any) -> LanguageModel:
    """The active model."""
    model = make_model("old")
    make_deployment(model, is_active=True)
    return model


def sides(old: LanguageModel, right: Any = GOOD, against: Any = BAD, **fields: Any) -> tuple[Evaluation, Evaluation]:
    """A candidate and the active model, asked the same rows."""
    dataset = fields.pop("dataset", None) or make_dataset()
    candidate = make_evaluation(right, model=make_model("new"), dataset=dataset, **fields)
    return candidate, make_evaluation(against, model=old, dataset=dataset)


def state_of(row: Promotion) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sentence


def coming() -> list[str]:
    return [row.model.name for row in Deployment.objects.filter(wants_active=True, is_active=False)]


def test_a_better_model_takes_the_place(old: LanguageModel) -> None:
    candidate, champion = sides(old)
    row = promote(ADMIN, candidate)
    assert row.champion == champion
    assert coming() == []
    work()
    state, sentence = state_of(row)
    assert state == "activated"
    assert sentence.startswith("new is really better than old by accuracy")
    assert coming() == ["new"]
    work()
    assert coming() == ["new"], "once"
    assert AuditLine.objects.filter(action="promotion.activated", detail__asked_by="ada").exists()


@pytest.mark.parametrize("right", [[1] * 2 + [0] * 22, BAD])
def test_one_that_may_be_as_good_does_not(old: LanguageModel, right: list[int]) -> None:
    row = promote(ADMIN, sides(old, right)[0])
    work()
    state, sentence = state_of(row)
    assert state == "refused"
    assert "may be chance" in sentence or "equally well" in sentence
    assert coming() == []


def test_one_that_is_worse_does_not(old: LanguageModel) -> None:
    row = promote(ADMIN, sides(old, BAD, GOOD)[0])
    work()
    assert state_of(row)[0] == "refused"


def test_how_sure_it_must_be_is_chosen(old: LanguageModel) -> None:
    candidate, _ = sides(old, [1] * 6 + [0] * 18)  # p = 0.03
    assert state_of(_worked(promote(ADMIN, candidate, confidence=0.99)))[0] == "refused"
    assert state_of(_worked(promote(ADMIN, candidate, confidence=0.95)))[0] == "activated"


def test_on_few_rows_nothing_is_activated_however_they_come_out(old: LanguageModel) -> None:
    candidate, _ = sides(old, [1] * 19, [0] * 19)
    state, sentence = state_of(_worked(promote(ADMIN, candidate)))
    assert state == "refused"
    assert sentence.endswith("A promotion needs at least 20 rows that both have: here there are 19.")
    assert coming() == []


def test_by_accuracy_only_where_something_was_answered(old: LanguageModel) -> None:
    rows = [logged(row, None, error="", nats=4.0 + row % 3) for row in range(24)]
    dataset = make_dataset()
    candidate = make_evaluation(rows=rows, model=make_model("new"), dataset=dataset, metrics=["loss"])
    with pytest.raises(InvalidInputError, match="has not measured accuracy"):
        promote(ADMIN, candidate)
    row = promote(ADMIN, candidate, metric="loss")
    assert row.champion.metrics == ["loss"]
    page = read(client_of("admin").get(f"/evaluate/{candidate.pk}/"))
    assert ('value="loss"' in page.source, 'value="accuracy"' in page.source) == (True, False)


def _worked(row: Promotion) -> Promotion:
    work()
    return row


def test_the_active_model_is_asked_the_same_rows_first(old: LanguageModel) -> None:
    candidate = make_evaluation(GOOD, model=make_model("new"), seed=7)
    row = promote(ADMIN, candidate)
    asked = row.champion
    assert (asked.model, asked.same_rows, asked.metrics) == (old, candidate.same_rows, candidate.metrics)
    assert asked.job.status == Status.PENDING
    work()
    assert state_of(row)[0] == "evaluating"
    lines = b"".join(json.dumps(logged(at, 0)).encode() + b"\n" for at in range(24))
    write_bytes(asked.log_path(1), lines)
    Job.objects.filter(pk=asked.job_id).update(status=Status.DONE, attempt_count=1, result={"accuracy": 0.0})
    work()
    assert state_of(row)[0] == "activated"


def test_an_evaluation_that_fails_ends_it(old: LanguageModel) -> None:
    candidate, champion = sides(old)
    row = promote(ADMIN, candidate)
    Job.objects.filter(pk=champion.job_id).update(status=Status.CANCELLED)
    work()
    assert state_of(row) == ("failed", "The evaluation of old is cancelled.")


def test_a_checkpoint_becomes_a_model_first(old: LanguageModel) -> None:
    run = make_run("sea style", status=Status.DONE)
    (run.folder / "checkpoints/step-20").mkdir(parents=True)
    Checkpoint.objects.create(run=run, step=20, path="checkpoints/step-20", bytes=1, created_at=timezone.now())
    dataset = make_dataset()
    candidate = make_evaluation(
        GOOD, dataset=dataset, run=run, checkpoint_step=20, model_name=f"run {run.pk} · step 20"
    )
    Evaluation.objects.filter(pk=candidate.pk).update(model=None)
    make_evaluation(BAD, model=old, dataset=dataset)
    row = promote(ADMIN, Evaluation.objects.get(pk=candidate.pk))
    work()
    assert state_of(row)[0] == "registering"
    model = models.get("sea-style-step-20")
    assert (row.model, model.state, coming()) == (model, "fetching", [])
    LanguageModel.objects.filter(pk=model.pk).update(state="ready")
    work()
    assert state_of(row)[0] == "activated"
    assert coming() == ["sea-style-step-20"]


def test_who_was_beaten_must_still_be_active(old: LanguageModel) -> None:
    row = promote(ADMIN, sides(old)[0])
    Deployment.objects.all().update(is_active=False, wants_active=False)
    make_deployment(make_model("newest"), is_active=True)
    work()
    state, sentence = state_of(row)
    assert state == "failed"
    assert "old is no longer the active model (newest is): promote it again." in sentence
    assert coming() == []


def test_what_cant_be_promoted_is_said(old: LanguageModel) -> None:
    candidate, champion = sides(old)
    with pytest.raises(ForbiddenError):
        promote(Actor("jonas", Role.USE), candidate)
    with pytest.raises(ConflictError, match="active already"):
        promote(ADMIN, champion)
    for asked in ({"metric": "bleu"}, {"confidence": 1.0}, {"metric": "wit"}):
        with pytest.raises(InvalidInputError):
            promote(ADMIN, candidate, **asked)
    promote(ADMIN, candidate)
    with pytest.raises(ConflictError, match="on its way already"):
        promote(ADMIN, candidate)
    Deployment.objects.all().update(is_active=False)
    with pytest.raises(ConflictError, match="none to beat"):
        promote(ADMIN, make_evaluation())


def test_it_is_asked_for_on_the_page_and_over_the_api(old: LanguageModel) -> None:
    candidate, _ = sides(old)
    address = f"/evaluate/{candidate.pk}/"
    assert read(client_of("read").get(address)).button("Promote when better") is not None
    assert client_of("use").post(f"{address}promote", {"metric": "accuracy"}).status_code == 403
    admin = client_of("admin")
    assert admin.post(f"{address}promote", {"metric": "accuracy", "confidence": "high"}).status_code == 422
    assert admin.post(f"{address}promote", {"metric": "exact_match", "confidence": "0.9"}).status_code == 302
    row = Promotion.objects.get()
    assert (row.metric, row.confidence) == ("exact_match", 0.9)
    work()
    assert "new is really better than old" in admin.get(f"{address}promotions").content.decode()
    api = make_client("admin")
    answer = api.post(f"/api/eval/jobs/{candidate.job_id}/promote", "{}", content_type="application/json")
    assert answer.status_code == 201
    assert {"state": "evaluating", "candidate": "new", "champion": "old"}.items() <= answer.json().items()
    told = api.get("/api/eval/promotions").json()["promotions"]
    assert [item["state"] for item in told] == ["evaluating", "activated"]
    small = make_client("use").post(f"/api/eval/jobs/{candidate.job_id}/promote", "{}", content_type="application/json")
    assert small.status_code == 403


def test_one_promotions_trouble_is_not_the_others(old: LanguageModel) -> None:
    dataset = make_dataset()
    broken, _ = sides(old, dataset=dataset)
    first = promote(ADMIN, broken)
    other = promote(ADMIN, make_evaluation(GOOD, model=make_model("other"), dataset=dataset))
    broken.log_path(1).unlink()
    evaluations_promotion.work()
    assert state_of(first)[0] == "failed"
    assert state_of(other)[0] == "activated"
