"""TensorBoard's event files become runs: every scalar, restarts, what can't be read, and the way back of an export."""

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.db import transaction
from django.test import Client

from controlplane import inner_jobs
from controlplane.models import Job, Metric, Resumption, Run, Upload
from controlplane.models.jobs import Status
from controlplane.services import curve_export, curve_reading, curves, event_files, event_records, run_import
from controlplane.services.points import Points
from tests import factories
from tests.controlplane.event_files import Scalar, event, record, simple, tensor, written

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
JSON = "application/json"
FILE = "events.out.tfevents.1700000000.host"


@pytest.fixture
def user() -> Client:
    """A client that may work."""
    return factories.make_client("use")


def uploaded(user: Client, data: bytes, name: str = FILE) -> str:
    begun = user.post(
        "/api/uploads", {"filename": name, "bytes": len(data), "purpose": "run"}, content_type=JSON
    )  # fmt: skip
    assert begun.status_code == 201, begun.content
    upload: str = begun.json()["id"]
    sent = user.put(f"/api/uploads/{upload}/parts/1", data, content_type="application/octet-stream")
    assert sent.status_code == 200, sent.content
    return upload


def imported(user: Client, *files: tuple[str, bytes], **fields: Any) -> Run:
    """The run of these files, after its job."""
    ids = [uploaded(user, data, name) for name, data in files]
    response = user.post("/api/runs/import", {"uploads": ids, "name": "a", **fields}, content_type=JSON)
    assert response.status_code == 201, response.content
    assert inner_jobs.work() == response.json()["job_id"]
    return Run.objects.select_related("job").get(pk=response.json()["id"])


def series(run: Run, key: str) -> list[tuple[int, float | str, float]]:
    found = curve_reading.read(run, [key], None, 2000)[key]
    return list(zip(found["step"], found["value"], found["time"], strict=True))


def test_every_scalar_becomes_a_point(user: Client) -> None:
    scalars: list[Scalar] = [
        ("train/loss", 1, 2.0, 100.5),
        ("train/loss", 2, math.nan, 99.0),  # a clock that runs backwards
        ("eval", 2, math.inf, 101.0),
        ("train/loss", 3, -0.5, 102.0),
    ]
    run = imported(user, (FILE, written(scalars)), tags=["tb"], notes="from the old machine")
    assert run.job.status == Status.DONE, run.job.error
    assert series(run, "train/loss") == [(1, 2.0, 100.5), (2, "NaN", 99.0), (3, -0.5, 102.0)]
    assert series(run, "eval") == [(2, "Infinity", 101.0)]
    facts = user.get(f"/api/runs/{run.pk}").json()
    assert (facts["origin"], facts["tags"], facts["notes"]) == ("files", ["tb"], "from the old machine")
    assert (facts["last"], facts["progress"]["step"]) == ({"train/loss": -0.5, "eval": "Infinity"}, 3)
    told = {"files": 1, "metrics": 2, "points": 4, "left_out": 0, "restarts": 0}
    assert told.items() <= facts["result"].items()
    assert not Upload.objects.exists()
    assert [path.name for path in (run.folder / "events").iterdir()] == ["result.json"]


def test_scalars_of_tensorflow_2_are_tensors(user: Client) -> None:
    data = written([]) + record(event(5.0, 7, tensor("loss", 0.25)))
    assert series(imported(user, (FILE, data)), "loss") == [(7, 0.25, 5.0)]


def test_several_files_are_one_run_in_the_order_of_their_names(user: Client) -> None:
    first, second = written([("loss", 1, 1.0, 1.0)]), written([("loss", 2, 2.0, 2.0)])
    run = imported(user, (f"{FILE}.2", second), (f"{FILE}.1", first))
    assert [step for step, _, _ in series(run, "loss")] == [1, 2]


def test_a_restart_supersedes_what_lay_from_there_on(user: Client) -> None:
    before: list[Scalar] = [(key, step, 0.0, float(step)) for step in range(1, 6) for key in ("loss", "acc")]
    after: list[Scalar] = [(key, step, 1.0, 10.0 + step) for step in (3, 4) for key in ("loss", "acc")]
    run = imported(user, (f"{FILE}.1", written(before)), (f"{FILE}.2", written(after)))
    for key in ("loss", "acc"):
        assert [(step, value) for step, value, _ in series(run, key)] == [(1, 0.0), (2, 0.0), (3, 1.0), (4, 1.0)]
    assert list(Resumption.objects.filter(run=run).values_list("step", flat=True)) == [2]
    assert run.job.result is not None
    assert (run.job.result["left_out"], run.job.result["restarts"]) == (6, 1)


def test_a_restart_reaches_behind_what_is_stored(user: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_import, "FLUSH_POINTS", 2)
    monkeypatch.setattr(event_records, "BLOCK_BYTES", 100)
    steps = [1, 2, 3, 4, 5, 6, 2, 3, 3, 1, 2]
    run = imported(user, (FILE, written([("loss", step, float(n), 1.0) for n, step in enumerate(steps)])))
    assert [(step, value) for step, value, _ in series(run, "loss")] == [(1, 9.0), (2, 10.0)]
    assert run.job.result is not None
    assert run.job.result["left_out"] == 9


def test_what_is_longer_than_scalars_are_is_passed_over(user: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_records, "LONGEST_RECORD", 1000)
    image = record(event(1.0, 2, tensor("x" * 1200, 0.5)))
    first, last = written([("loss", 1, 1.0, 1.0)]), record(event(3.0, 3, simple("loss", 3.0)))
    assert series(imported(user, (FILE, first + image + last)), "loss") == [(1, 1.0, 1.0), (3, 3.0, 3.0)]


def test_a_length_that_is_not_sure_is_not_read(user: Client) -> None:
    endless = (1 << 62).to_bytes(8, "little")
    for sum_bytes, sentence in ((bytes(4), "is damaged"), (event_records.check_sum(endless), "in the middle")):
        run = imported(user, (FILE, whole() + endless + sum_bytes + bytes(30)))
        assert run.job.error is not None
        assert sentence in run.job.error["message"]


def whole() -> bytes:
    return written([("loss", step, 1.0, 1.0) for step in range(1, 40)])


DAMAGED = {
    "no event file": (b"step,loss\n1,0.5\n2,0.25\n", "is no event file of TensorBoard"),
    "records of another kind": (record(b"\x0a\x03abc"), "is no event file of TensorBoard"),
    "records of no protocol": (record(b"\xff" * 30), "is no event file of TensorBoard"),
    "cut off": (whole()[:-5], "ends in the middle of a record"),
    "a wrong byte": (whole()[:-20] + b"\x00" + whole()[-19:], "is damaged"),
    "a wrong length": (whole() + b"\x99" * 40, "is damaged"),
    "nothing but its head": (written([]), "The files hold no scalars"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_cannot_be_read_fails_with_a_sentence_and_leaves_nothing(
    user: Client, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_import, "FLUSH_POINTS", 5)
    monkeypatch.setattr(event_records, "BLOCK_BYTES", 300)
    data, sentence = DAMAGED[case]
    good = [] if case == "nothing but its head" else [(f"{FILE}.1", whole())]
    run = imported(user, *good, (f"{FILE}.2", data))
    assert run.job.status == Status.FAILED
    assert run.job.error is not None
    assert sentence in run.job.error["message"]
    assert not good or f"{FILE}.2" in run.job.error["message"]
    assert not Metric.objects.exists()
    assert Run.objects.get(pk=run.pk).last == {}


def test_a_reading_that_was_broken_off_begins_anew(user: Client) -> None:
    upload = uploaded(user, whole())
    answer = user.post("/api/runs/import", {"uploads": [upload], "name": "a"}, content_type=JSON).json()
    run = Run.objects.get(pk=answer["id"])
    Job.objects.filter(pk=answer["job_id"]).update(status=Status.RUNNING)  # as a web process that died leaves it
    with transaction.atomic():
        curves.append(run, "half", [(1, 1.0, 1.0)])
    assert inner_jobs.work() == answer["job_id"]
    assert list(Metric.objects.values_list("key", "count")) == [("loss", 39)]


def test_a_reading_that_was_broken_off_at_its_very_end_is_whole(user: Client) -> None:
    run = imported(user, (FILE, whole()))
    result = run.job.result
    Job.objects.filter(pk=run.job_id).update(status=Status.RUNNING, result=None)  # its files are gone already
    assert inner_jobs.work() == run.job_id
    run.job.refresh_from_db()
    assert (run.job.status, run.job.result) == (Status.DONE, result)
    assert list(Metric.objects.values_list("key", "count")) == [("loss", 39)]


def test_steps_that_never_rise_take_stored_ones_away_together(user: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    rewound: list[int] = []
    rewind = curves.rewind_key

    def counted(run: Run, key: str, step: int) -> int:
        rewound.append(step)
        return rewind(run, key, step)

    monkeypatch.setattr(curves, "rewind_key", counted)
    monkeypatch.setattr(run_import, "FLUSH_POINTS", 50)
    monkeypatch.setattr(event_records, "BLOCK_BYTES", 100)
    steps = [*range(1, 101), *range(100, 0, -1), *[1] * 100]
    data = written([("loss", step, float(n), 1.0) for n, step in enumerate(steps)])
    run = imported(user, (FILE, data))
    assert [(step, value) for step, value, _ in series(run, "loss")] == [(1, 299.0)]
    assert rewound == [0]
    assert run.job.result is not None
    assert run.job.result["left_out"] == 299


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"uploads": []}, 422), ({"name": ""}, 422), ({"uploads": ["00000000-0000-0000-0000-000000000000"]}, 404)],
)
def test_a_request_that_cannot_be_makes_nothing(user: Client, fields: dict[str, Any], status: int) -> None:
    body = {"uploads": [uploaded(user, whole())], "name": "a", **fields}
    assert user.post("/api/runs/import", body, content_type=JSON).status_code == status
    assert not Run.objects.exists()
    assert Upload.objects.count() == 1  # nothing has to be sent again


def test_a_file_of_another_name_is_refused_before_it_is_sent(user: Client) -> None:
    body = {"filename": "loss.csv", "bytes": 10, "purpose": "run"}
    response = user.post("/api/uploads", body, content_type=JSON)
    assert (response.status_code, "loss.csv" in response.json()["detail"]) == (422, True)


def test_an_event_file_is_no_dataset(user: Client) -> None:
    upload = uploaded(user, whole())
    response = user.post(f"/api/uploads/{upload}/complete", {"name": "a"}, content_type=JSON)
    assert response.status_code == 422


def test_an_export_comes_back_point_by_point(user: Client) -> None:
    run = factories.make_run()
    values = [0.5, math.nan, -math.inf, 2.0**-20]  # exact in single precision
    with transaction.atomic():
        for key in ("loss", "eval/acc.top-1", "é"):
            curves.append(run, key, [(step * 3, values[step % 4], 1.7e9 + step / 8) for step in range(1500)])
    back = imported(user, (FILE, b"".join(curve_export.event_pieces(run, curves.keys(run)))))
    assert curves.keys(back) == curves.keys(run)
    for key in curves.keys(run):
        for old, new in zip(curve_reading.all_points(run, key), curve_reading.all_points(back, key), strict=True):
            np.testing.assert_array_equal(old.steps, new.steps)
            np.testing.assert_array_equal(old.values, new.values)
            np.testing.assert_array_equal(old.times, new.times)


def test_reading_holds_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def many(_run: Run, _key: str) -> Iterator[Points]:
        for first in range(0, 200_000, 20_000):
            steps = np.arange(first, first + 20_000)
            yield Points(steps, np.cos(steps).astype(np.float64), steps.astype(np.float64))

    monkeypatch.setattr(curve_export, "all_points", many)
    path = tmp_path / FILE
    path.write_bytes(b"".join(curve_export.event_pieces(factories.make_run(), ["loss"])))
    tracemalloc.start()
    try:
        count = sum(len(found) for _, found in event_files.scalars(path, FILE))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 200_000
    assert peak < 40 << 20


def test_the_form_is_for_those_who_may() -> None:
    for role, word in (("use", 'id="run-import"'), ("read", "needs the role use")):
        page = factories.client_of(role).get("/runs/import")
        assert (page.status_code, word in page.content.decode()) == (200, True)


def test_its_page_tells_what_came_of_it_and_what_it_lacks(user: Client) -> None:
    run = imported(user, (FILE, written([("train/loss", 2, 0.5, 100.0), ("train/loss", 1, 0.25, 160.0)])))
    reader = factories.client_of("read")
    whole_page = reader.get(f"/runs/{run.pk}/").content.decode()
    assert "can't be paused, resumed, evaluated" in whole_page
    assert 'data-key="train/loss"' in whole_page
    head = reader.get(f"/runs/{run.pk}/parts/head").content.decode()
    assert "1 point" in head
    assert "left out" in head
    assert reader.get(f"/runs/{run.pk}/parts/figures").status_code == 200
    assert reader.get(f"/runs/{run.pk}/parts/checkpoints").status_code == 404
    assert factories.client_of("use").get(f"/runs/new?like={run.pk}").status_code == 409
