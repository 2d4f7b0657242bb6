"""Chains of runs: what each starts from, who waits for whom, what they share."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError
from controlplane.kinds.registry import kind_of
from controlplane.models import Attempt, AuditLine, Chain, LanguageModel, Run
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import Status
from controlplane.models.language_models import ModelState
from controlplane.services import chains, jobs, models, runs
from tests.factories import make_checkpoint, make_client, make_dataset, make_host, make_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
STRANGER = Actor(name="stranger", role=Role.USE)
FACTS = {"tokenizer_sha256": "a" * 64, "chat_template_sha256": "b" * 64}


def base_model(name: str = "tiny", **facts: Any) -> LanguageModel:
    return make_model(name, facts={**FACTS, **facts})


def chained(model: str = "", **config: dict[str, Any]) -> Run:
    """A queued run of the chain `night`."""
    config.setdefault("model", {})["chain"] = "night"
    return runs.create(SYSTEM, name="a link", dataset=make_dataset().pk, model=model, config=config)


def launch(run: Run) -> Run:
    """As the dispatcher does it."""
    job = jobs.transition(run.job_id, Status.RUNNING, reason="test", attempt_count=run.job.attempt_count + 1)
    attempt = Attempt.objects.create(job=job, number=job.attempt_count, host=make_host())
    kind_of(job).on_launch(job, attempt)
    return runs.get(run.pk)


def finish(run: Run, **fields: Any) -> LanguageModel:
    """As the ingest does it, with a whole model as the result."""
    job = jobs.transition(run.job_id, Status.DONE, reason="test")
    described = {
        "kind": "full", "architecture": "Qwen3ForCausalLM", "parameters": 9, "size_bytes": 9, "dtype": "float32",
        **FACTS, **fields,
    }  # fmt: skip
    kind_of(job).on_done(job, Attempt.objects.get(job=job), {"model": described, "steps": 3})
    return LanguageModel.objects.get(run=run, source="run")


def waits(run: Run) -> str | None:
    job = jobs.get(run.job_id)
    return kind_of(job).waits_for(job)


def test_each_run_starts_from_the_model_that_the_one_before_it_made() -> None:
    tiny = base_model()
    first, second = chained("tiny"), chained()
    assert (waits(first), Chain.objects.get().current) == (None, None)
    first = launch(first)
    assert first.model == tiny
    assert waits(second) == f"waits for run {first}, which trains the chain night"
    made = finish(first)
    assert Chain.objects.get().current == made
    assert waits(second) is None
    assert runs.get(second.pk).model == tiny, "what it starts from is settled when it is launched"
    second = launch(second)
    assert second.model == made
    assert second.config["model"]["model"] == made.name
    assert second.config["locked"]["base_model"] == made.name
    chains.check_launch(second)


def test_an_adapter_goes_on_as_an_adapter_on_the_base() -> None:
    tiny = base_model()
    first = launch(chained("tiny", output={"merge_adapter": False}))
    made = finish(first, kind="adapter")
    second = launch(chained())
    assert (second.start_model, second.start_model.base) == (made, tiny)


def test_a_run_that_fails_leaves_the_chain_where_it_was() -> None:
    base_model()
    made = finish(launch(chained("tiny")))
    failing = launch(chained())
    job = jobs.transition(failing.job_id, Status.FAILED, reason="test")
    kind_of(job).on_failed(job, {"code": "x", "message": "y", "fix": ""})
    assert Chain.objects.get().current == made
    assert waits(chained()) is None


def test_a_paused_run_holds_its_chain() -> None:
    base_model()
    first, second = launch(chained("tiny")), chained()
    jobs.transition(first.job_id, Status.PAUSED, reason="test")
    assert waits(second) == f"waits for run {first}, which has paused the chain night"


def test_of_two_interrupted_runs_the_older_one_goes_first() -> None:
    base_model()
    first, second = launch(chained("tiny")), chained()
    jobs.transition(first.job_id, Status.FAILED, reason="test")
    second = launch(second)
    jobs.transition(second.job_id, Status.FAILED, reason="test")
    for run in (first, second):
        jobs.retry(SYSTEM, run.job_id)
    assert waits(first) is None
    assert waits(second) == f"waits for run {first}, which goes on with the chain night"


def test_a_checkpoint_from_before_the_chain_went_on_does_not_undo_it() -> None:
    base_model()
    old = launch(chained("tiny"))
    make_checkpoint(old, 2)
    jobs.transition(old.job_id, Status.FAILED, reason="test")
    finish(launch(chained()))
    jobs.retry(SYSTEM, old.job_id)
    with pytest.raises(ConflictError, match="Start a new run of the chain"):
        chains.check_launch(launch(runs.get(old.pk)))


def test_what_the_chain_fixed_is_taken_over_and_another_value_is_refused_with_both() -> None:
    base_model()
    chained("tiny", hyperparams={"max_length": 512})
    assert chained().config["hyperparams"]["max_length"] == 512
    with pytest.raises(InvalidInputError, match=r"max_length: .*512.*256"):
        chained(hyperparams={"max_length": 256})


def test_another_model_than_the_chains_is_refused() -> None:
    base_model()
    base_model("other")
    with pytest.raises(InvalidInputError, match="name the model that it begins with"):
        chained()
    chained("tiny")
    with pytest.raises(InvalidInputError, match="began with tiny and stands at tiny, but other was asked"):
        chained("other")
    assert Run.objects.count() == 1


def test_a_chain_begins_anew_at_its_base_when_nothing_of_it_runs() -> None:
    tiny = base_model()
    first = launch(chained("tiny", hyperparams={"max_length": 512}))
    with pytest.raises(ConflictError, match="running"):
        chains.reset(SYSTEM, "night")
    made = finish(first)
    with pytest.raises(ConflictError, match="The chain night stands at"):
        models.delete(SYSTEM, made.name)
    with pytest.raises(ForbiddenError):
        chains.reset(STRANGER, "night")
    chain = chains.reset(SYSTEM, "night")
    assert (chain.start, chain.locked) == (tiny, {})
    assert LanguageModel.objects.get(pk=made.pk).state == ModelState.READY
    assert AuditLine.objects.get(action="chain.reset").detail == {"before": made.name, "after": "tiny"}


def test_chains_are_listed_with_as_many_questions_as_one() -> None:
    base_model()
    dataset, counts = make_dataset().pk, []
    for name in ("day", "night", "dusk"):
        for _ in range(2):
            runs.create(SYSTEM, name="a link", dataset=dataset, model="tiny", config={"model": {"chain": name}})
        with CaptureQueriesContext(connection) as asked:
            told = chains.list_facts()
        counts.append(len(asked))
        assert [len(row["runs"]) for row in told] == [2] * len(told)
    assert counts == [counts[0]] * 3


def test_a_chain_is_shown_reset_and_forgotten_by_the_api() -> None:
    base_model()
    client = make_client("admin")
    body = {
        "name": "by the API",
        "dataset": make_dataset().pk,
        "model": "tiny",
        "config": {"model": {"chain": "night"}},
    }
    run_id = client.post("/api/runs", body, content_type="application/json").json()["id"]
    assert client.get(f"/api/runs/{run_id}").json()["chain"] == "night"
    chain = client.get("/api/chains").json()["chains"][0]
    assert (chain["name"], chain["start_model"], chain["runs"]) == ("night", "tiny", [run_id])
    assert client.delete("/api/chains/night").status_code == 409
    jobs.cancel(SYSTEM, runs.get(run_id).job_id)
    assert client.post("/api/chains/night/reset").status_code == 200
    assert client.delete("/api/chains/night").status_code == 204
    assert client.get("/api/chains/night").status_code == 404
