"""Files between the library and a host with a home of its own: copied before a launch, brought home after the end."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone

from controlplane import carrying, dispatch, homecoming
from controlplane.errors import ConflictError, ForbiddenError
from controlplane.fleet.files import BLOCK_BYTES
from controlplane.fleet.protocol import Item
from controlplane.kinds.registry import kind_of
from controlplane.models import Attempt, Checkpoint, HostCopy, Job, LanguageModel, Run, Transfer
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import Desired, Status
from controlplane.models.transfers import Direction, TransferState
from controlplane.services import artefacts, checkpoints, copies, ingest, jobs, locality, settings, staging, transfers
from controlplane.services.artefacts import Need
from monitoring.events import Artefact, Inputs, JobSpec
from tests.controlplane.other_home import OtherHome
from tests.factories import make_dataset, make_host, make_job, make_model, make_run

pytestmark = pytest.mark.django_db

WEIGHTS = bytes(range(251)) * (2 * BLOCK_BYTES // 251)


@pytest.fixture
def other(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OtherHome:
    return OtherHome.make(tmp_path / "other", monkeypatch)


def heavy_model(name: str = "") -> LanguageModel:
    model = make_model(name)
    (model.folder / "model.safetensors").write_bytes(WEIGHTS)
    return model


def attempt_of(run: Run, other: OtherHome) -> Attempt:
    """A claimed attempt of a run on the other host."""
    Job.objects.filter(pk=run.job_id).update(status=Status.RUNNING, attempt_count=1, host=other.host)
    return Attempt.objects.create(job=jobs.get(run.job_id), number=1, host=other.host)


def launch(attempt: Attempt) -> None:
    dispatch.launch(Attempt.objects.select_related("job", "host").get(pk=attempt.pk))


def carry_all() -> None:
    for row in transfers.live():
        assert transfers.begin(row.pk)
        carrying.carry(row)


def only(**wanted: Any) -> Transfer:
    return Transfer.objects.select_related("host").get(**wanted)


def test_a_run_waits_until_its_files_are_on_its_host_and_sees_the_paths_there(other: OtherHome) -> None:
    model = heavy_model("big")
    run = make_run(model=model)
    attempt = attempt_of(run, other)
    launch(attempt)
    assert other.launched == []
    job = jobs.get(run.job_id)
    assert (job.phase, {row.title for row in transfers.live()}) == ("copying", {"big", str(run.dataset)})
    assert job.progress is not None
    assert "copying big to ant" in job.progress["note"]
    assert "copying big to ant" in job.waiting_reason
    carry_all()
    launch(attempt)
    assert other.launched == [(run.job_id, 1)]
    folder = other.home / "models" / str(model.uuid)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert {one.row.title for one in copies.of_host(other.host)} == {"big", str(run.dataset)}


def test_what_lies_on_the_host_already_is_not_copied_again(other: OtherHome) -> None:
    run = make_run(model=heavy_model())
    attempt = attempt_of(run, other)
    launch(attempt)
    carry_all()
    sent = other.files.blocks
    second = attempt_of(make_run(model=run.model, dataset=run.dataset), other)
    launch(second)
    assert (other.launched, other.files.blocks) == ([(second.job_id, 1)], sent)
    assert not transfers.live().exists()


def test_a_spec_is_translated_in_every_place_and_its_items_are_named_once(other: OtherHome, home: Path) -> None:
    dataset, held, model = make_dataset(), make_dataset(), heavy_model("base")
    spec = JobSpec(
        job_id=1, attempt=1, kind="train", verb="train", host="ant", output_dir=str(home / "runs" / "1"),
        model_dir=str(home / "models" / "x"),
        inputs=Inputs(
            dataset=Artefact("1", str(dataset.folder), dataset.sha256), model=Artefact("base", str(model.folder)),
            base=Artefact("base", str(model.folder)),
            resume_from=Artefact("1/4", str(home / "runs/1/checkpoints/step-4"), "f" * 64),
        ),
        config={"data": {"eval_dataset": held.sha256}, "engine": "llama_cpp",
                "output": {"output_dir": str(home / "runs" / "1")},
                "adapters": [{"name": "a", "path": str(make_model("a").folder)}],
                "profile": {"system_prompt": f"{home}/models is no path here"}},
    )  # fmt: skip
    kinds = [(need.item.kind, need.title) for need in artefacts.needs(spec)]
    assert kinds == [
        ("dataset", str(dataset)), ("dataset", str(held)), ("model", "base"), ("exports", "base as GGUF"),
        ("checkpoint", "checkpoint 4 of run 1"), ("model", "a"),
    ]  # fmt: skip
    moved = artefacts.for_host(spec, other.host).to_json()
    kept = moved["config"].pop("profile")
    assert str(home) not in str(moved).replace(str(other.home), "")
    assert kept == spec.config["profile"], "a text of the owner's is no path"
    assert moved["config"]["output"]["output_dir"] == str(other.home / "runs" / "1")


def test_a_shared_file_system_is_used_as_such(other: OtherHome, home: Path) -> None:
    other.host.shared_files = {"here": str(home.parent), "there": "/mnt/lab"}
    other.host.save()
    run = make_run(model=heavy_model())
    launch(attempt_of(run, other))
    assert other.launched == [(run.job_id, 1)]
    assert not transfers.live().exists()
    assert artefacts.library_on(other.host) == f"/mnt/lab/{home.name}"


def test_a_transfer_goes_on_where_it_broke_off(other: OtherHome) -> None:
    model = heavy_model()
    row = transfers.ask(other.host, artefacts.model_need(model), Direction.OUT)
    other.files.away_after_blocks = 2
    carry_all()
    row.refresh_from_db()
    assert (row.state, "doesn't answer" in row.fault) == (TransferState.WAITING, True)
    other.files.away_after_blocks = None
    carry_all()
    row.refresh_from_db()
    total_blocks = sum(-(-path.stat().st_size // BLOCK_BYTES) for path in model.folder.iterdir())
    assert (row.state, other.files.blocks) == (TransferState.DONE, total_blocks)


def test_a_damaged_block_is_asked_for_again_and_a_wire_that_only_damages_is_a_sentence(other: OtherHome) -> None:
    model = heavy_model()
    row = transfers.ask(other.host, artefacts.model_need(model), Direction.OUT)
    other.files.damage = 2
    carry_all()
    row.refresh_from_db()
    assert (row.state, row.damaged_blocks >= 1) == (TransferState.DONE, True)
    assert (other.home / "models" / str(model.uuid) / "model.safetensors").read_bytes() == WEIGHTS
    hopeless = transfers.ask(other.host, artefacts.model_need(heavy_model("b")), Direction.OUT)
    other.files.damage = 1000
    carry_all()
    hopeless.refresh_from_db()
    assert (hopeless.state, hopeless.fault_code) == (TransferState.FAILED, "damaged_block")
    assert "damaged" in hopeless.fault


def test_a_failed_copy_fails_its_job_with_the_reason(other: OtherHome) -> None:
    run = make_run(model=heavy_model("big"))
    attempt = attempt_of(run, other)
    launch(attempt)
    transfers.begin(only(title="big").pk)
    transfers.fail(only(title="big").pk, "disk_full", "no room on ant", "Make room on that disk.")
    launch(attempt)
    job = jobs.get(run.job_id)
    assert (job.status, job.error["code"] if job.error else None) == (Status.FAILED, "disk_full")
    assert job.error is not None
    assert "big can't be copied to ant: no room on ant" in job.error["message"]


@pytest.mark.parametrize(("wish", "status"), [(Desired.CANCEL, Status.CANCELLED), (Desired.PAUSE, Status.PAUSED)])
def test_a_job_that_waits_for_its_files_can_be_called_off(other: OtherHome, wish: str, status: str) -> None:
    run = make_run(model=heavy_model())
    attempt = attempt_of(run, other)
    launch(attempt)
    jobs.wish(SYSTEM, run.job_id, wish)
    launch(attempt)
    assert jobs.get(run.job_id).status == status
    assert not transfers.live().exists(), "nobody else needs these files"
    assert other.launched == []


def test_a_transfer_that_no_job_needs_any_more_is_not_carried(other: OtherHome) -> None:
    run = make_run(model=heavy_model())
    attempt = attempt_of(run, other)
    launch(attempt)
    Attempt.objects.filter(pk=attempt.pk).update(ended_at=timezone.now())
    carrying.work()
    assert not transfers.live().exists()
    assert other.files.blocks == 0


def test_a_cancelled_transfer_leaves_nothing_and_is_an_admins_or_the_owners(other: OtherHome) -> None:
    run = make_run(model=heavy_model("big"), created_by="mia")
    attempt = attempt_of(run, other)
    launch(attempt)
    row = only(title="big")
    with pytest.raises(ForbiddenError):
        transfers.cancel(Actor("somebody else", Role.USE), row.pk)
    other.files.away_after_blocks = 1
    transfers.begin(row.pk)
    carrying.carry(row)
    transfers.begin(row.pk)
    transfers.cancel(Actor("mia", Role.USE), row.pk)
    other.files.away_after_blocks = None
    carrying.carry(row)
    assert only(pk=row.pk).state == TransferState.CANCELLED
    assert not list((other.home / "tmp" / "incoming").glob("model-*"))
    with pytest.raises(ConflictError):
        transfers.cancel(SYSTEM, row.pk)


# --- The cache --------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_copy_leaves_first_and_none_that_a_job_works_with(other: OtherHome) -> None:
    models = [heavy_model(name) for name in ("first", "second", "third")]
    for model in models[:2]:
        transfers.ask(other.host, artefacts.model_need(model), Direction.OUT)
        carry_all()
    copies.note_use(other.host, [artefacts.model_need(models[0]).item])
    settings.put(SYSTEM, "files.cache_limit_gib", 2.5 * len(WEIGHTS) / (1 << 30))
    transfers.ask(other.host, artefacts.model_need(models[2]), Direction.OUT)
    carry_all()
    assert {one.row.title for one in copies.of_host(other.host)} == {"first", "third"}
    assert not (other.home / "models" / str(models[1].uuid)).exists()
    attempt = attempt_of(make_run(model=models[0]), other)
    Attempt.objects.filter(pk=attempt.pk).update(files=[["model", str(models[0].uuid)]])
    assert copies.clear(SYSTEM, other.host) > 0
    assert [one.row.title for one in copies.of_host(other.host)] == ["first"]


def test_clearing_is_an_admins_and_refused_where_there_is_no_cache(other: OtherHome) -> None:
    with pytest.raises(ForbiddenError):
        copies.clear(Actor("mia", Role.USE), other.host)
    with pytest.raises(ConflictError, match="reads the library itself"):
        copies.clear(SYSTEM, make_host())


def test_copies_of_what_was_deleted_go(other: OtherHome) -> None:
    model = heavy_model()
    transfers.ask(other.host, artefacts.model_need(model), Direction.OUT)
    carry_all()
    copies.tidy()
    assert HostCopy.objects.count() == 1
    for path in model.folder.iterdir():
        path.unlink()
    model.folder.rmdir()
    copies.tidy()
    assert HostCopy.objects.count() == 0
    assert not (other.home / "models" / str(model.uuid)).exists()


def test_placement_knows_what_a_host_holds(other: OtherHome) -> None:
    model = heavy_model()
    run = make_run(model=model)
    assert locality.held_bytes(other.host, run.job) == 0
    transfers.ask(other.host, artefacts.model_need(model), Direction.OUT)
    carry_all()
    assert locality.held_bytes(other.host, run.job) == model.size_bytes


# --- Coming home ------------------------------------------------------------------------------------------------------


def ended_eval(other: OtherHome) -> tuple[Job, Attempt]:
    job = make_job("data_gen", Status.RUNNING, attempt_count=1, host=other.host, config={"strategy": "regime3"})
    attempt = Attempt.objects.create(job=job, number=1, host=other.host, launched=True, result={"rows": 1})
    shard = other.home / "jobs" / str(job.pk) / "shards" / "shard-00001.jsonl"
    shard.parent.mkdir(parents=True)
    shard.write_text('{"row": 1}\n')
    ingest.store({
        "job_id": job.pk, "attempt": 1, "offset": 0, "next_offset": 0, "lines": "", "drained": True,
        "state": "exited", "exit": None,
    })  # fmt: skip
    return job, attempt


def test_a_job_is_done_when_what_it_has_made_is_home(other: OtherHome, home: Path) -> None:
    job, _attempt = ended_eval(other)
    homecoming.work()
    assert (jobs.get(job.pk).status, jobs.get(job.pk).phase) == (Status.RUNNING, "coming home")
    carry_all()
    homecoming.work()
    assert (jobs.get(job.pk).status, jobs.get(job.pk).progress) == (Status.DONE, None)
    assert (home / "jobs" / str(job.pk) / "shards" / "shard-00001.jsonl").read_text() == '{"row": 1}\n'
    homecoming.work()
    assert Attempt.objects.get(job=job).awaits == []


def test_a_full_library_keeps_results_waiting_and_a_job_may_be_cancelled_meanwhile(
    other: OtherHome, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _attempt = ended_eval(other)
    store = artefacts.home()
    full = SimpleNamespace(total=1000, used=0, free=1000)
    monkeypatch.setattr("monitoring.file_store.shutil.disk_usage", lambda _place: full)
    carry_all()
    row = only()
    assert (row.state, "must stay free" in row.fault, str(store) in row.fault) == (TransferState.WAITING, True, True)
    jobs.wish(SYSTEM, job.pk, Desired.CANCEL)
    homecoming.work()
    assert (jobs.get(job.pk).status, only().state) == (Status.CANCELLED, TransferState.CANCELLED)


def test_results_that_have_gone_fail_their_job(other: OtherHome) -> None:
    job, _attempt = ended_eval(other)
    other.files.remove_files(Item("results", str(job.pk)))
    carry_all()
    homecoming.work()
    error = jobs.get(job.pk).error
    assert error is not None
    assert (jobs.get(job.pk).status, error["code"]) == (Status.FAILED, "results_lost")


def written_checkpoint(other: OtherHome, step: int = 4) -> Checkpoint:
    """A checkpoint that a run on the other host has told of."""
    run = make_run()
    attempt = attempt_of(run, other)
    Attempt.objects.filter(pk=attempt.pk).update(launched=True)
    folder = other.home / "runs" / str(run.pk) / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    tell(run, 1, {"kind": "checkpoint", "step": step, "path": f"checkpoints/step-{step}", "bytes": 2, "loss": 1.0,
                  "eval_loss": None, "manifest_sha256": "f" * 64})  # fmt: skip
    return Checkpoint.objects.select_related("run", "run__job").get(run=run)


def tell(run: Run, seq: int, event: dict[str, Any]) -> None:
    line = json.dumps({"seq": seq, "time": 1.0, **event}) + "\n"
    offset = Attempt.objects.get(job=run.job_id).offset
    ingest.store({
        "job_id": run.job_id, "attempt": 1, "offset": offset, "next_offset": offset + len(line), "lines": line,
        "drained": True, "state": "running", "exit": None,
    })  # fmt: skip


def test_a_checkpoint_is_told_at_once_and_usable_when_it_is_home(other: OtherHome) -> None:
    row = written_checkpoint(other)
    with pytest.raises(ConflictError, match="still on its way from ant"):
        checkpoints.get(row.run, 4)
    carry_all()
    assert checkpoints.get(row.run, 4).coming_from is None
    assert (checkpoints.folder_of(row) / "manifest.json").read_text() == "{}"


def test_a_checkpoint_that_retention_took_away_goes_here_too_unless_somebody_keeps_it(
    other: OtherHome, django_capture_on_commit_callbacks: Any
) -> None:
    row = written_checkpoint(other)
    carry_all()
    checkpoints.mark(row, checkpoints.PIN)
    tell(row.run, 2, {"kind": "checkpoint_gone", "step": 4})
    assert checkpoints.get(row.run, 4).gone_at is None
    checkpoints.unmark(row, checkpoints.PIN)
    with django_capture_on_commit_callbacks(execute=True):
        tell(row.run, 3, {"kind": "checkpoint_gone", "step": 4})
    row.refresh_from_db()
    assert row.gone_at is not None
    assert not checkpoints.folder_of(row).exists()


def test_what_lies_beyond_the_step_that_a_run_goes_back_to_does_not_come_home(
    other: OtherHome, django_capture_on_commit_callbacks: Any
) -> None:
    row = written_checkpoint(other, 4)
    carry_all()
    tell(row.run, 2, {"kind": "checkpoint", "step": 8, "path": "checkpoints/step-8", "bytes": 2, "loss": 1.0,
                      "eval_loss": None, "manifest_sha256": "f" * 64})  # fmt: skip
    with django_capture_on_commit_callbacks(execute=True):
        tell(row.run, 3, {"kind": "resumed", "step": 2})
    assert not transfers.live().exists()
    assert not checkpoints.folder_of(row).exists()
    assert not row.run.checkpoints.filter(gone_at=None).exists()


def test_a_run_goes_on_elsewhere_from_the_last_checkpoint_that_is_home(other: OtherHome) -> None:
    row = written_checkpoint(other)
    run = row.run
    carry_all()
    Checkpoint.objects.create(
        run=run, step=8, path="checkpoints/step-8", bytes=1, created_at=row.created_at, coming_from=other.host
    )
    elsewhere = Attempt(job=run.job, number=2, host=make_host("bee"))
    back = Attempt(job=run.job, number=2, host=other.host)
    found = [kind_of(run.job).spec(run.job, one).inputs.resume_from for one in (elsewhere, back)]
    assert [one.id if one else None for one in found] == [f"{run.pk}/4", f"{run.pk}/8"]


def test_the_sentence_says_how_much_and_how_long(other: OtherHome) -> None:
    row = Transfer(
        title="big", host=other.host, direction="out", state="running", bytes_done=1_200_000_000,
        bytes_total=3_400_000_000, bytes_per_second=55_000_000.0,
    )  # fmt: skip
    assert transfers.sentence(row) == "copying big to ant: 1.2 of 3.4 GB, 40 s left"
    row.bytes_per_second = None
    assert transfers.sentence(row) == "copying big to ant: 1.2 of 3.4 GB"


def test_one_item_travels_once_at_a_time(other: OtherHome) -> None:
    need = Need(Item("dataset", "a" * 64), "set")
    assert transfers.ask(other.host, need, Direction.OUT).pk == transfers.ask(other.host, need, Direction.OUT).pk
    assert not staging.is_called_off(make_job())
