"""What an export does around llama.cpp's own work: it runs beside the job, with the job's threads, and ends with it.

A stand-in takes the library's place, which is not installed everywhere; what the library itself makes of a file is in
`test_gguf_export`.
"""

import builtins
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from monitoring.attempt import JobFaultError
from monitoring.events import Artefact, Inputs, Wish
from tests.inference.exports import export
from tests.tiny import build_tiny_model
from tests.training.attempts import DEADLINE_SECONDS, Attempt, make_attempt
from training.fetch.layout import full_disk_told

STAND_IN = """
import os, pathlib, shutil, signal

class Settings:
    ftype = nthread = 0

llama_model_quantize_default_params = Settings

def llama_model_quantize(source, target, settings):
    told = pathlib.Path(os.environ["TOLD"])
    told.with_suffix(".part").write_text(f"{os.getpid()} {settings.ftype} {settings.nthread}")
    told.with_suffix(".part").rename(told)
    if "FAILS" in os.environ:
        return 1
    if "WAITS" in os.environ:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
        while True:
            signal.pause()
    shutil.copyfile(source, target)
    return 0
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return build_tiny_model(tmp_path / "model")


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """The environment of a job whose llama.cpp tells which process it is in, and what it was asked for."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "llama_cpp.py").write_text(STAND_IN)
    paths = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "TOLD": str(tmp_path / "told"), "OMP_NUM_THREADS": "3"}


def attempt_of(model: Path, kind: str = "Q4_K_M") -> Attempt:
    inputs = Inputs(model=Artefact("house/tiny", str(model)))
    return make_attempt(model / "gguf", "fetch", config={"export": kind}, inputs=inputs)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_is_made_by_a_process_of_its_own_with_the_threads_of_the_job(tiny: Path, stand_in: dict[str, str]) -> None:
    attempt = attempt_of(tiny)
    process = attempt.start(stand_in)
    assert process.wait(DEADLINE_SECONDS) == 0, (attempt.folder / "log.txt").read_text()
    worker, kind, threads = map(int, Path(stand_in["TOLD"]).read_text().split())
    assert (kind, threads) == (15, 3)
    assert worker != process.pid
    assert sorted(path.name for path in (tiny / "gguf").glob("*.gguf")) == ["Q4_K_M.gguf"]


def test_where_it_fails_the_job_says_so(tiny: Path, stand_in: dict[str, str]) -> None:
    attempt = attempt_of(tiny)
    assert attempt.run({**stand_in, "FAILS": "1"}) != 0
    assert attempt.error().code == "export_failed"
    assert not list((tiny / "gguf").glob("*.gguf"))


@pytest.fixture
def waiting(tiny: Path, stand_in: dict[str, str]) -> Iterator[tuple[Attempt, Any, psutil.Process]]:
    """An export in the midst of llama.cpp's work, which heeds no signal."""
    attempt = attempt_of(tiny)
    process = attempt.start({**stand_in, "WAITS": "1"})
    told = Path(stand_in["TOLD"])
    try:
        until(lambda: told.is_file() or process.poll() is not None)
        yield attempt, process, psutil.Process(int(told.read_text().split()[0]))
    finally:
        process.kill()
        process.wait()


def test_a_stopped_export_ends_the_work_and_leaves_nothing(
    tiny: Path, waiting: tuple[Attempt, Any, psutil.Process]
) -> None:
    attempt, process, worker = waiting
    assert (tiny / "gguf" / ".Q4_K_M.partial" / "first.gguf").is_file()
    process.send_signal(Wish.STOP.signal)
    assert process.wait(DEADLINE_SECONDS) != 0
    assert attempt.error().code == "stopped"
    assert not worker.is_running()
    assert not list((tiny / "gguf").glob("*.gguf"))
    assert not list((tiny / "gguf").glob(".*.partial"))


def test_what_a_killed_export_has_left_goes_with_the_next_one(
    tiny: Path, waiting: tuple[Attempt, Any, psutil.Process]
) -> None:
    _, process, worker = waiting
    export(tiny, "Q8_0")  # beside it: the other's work stays
    assert (tiny / "gguf" / ".Q4_K_M.partial" / "first.gguf").is_file()
    process.send_signal(signal.SIGKILL)
    worker.kill()  # as the supervisor, which ends the whole group
    process.wait(DEADLINE_SECONDS)
    assert (tiny / "gguf" / ".Q4_K_M.partial" / "first.gguf").is_file()
    export(tiny, "F16")
    assert sorted(path.name for path in (tiny / "gguf").iterdir() if path.name.endswith((".gguf", ".partial"))) == [
        "F16.gguf",
        "Q8_0.gguf",
    ]


@pytest.mark.parametrize("error", [ImportError("no module"), RuntimeError("no libgomp"), FileNotFoundError("no file")])
def test_a_library_that_can_not_be_loaded_is_missing_before_anything_is_written(
    error: Exception, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "llama_cpp":
            raise error
        return plain(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(JobFaultError, match=f"Q4_K_M is made by llama-cpp-python.*{error}") as raised:
        export(tiny, "Q4_K_M")
    assert raised.value.code == "llama_cpp_missing"
    assert not (tiny / "gguf").exists()


def test_a_disk_that_is_full_is_told_though_numpy_gives_no_reason() -> None:
    is_told = pytest.raises(JobFaultError, match=r"The disk that holds .* is full")
    with is_told as raised, full_disk_told(Path("/dev")), Path("/dev/full").open("wb") as full:
        np.zeros(1 << 20).tofile(full)
    assert raised.value.code == "disk_full"
    with pytest.raises(PermissionError), full_disk_told(Path("/dev")):
        raise PermissionError(13, "not yours")
