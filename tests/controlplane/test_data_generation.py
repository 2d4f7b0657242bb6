"""Generations of data: asked for and refused, what their jobs are told, cancelled, tried again, deleted."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from controlplane.kinds.registry import kind_of
from controlplane.models import Attempt, AuditLine, DataGeneration, GeneratedExample, Job
from controlplane.models.access import Actor, KeyLimits, Role
from controlplane.models.generated import Strategy
from controlplane.models.jobs import Status
from controlplane.services import data_generation, data_generation_dataset, jobs
from inference.datagen.options import STRATEGIES, GenerationOptions
from tests.controlplane.data_generations import make_generation, some_rows
from tests.factories import make_dataset, make_host, make_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
MARA = Actor("mara", Role.USE)


def spec_of(job: Job) -> Any:
    attempt = Attempt.objects.create(job=job, number=1, host=make_host())
    return kind_of(job).spec(job, attempt)


def create(**fields: Any) -> DataGeneration:
    return data_generation.create(MARA, **{"strategy": "answer", "model": "mine", "seeds": "harbour", **fields})


@pytest.fixture
def scene() -> None:
    make_model("mine", profile={"name": "plain", "version": "1"}, base=make_model("base"))
    make_model("coming", state="fetching")
    make_dataset("harbour")
    make_dataset("raw", status="validating")
    make_dataset("prose", report={"shapes": {"text": 3}})


# --- Asked for --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("scene")
def test_a_model_is_told_to_make_examples_of_seeds() -> None:
    row = create(num_examples=7, domain=" tides ", seed=5)
    assert (row.name, row.review, row.model_name, row.seeds_name) == ("harbour answer", True, "mine", "harbour v1")
    assert (row.job.kind, row.job.status, row.job.created_by) == ("data_gen", Status.PENDING, "mara")
    spec = spec_of(row.job)
    assert (spec.kind, spec.verb) == ("data_gen", "generate_data")
    assert row.folder.parent.as_posix() == spec.output_dir
    assert row.model is not None
    assert row.seeds is not None
    assert (spec.inputs.model.path, spec.inputs.dataset.path) == (str(row.model.folder), str(row.seeds.folder))
    assert spec.inputs.base.id == "base"
    assert spec.config["serving"] == {"model_name": "mine", "profile": {"name": "plain", "version": "1"}}
    told = GenerationOptions.from_config(spec.config)
    assert (told.strategy, told.num_examples, told.domain, told.seed, told.check) == ("answer", 7, "tides", 5, True)
    assert kind_of(row.job).gpus_wanted(row.job) == 1
    assert AuditLine.objects.filter(action="data_generation.create", actor="mara", target="harbour answer").exists()


def test_regime3_needs_neither_model_nor_seeds_nor_a_gpu() -> None:
    row = create(strategy="regime3", model="", seeds="", name="sums")
    spec = spec_of(row.job)
    assert (row.name, row.model_name, row.seeds_name) == ("sums", "", "")
    assert (spec.inputs.model, spec.inputs.dataset) == (None, None)
    assert spec.config["serving"]["profile"] == {"name": "regime3"}
    assert kind_of(row.job).gpus_wanted(row.job) == 0


def test_the_job_knows_the_same_strategies() -> None:
    assert set(STRATEGIES) == set(Strategy.values)


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"strategy": "magic"}, "strategy"), ({"model": ""}, "model_id"), ({"seeds": ""}, "config.dataset_ref"),
        ({"num_examples": 0}, "config.num_examples"), ({"num_examples": 1_000_001}, "config.num_examples"),
        ({"temperature": float("nan")}, "config.temperature"), ({"top_p": 0}, "config.top_p"),
        ({"similarity_threshold": 1.1}, "config.similarity_threshold"), ({"domain": "x" * 501}, "config.domain"),
        ({"domain": "a\nb"}, "config.domain"), ({"name": "out/rows"}, "config.output_dir"),
        ({"name": "a\tb"}, "config.output_dir"), ({"max_tokens": 0}, "config.max_tokens"),
        ({"seed": -1}, "config.seed"),
    ],
)  # fmt: skip
def test_what_cant_be_is_refused_with_its_place(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        create(**fields)
    assert [fault.path for fault in refused.value.faults] == [path]
    assert not Job.objects.exists()


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"model": "none"}, NotFoundError, "There are: mine"), ({"seeds": "none"}, NotFoundError, "harbour"),
        ({"strategy": "magic"}, InvalidInputError, "answer, paraphrase, self_instruct, regime3"),
        ({"model": "coming"}, ConflictError, "fetching"), ({"seeds": "raw"}, ConflictError, "validating"),
        ({"seeds": "prose"}, ConflictError, "conversations"),
    ],
)  # fmt: skip
def test_the_refusal_names_what_there_is(fields: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        create(**fields)


@pytest.mark.usefixtures("scene")
def test_only_who_may_generates_and_a_key_only_by_its_models() -> None:
    asked: dict[str, Any] = {"strategy": "answer", "model": "mine", "seeds": "harbour"}
    with pytest.raises(ForbiddenError):
        data_generation.create(Actor("eve", Role.READ), **asked)
    key = Actor("key k", Role.USE, key_id=1, limits=KeyLimits(models=("other",)))
    with pytest.raises(ForbiddenError, match="may not use the model mine"):
        data_generation.create(key, **asked)


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize(("gone", "words"), [("model", "The model mine"), ("seeds", "The dataset harbour v1")])
def test_what_has_gone_before_it_began_is_named(gone: str, words: str) -> None:
    row = create()
    getattr(row, gone).delete()
    with pytest.raises(ConflictError, match=f"{words} has been deleted"):
        spec_of(row.job)
    assert data_generation.facts(data_generation.get(row.pk))["model_id"] == "mine", "names outlive what they name"


# --- Its job ----------------------------------------------------------------------------------------------------------


def test_what_a_cancelled_job_has_made_stays_and_a_retry_goes_on_behind_it() -> None:
    row = make_generation(some_rows(), status=Status.CANCELLED, created_by="mara")
    Job.objects.update(created_by="mara")
    data_generation_dataset.work()
    assert data_generation.get(row.pk).is_read
    jobs.retry(MARA, row.job_id)
    assert not data_generation.get(row.pk).is_read
    assert row.examples.count() == 3


def test_what_has_become_a_dataset_isnt_tried_again() -> None:
    row = make_generation(some_rows(), status=Status.CANCELLED, review=False)
    data_generation_dataset.make(MARA, row)
    with pytest.raises(ConflictError, match="has become a dataset already"):
        jobs.retry(Actor("ada", Role.ADMIN), row.job_id)
    row.job.refresh_from_db()
    assert row.job.status == Status.CANCELLED


def test_before_its_end_shards_are_those_on_the_disk_and_then_what_the_job_told() -> None:
    told = data_generation.facts(make_generation(some_rows(), status=Status.RUNNING))
    assert told["shards"] == [{"file": "shard-00001.jsonl", "rows": None, "sha256": None}]
    assert told["result"] is None
    told = data_generation.facts(make_generation(some_rows(2)))
    assert [(shard["rows"], len(shard["sha256"])) for shard in told["shards"]] == [(2, 64)]
    assert (told["result"]["examples"], "shards" in told["result"]) == (2, False)


def test_only_its_owner_deletes_it_and_only_once_it_has_ended() -> None:
    row = make_generation(some_rows(), created_by="mara")
    data_generation_dataset.work()
    with pytest.raises(ForbiddenError):
        data_generation.delete(Actor("eve", Role.USE), row)
    data_generation.delete(MARA, row)
    assert not Job.objects.exists()
    assert not GeneratedExample.objects.exists()
    assert not row.folder.parent.exists()
    running = make_generation(status=Status.RUNNING, created_by="mara")
    with pytest.raises(ConflictError, match="cancel its job"):
        data_generation.delete(MARA, running)


def test_one_that_was_put_back_into_the_queue_meanwhile_isnt_deleted() -> None:
    row = make_generation(some_rows(), status=Status.FAILED, created_by="mara")
    jobs.retry(Actor("ada", Role.ADMIN), row.job_id)
    with pytest.raises(ConflictError, match="is pending: cancel its job"):
        data_generation.delete(MARA, row)  # this row is an old one
    assert data_generation.shard_files(row)


def test_nothing_is_deleted_while_its_dataset_is_made_unless_that_has_died() -> None:
    row = make_generation(some_rows(), created_by="mara", review=False)
    DataGeneration.objects.update(making_since=timezone.now())
    with pytest.raises(ConflictError, match="is being made at this moment"):
        data_generation.delete(MARA, row)
    assert data_generation.shard_files(row)
    DataGeneration.objects.update(making_since=timezone.now() - timedelta(hours=1))
    data_generation.delete(MARA, row)
    assert not DataGeneration.objects.exists()
    with pytest.raises(NotFoundError, match="There is no generation"):
        data_generation.delete(MARA, row)


def test_a_list_counts_rows_once(django_assert_num_queries: Any) -> None:
    for _ in range(3):
        make_generation(some_rows())
    data_generation_dataset.work()
    with django_assert_num_queries(2):
        found = list(data_generation.rows())
        counted = data_generation.counts(*found)
        assert [data_generation.facts(row, counted[row.pk])["examples"]["pending"] for row in found] == [3, 3, 3]
