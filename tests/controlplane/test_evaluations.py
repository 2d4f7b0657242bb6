"""Evaluations: asked for and refused, what is read from their logs, compared, ranked, kept checkpoints."""

import shutil
from typing import Any

import pytest
from django.utils import timezone
from scipy import stats

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from controlplane.kinds.registry import kind_of
from controlplane.models import Attempt, AuditLine, Checkpoint, Evaluation, Host, Job, Run
from controlplane.models.access import Actor, KeyLimits, Role
from controlplane.models.jobs import Status
from controlplane.services import (
    checkpoints,
    evaluations,
    evaluations_compare,
    evaluations_following,
    evaluations_log,
    jobs,
)
from inference.evaluation import options as in_the_job
from monitoring import events as ev
from tests.controlplane.evaluations import logged, make_evaluation
from tests.controlplane.page_reading import read
from tests.factories import chat_rows, client_of, make_dataset, make_host, make_model, make_run
from training.config.loader import parse_config, to_dict

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
MARA = Actor("mara", Role.USE)


def spec_of(job: Job) -> Any:
    attempt = Attempt.objects.create(job=job, number=1, host=make_host())
    return kind_of(job).spec(job, attempt)


# --- Asked for --------------------------------------------------------------------------------------------------------


def test_a_model_is_asked_the_rows_that_training_holds_out() -> None:
    dataset = make_dataset("harbour", rows=chat_rows(40), eval_fraction=0.1)
    base = make_model("base")
    model = make_model("mine", base=base, profile={"name": "plain", "version": "1"})
    row = evaluations.create(MARA, model="mine", dataset="harbour", metrics=["accuracy", "loss", "accuracy"])
    assert (row.name, row.rows, row.take, row.metrics) == ("mine on harbour v1", "held_out", 4, ["accuracy", "loss"])
    assert (row.job.kind, row.job.status, row.job.created_by) == ("eval", Status.PENDING, "mara")
    spec = spec_of(row.job)
    assert (spec.kind, spec.verb) == ("eval", "evaluate")
    assert (spec.inputs.model.path, spec.inputs.base.path) == (str(model.folder), str(base.folder))
    assert spec.inputs.dataset.path == str(dataset.folder)
    assert spec.config["serving"] == {"model_name": "mine", "profile": {"name": "plain", "version": "1"}}
    asked = in_the_job.EvaluationOptions.from_config(spec.config)
    assert (asked.metrics, asked.take, asked.seed, asked.keep_texts) == (("accuracy", "loss"), 4, 42, True)
    assert AuditLine.objects.filter(action="evaluation.create", actor="mara").exists()


def test_all_rows_of_a_set_that_holds_none_out() -> None:
    dataset = make_dataset(rows=chat_rows(7), eval_fraction=0.0)
    make_model("mine")
    row = evaluations.create(MARA, model="mine", dataset=dataset.pk)
    assert (row.rows, row.take) == ("all", 0)
    assert evaluations.create(MARA, model="mine", dataset=dataset.pk, max_samples=3).take == 3


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"metrics": ["wit"]}, "metrics"), ({"metrics": []}, "metrics"), ({"metrics": ["regex"]}, "pattern"),
        ({"metrics": ["regex"], "pattern": "("}, "pattern"), ({"max_samples": 0}, "max_samples"),
        ({"max_tokens": 0}, "max_tokens"), ({"rows": "some"}, "rows"), ({"rows": "held_out"}, "rows"),
        ({"name": "a\nb"}, "name"),
    ],
)  # fmt: skip
def test_what_cant_be_is_refused_with_its_place(fields: dict[str, Any], path: str) -> None:
    dataset = make_dataset(eval_fraction=0.0)
    make_model("mine")
    with pytest.raises(InvalidInputError) as refused:
        evaluations.create(MARA, model="mine", dataset=dataset.pk, **fields)
    assert [fault.path for fault in refused.value.faults] == [path]
    assert not Job.objects.exists()


def test_only_what_is_ready_can_be_asked_and_only_by_who_may() -> None:
    make_model("mine")
    make_model("coming", state="fetching")
    dataset, raw = make_dataset(), make_dataset(status="validating")
    for model, ref in (("coming", dataset.pk), ("mine", raw.pk)):
        with pytest.raises(ConflictError, match="ready"):
            evaluations.create(MARA, model=model, dataset=ref)
    with pytest.raises(ForbiddenError):
        evaluations.create(Actor("eve", Role.READ), model="mine", dataset=dataset.pk)


def test_a_key_for_some_models_evaluates_no_others() -> None:
    make_model("other")
    dataset, run = make_dataset(), make_run()
    key = Actor("key k", Role.USE, key_id=1, limits=KeyLimits(models=("mine",)))
    with pytest.raises(ForbiddenError, match="may not use the model other"):
        evaluations.create(key, model="other", dataset=dataset.pk)
    with pytest.raises(ForbiddenError, match="may not use the model"):
        evaluations.create_of_checkpoint(key, run, 10)
    make_model("mine")
    assert evaluations.create(key, model="mine", dataset=dataset.pk).model_name == "mine"


def test_the_job_knows_the_same_metrics() -> None:
    assert evaluations.METRICS == in_the_job.METRICS


def test_a_checkpoint_stays_until_it_is_evaluated() -> None:
    run = make_run(status=Status.DONE, dataset=make_dataset(rows=chat_rows(40)))
    for step in (10, 20):
        (run.folder / f"checkpoints/step-{step}").mkdir(parents=True)
        Checkpoint.objects.create(
            run=run, step=step, path=f"checkpoints/step-{step}", bytes=1, created_at=timezone.now()
        )
    made = evaluations.evaluate_checkpoints(MARA, run)
    assert [(row.checkpoint_step, row.take) for row in made] == [(20, 2), (10, 2)]
    spec = spec_of(made[0].job)
    assert spec.inputs.model.path == str(run.folder / "checkpoints/step-20")
    assert spec.inputs.base.path == str(run.start_model.folder)
    kept = [checkpoints.is_kept(row) for row in run.checkpoints.all()]
    assert kept == [True, True]
    with pytest.raises(ConflictError, match="no checkpoint that isn't evaluated"):
        evaluations.evaluate_checkpoints(MARA, run)
    with pytest.raises(ConflictError, match=f"is kept for evaluation {made[0].pk}: cancel that"):
        checkpoints.delete(Actor("ada", Role.ADMIN), run, 20)
    jobs.cancel(MARA, made[0].job_id)
    assert not checkpoints.is_kept(run.checkpoints.get(step=20))
    jobs.retry(MARA, made[0].job_id)
    assert checkpoints.is_kept(run.checkpoints.get(step=20))


def follow(run: Run, step: int, sha256: str) -> None:
    """The run's process tells of a checkpoint."""
    (run.folder / f"checkpoints/step-{step}").mkdir(parents=True, exist_ok=True)
    told = ev.Checkpoint(step=step, path=f"checkpoints/step-{step}", bytes=7, manifest_sha256=sha256)
    attempt = Attempt(job=run.job, number=1, host=Host.objects.first() or make_host())
    kind_of(run.job).on_events(run.job, attempt, [ev.Event(seq=step, time=1.0, body=told)])


def run_that_asks(*, is_asked: bool = True) -> Run:
    config = to_dict(parse_config({"monitoring": {"evaluate_checkpoints": is_asked}}))
    return make_run(
        status=Status.RUNNING, dataset=make_dataset(rows=chat_rows(40)), config=config, created_by="mara"
    )  # fmt: skip


def asked_of(run: Run) -> list[tuple[int | None, str]]:
    rows = Evaluation.objects.filter(run=run).order_by("id")
    assert all(row.created_by == "mara" and row.job.priority == jobs.parse_priority("low") for row in rows)
    return [(row.checkpoint_step, row.checkpoint_sha256) for row in rows]


def test_checkpoints_are_evaluated_as_they_come_where_the_run_says_so(
    django_capture_on_commit_callbacks: Any,
) -> None:
    run = run_that_asks()
    with django_capture_on_commit_callbacks(execute=True):
        for step, sha256 in ((10, "a"), (20, "b"), (20, "b"), (20, "c")):  # set back twice, with other weights at last
            follow(run, step, sha256)
    assert asked_of(run) == [(10, "a"), (20, "b"), (20, "c")]
    assert all(checkpoints.is_kept(row) for row in run.checkpoints.all())
    jobs.cancel(MARA, Evaluation.objects.get(checkpoint_sha256="c").job_id)
    follow(run, 20, "c")
    assert asked_of(run)[3:] == [(20, "c")]


def test_other_runs_checkpoints_are_evaluated_when_somebody_asks() -> None:
    run = run_that_asks(is_asked=False)
    follow(run, 10, "a")
    assert asked_of(run) == []


def test_the_api_asks_for_them_and_lists_them() -> None:
    run = run_that_asks(is_asked=False)
    follow(run, 10, "a")
    address, client = f"/api/runs/{run.pk}/evaluations", client_of("use")
    assert client.get(address).json() == {"evaluations": []}
    asked = client.post(address, {}, "application/json")
    assert asked.status_code == 201, asked.content
    listed = client.get(address).json()["evaluations"]
    assert [row["checkpoint_step"] for row in listed] == [10]
    assert listed == asked.json()["evaluations"]


def test_checkpoints_that_wait_do_not_fill_the_disk() -> None:
    run = run_that_asks()
    for step in range(1, evaluations_following.MOST_WAITING + 3):
        follow(run, step, f"{step}")
    assert len(asked_of(run)) == evaluations_following.MOST_WAITING


def test_a_checkpoint_that_has_gone_at_once_is_no_fault_of_its_run(django_capture_on_commit_callbacks: Any) -> None:
    run = run_that_asks()
    with django_capture_on_commit_callbacks(execute=True):
        follow(run, 10, "a")
        shutil.rmtree(run.folder)
    assert asked_of(run) == [(10, "a")]
    assert not checkpoints.is_kept(run.checkpoints.get())
    assert evaluations_following.checkpoint_came(run, 20) is None


# --- Read -------------------------------------------------------------------------------------------------------------


def test_figures_come_with_their_intervals() -> None:
    row = make_evaluation([1, 0, 1, 1, None])
    found = evaluations.result(row)
    assert found is not None
    theirs = stats.binomtest(3, 4).proportion_ci(method="wilson")
    assert found["ci95"]["accuracy"] == pytest.approx([theirs.low, theirs.high])
    low, high = found["ci95"]["loss"]
    assert low <= 2.5 <= high
    assert (found["accuracy"], found["correct"], found["total_samples"], found["failed"]) == (0.75, 3, 5, 1)
    assert "examples_file" not in found
    assert Evaluation.objects.get().figures == row.figures, "they are calculated once"


def test_a_row_tells_no_interval_of_a_mean() -> None:
    row = make_evaluation(rows=[logged(0, 1)])
    assert evaluations.figures(row)["loss"] == {"value": 2.0, "low": None, "high": None}
    assert read(client_of("read").get(f"/evaluate/{row.pk}/")).by_id("main").text.count("one row can't tell") == 1


def test_a_duty_calculates_what_has_come_in_and_that_there_is_nothing_is_remembered() -> None:
    done, empty = make_evaluation(), make_evaluation(rows=[logged(0, None, tokens=0)])
    evaluations.measure()
    found = {row.pk: row.figures for row in Evaluation.objects.all()}
    assert (found[done.pk] or {})["accuracy"]["value"] == 0.5
    assert found[empty.pk] == {}
    empty.log_path(1).write_text("")
    assert evaluations.figures(Evaluation.objects.get(pk=empty.pk)) == {}


def test_a_list_asks_the_data_base_once(django_assert_num_queries: Any) -> None:
    for _ in range(3):
        run = make_run()
        make_evaluation(model=make_model(run=run, source="run"), dataset=run.dataset)
    evaluations.measure()
    with django_assert_num_queries(1):
        assert len([evaluations.facts(row) for row in evaluations.list_evaluations()]) == 3


def test_before_it_is_done_there_is_no_result() -> None:
    assert evaluations.result(make_evaluation(status=Status.RUNNING)) is None


def test_rows_are_searched_and_paged_and_a_torn_one_is_left_out() -> None:
    row = make_evaluation([1, 0, 0, 1], torn=b'{"row": 9, "scores"')
    whole = evaluations_log.page(row)
    assert (whole["total"], [item["row"] for item in whole["rows"]]) == (4, [0, 1, 2, 3])
    assert whole["rows"][0]["loss"] == 2.0
    wrong = evaluations_log.page(row, wrong=True, limit=1, offset=1)
    assert (wrong["total"], [item["answer"] for item in wrong["rows"]]) == (2, ["Wrong 2."])
    assert [item["row"] for item in evaluations_log.page(row, search=" wrong 1")["rows"]] == [1]
    with pytest.raises(InvalidInputError):
        evaluations_log.page(row, limit=0)
    row.log_path(1).unlink()
    with pytest.raises(NotFoundError, match="cleaned away"):
        evaluations_log.page(row)


def test_before_the_first_row_there_are_none() -> None:
    row = make_evaluation(status=Status.PENDING)
    row.log_path(1).unlink()
    assert evaluations_log.page(row) == {"total": 0, "offset": 0, "rows": []}


def test_the_last_attempt_with_a_log_counts() -> None:
    row = make_evaluation([1, 0])
    row.job.attempt_count = 3
    assert evaluations_log.path_of(row) == row.log_path(1)


def test_rows_that_a_model_has_seen_are_told() -> None:
    run = make_run(dataset=make_dataset(rows=chat_rows(40)))
    model = make_model(run=run, source="run")
    asked: dict[str, Any] = {"model": model, "dataset": run.dataset}
    assert evaluations.warning(make_evaluation([1, 1], **asked)) == ""
    assert evaluations.warning(make_evaluation([1, 1], rows_chosen="all", **asked)) == "", "the same as are held out"
    assert "most of these rows" in evaluations.warning(make_evaluation([1, 1], rows_chosen="all", take=0, **asked))
    assert "some of them" in evaluations.warning(make_evaluation([1, 1], take=3, **asked))
    assert "some of them" in evaluations.warning(make_evaluation([1, 1], seed=7, **asked))
    later = make_model(run=make_run(dataset=make_dataset(), model=model), source="run")
    told = evaluations.warning(make_evaluation([1, 1], take=0, model=later, dataset=run.dataset))
    assert told.startswith(f"Run {run.pk} was trained on this dataset"), "what it goes on from has seen them"
    assert evaluations.warning(make_evaluation([1], model=model)) == "", "another dataset"


def test_only_its_owner_deletes_it_and_only_once_it_has_ended() -> None:
    row = make_evaluation(created_by="mara")
    with pytest.raises(ForbiddenError):
        evaluations.delete(Actor("eve", Role.USE), row.pk)
    log = row.log_path(1)
    evaluations.delete(MARA, row.pk)
    assert not Evaluation.objects.exists()
    assert not Job.objects.exists()
    assert not log.exists()
    running = make_evaluation(status=Status.RUNNING, created_by="mara")
    with pytest.raises(ConflictError, match="cancel its job"):
        evaluations.delete(MARA, running.pk)


def test_names_outlive_what_they_name() -> None:
    row = make_evaluation()
    name = row.model_name
    assert row.model is not None
    row.model.delete()
    assert evaluations.facts(evaluations.get(row.pk))["model_id"] == name


# --- Compared and ranked ----------------------------------------------------------------------------------------------


def test_it_is_said_in_words_whether_a_difference_is_real() -> None:
    dataset = make_dataset()
    better = make_evaluation([1] * 18 + [0] * 2, model=make_model("better"), dataset=dataset)
    worse = make_evaluation([0] * 12 + [1] * 6 + [0] * 2, model=make_model("worse"), dataset=dataset)
    near = make_evaluation([1] * 16 + [0] * 4, model=make_model("near"), dataset=dataset)
    found = {item.metric: item for item in evaluations_compare.compare(better, worse)}
    accuracy = found["accuracy"]
    assert accuracy.is_real
    assert accuracy.first_is_better
    assert accuracy.sentence.startswith("better is really better than worse by accuracy: a difference of +60.0 points")
    assert "p < 0.001 by McNemar's exact test, 20 rows" in accuracy.sentence
    assert found["loss"].sentence == "better and worse do equally well by loss on 20 rows."
    unsure = evaluations_compare.compare(better, near)[0]
    assert not unsure.is_real
    assert unsure.sentence.startswith("Whether better or near is better by accuracy can't be told")
    assert "may be chance" in unsure.sentence
    reverse = evaluations_compare.compare(worse, better)[0]
    assert reverse.sentence.startswith("better is really better than worse by accuracy: a difference of −60.0 points")
    told = evaluations_compare.differing(better, worse, limit=5)
    assert (told["total"], len(told["rows"]), told["rows"][0]["first_is_right"]) == (12, 5, True)


def test_a_smaller_loss_is_the_better_one() -> None:
    dataset = make_dataset()
    low = [logged(row, 1, nats=4.0 + row % 3) for row in range(30)]
    high = [logged(row, 1, nats=5.0 + row % 3) for row in range(30)]
    first = make_evaluation(rows=low, model=make_model("sharp"), dataset=dataset)
    second = make_evaluation(rows=high, model=make_model("dull"), dataset=dataset)
    loss = {item.metric: item for item in evaluations_compare.compare(first, second)}["loss"]
    assert loss.is_real
    assert loss.first_is_better
    assert loss.sentence.startswith("sharp is really better than dull by loss: a difference of −0.250 (95 % interval")


def test_rows_that_just_one_could_answer_are_named() -> None:
    dataset = make_dataset()
    unanswered = [logged(row, 0, unanswered=True, tokens=0) for row in range(3)]
    broken = make_evaluation(rows=[*unanswered, *(logged(row, 1) for row in range(3, 9))], dataset=dataset)
    whole = make_evaluation([1] * 9, dataset=dataset)
    found = {item.metric: item for item in evaluations_compare.compare(broken, whole)}
    accuracy = found["accuracy"].difference
    assert accuracy is not None
    assert accuracy.rows == 9
    assert accuracy.first == pytest.approx(6 / 9)
    words = "3 rows count as wrong for the one of the two that could not answer them."
    assert found["accuracy"].sentence.endswith(words)
    assert found["loss"].sentence.endswith("3 rows are left out: just one of the two has a loss there.")
    assert evaluations_log.page(broken, wrong=True)["total"] == 3


def test_losses_over_other_tokens_are_not_compared() -> None:
    dataset = make_dataset()
    first = make_evaluation([1, 1], dataset=dataset)
    second = make_evaluation(rows=[logged(0, 1, tokens=5), logged(1, 1)], dataset=dataset)
    loss = {item.metric: item for item in evaluations_compare.compare(first, second)}["loss"]
    assert loss.difference is None
    assert "different tokens" in loss.sentence


def test_what_cant_be_compared_is_said() -> None:
    done = make_evaluation()
    with pytest.raises(InvalidInputError, match="same dataset"):
        evaluations_compare.compare(done, make_evaluation())
    with pytest.raises(ConflictError, match="done"):
        evaluations_compare.compare(done, make_evaluation(status=Status.RUNNING, dataset=done.dataset))
    with pytest.raises(InvalidInputError, match="no row in common"):
        evaluations_compare.compare(done, make_evaluation(rows=[logged(7, 1)], dataset=done.dataset))


def test_the_leaderboard_says_who_may_be_as_good() -> None:
    dataset = make_dataset()
    names = {"best": [1] * 20, "near": [1] * 19 + [0], "far": [0] * 12 + [1] * 8}
    models = {name: make_model(name) for name in names}
    make_evaluation([0] * 20, model=models["best"], dataset=dataset)  # an older one of the same model
    for name, right in names.items():
        make_evaluation(right, model=models[name], dataset=dataset)
    make_evaluation([1], model=models["far"], dataset=dataset, take=1)
    make_evaluation([1], model=models["far"])  # another dataset
    first, second = evaluations_compare.leaderboards(dataset)
    told = [(entry["rank"], entry["evaluation"].model_name, entry["note"]) for entry in first["entries"]]
    assert told == [(1, "best", ""), (2, "near", "may be as good"), (3, "far", "really behind")]
    assert [entry["evaluation"].model_name for entry in second["entries"]] == ["far"]
    with pytest.raises(InvalidInputError):
        evaluations_compare.leaderboards(dataset, "wit")
