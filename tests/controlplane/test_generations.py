"""Generations: queued, answered through the gateway after all chats, several at a time, tried again, given up."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from controlplane import generating
from controlplane.api import generate
from controlplane.errors import ForbiddenError, UnknownModelError
from controlplane.models import ApiKey, Job, UsageDay
from controlplane.models.jobs import Status
from controlplane.services import generations, jobs
from tests import factories
from tests.controlplane.engines import PacedEngine, running

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("controlplane.api.urls")]
JSON = "application/json"


@pytest.fixture
def engine(home: object) -> Iterator[PacedEngine]:
    """The active engine, of the model `m`."""
    with running(PacedEngine(lambda: 40.0)) as engine:
        factories.make_deployment(factories.make_model("m"), is_active=True, port=engine.port)
        yield engine


@pytest.fixture
def user(home: object) -> Client:
    """A client that may work."""
    return factories.make_client("use", name="mine")


def ask(client: Client, **body: Any) -> Job:
    """Queues a generation; returns its job."""
    answer = client.post("/api/generate", {"prompt": "Hail me.", **body}, content_type=JSON)
    assert answer.status_code == 202, answer.content
    assert answer.json()["status"] == "pending"
    return Job.objects.get(pk=answer.json()["job_id"])


def statuses(*queued: Job) -> list[str]:
    """What has become of them."""
    return [Job.objects.get(pk=job.pk).status for job in queued]


def test_a_generation_is_a_chat_of_its_owner_with_the_model_that_is_active(engine: PacedEngine, user: Client) -> None:
    job = ask(user, max_tokens=7, temperature=0, top_p=0.5, mode="profile")
    generating.answer_all()
    assert engine.asked == [
        {"model": "m", "messages": [{"role": "user", "content": "Hail me."}], "max_tokens": 7, "temperature": 0,
         "top_p": 0.5, "apply_profile": True}
    ]  # fmt: skip
    told = user.get(f"/api/jobs/{job.pk}").json()
    assert (told["status"], told["type"], told["created_by"]) == ("done", "generate", "key mine")
    assert (told["result"]["text"], told["result"]["finish_reason"]) == ("Ahoy.", "stop")
    others = factories.make_client("use", name="mine").get(f"/api/jobs/{job.pk}").json()  # another key of that name
    as_person = jobs.facts(jobs.get(job.pk), factories.make_user("use", "key mine").actor())
    assert "text" not in as_person["result"]
    listed = user.get("/api/jobs", {"type": "generate"}).json()["jobs"][0]
    assert [set(seen["result"]) for seen in (others, listed)] == [{"usage", "finish_reason"}] * 2


def test_those_that_ended_long_ago_go(engine: PacedEngine, user: Client) -> None:
    old, young = ask(user), ask(user)
    generating.answer_all()
    waiting = ask(user)
    Job.objects.filter(pk=old.pk).update(ended_at=timezone.now() - timedelta(days=31))
    assert generations.prune() == 1
    assert [job.pk for job in Job.objects.filter(kind="generate").order_by("pk")] == [young.pk, waiting.pk]


def test_nobody_is_answered_while_chats_wait_and_only_so_many_at_a_time(engine: PacedEngine, user: Client) -> None:
    admin = factories.make_client("admin")
    admin.put("/api/settings/generate.max_concurrent", {"value": 2}, content_type=JSON)
    queued = [ask(user, model_id="m") for _ in range(3)]
    engine.waiting = 2
    generating.answer_all()
    assert engine.asked == []
    assert statuses(*queued) == ["pending"] * 3
    assert Job.objects.get(pk=queued[0].pk).waiting_reason == "waits for 2 chats at the engine of m"
    engine.waiting = 0
    generating.answer_all()
    assert statuses(*queued) == ["done"] * 3
    at_once = [sum(begin <= other < end for other, _, _ in engine.answered) for begin, end, _ in engine.answered]
    assert max(at_once) <= 2


def test_what_is_refused_for_now_is_tried_again_and_what_never_goes_is_said(engine: PacedEngine, user: Client) -> None:
    job = ask(user)
    engine.status = 503
    generating.answer_all()
    job.refresh_from_db()
    assert (job.status, job.failures, job.waiting_reason) == ("pending", 0, "broken")
    assert job.not_before is not None, "it waits as long as the engine said"
    Job.objects.update(not_before=None)
    engine.status = 400
    generating.answer_all()
    job.refresh_from_db()
    assert (job.status, job.error) == ("failed", {"code": "refused", "message": "broken", "fix": ""})
    assert user.post(f"/api/jobs/{job.pk}/retry").json()["status"] == "pending"


def test_one_that_was_running_when_its_server_died_is_answered_by_the_next(engine: PacedEngine, user: Client) -> None:
    left, unwanted = ask(user), ask(user)
    Job.objects.update(status=Status.RUNNING)
    Job.objects.filter(pk=unwanted.pk).update(desired="cancel")
    generating.answer_all()
    assert statuses(left, unwanted) == ["done", "cancelled"]


def test_a_key_that_was_revoked_meanwhile_gets_no_answer(engine: PacedEngine, user: Client) -> None:
    job = ask(user)
    ApiKey.objects.all().delete()
    generating.answer_all()
    assert statuses(job) == ["failed"]
    assert engine.asked == []


def test_one_whose_model_was_deleted_or_forbidden_meanwhile_ends_and_says_so(engine: PacedEngine, user: Client) -> None:
    deleted, forbidden = ask(user, model_id="m"), ask(user, model_id="m")
    Job.objects.filter(pk=deleted.pk).update(config={**deleted.config, "model": "gone"})
    ApiKey.objects.update(allowed_models=["another"])
    generating.answer_all()
    assert statuses(deleted, forbidden) == ["failed", "failed"]
    deleted.refresh_from_db()
    forbidden.refresh_from_db()
    with pytest.raises(UnknownModelError, match="gone"):
        generations.outcome(deleted)
    with pytest.raises(ForbiddenError, match="may not use the model m"):
        generations.outcome(forbidden)


def test_what_generations_took_is_written_when_they_are_done(engine: PacedEngine, user: Client) -> None:
    ask(user)
    generating.answer_all()
    assert list(UsageDay.objects.values_list("caller", "model", "requests")) == [("key mine", "m", 1)]


def test_a_full_queue_is_503_and_waiting_ends_with_202(
    engine: PacedEngine, user: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "WAIT_SECONDS", 0.0)
    waited = user.post("/api/generate", {"prompt": "Hail me.", "wait": True}, content_type=JSON)
    assert (waited.status_code, waited.json()["status"]) == (202, "pending")
    factories.make_client("admin").put("/api/settings/generate.max_waiting", {"value": 1}, content_type=JSON)
    full = user.post("/api/generate", {"prompt": "Hail me."}, content_type=JSON)
    assert (full.status_code, full["Retry-After"]) == (503, "10")
    assert Job.objects.count() == 2, "the engine's and the first"
