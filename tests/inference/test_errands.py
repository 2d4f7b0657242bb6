"""What others have to compute is computed in the engine's thread, and who has computed elsewhere gives workers back."""

import subprocess
import sys
import threading
from typing import Any

import pytest

from inference.engine.base import EngineClosedError, GenerationRequest, stream
from inference.engine.rolling import RollingEngine
from inference.engine.transformers import TransformersEngine
from inference.offline import GREEDY
from tests.product import CHECKOUT

COUNTS = """
import os, time
import torch
from inference.engine.errands import give_workers_back

def threads():
    return len(os.listdir("/proc/self/task"))

def add():
    torch.ones(4_000_000) + 1

torch.set_num_threads(2)
before = threads()
add()
assert threads() == before + 1, "a large sum has a worker"
give_workers_back()
deadline = time.monotonic() + 20
while threads() > before:
    assert time.monotonic() < deadline, "the worker is still there"
    time.sleep(0.01)
add()
assert threads() == before + 1, "it gets a new one"
"""


def test_work_is_done_in_the_engines_thread_beside_requests(engine: RollingEngine[Any]) -> None:
    assert engine.compute(lambda: threading.current_thread().name) == "engine"
    generated = stream(engine, GenerationRequest([1] * 8, max_tokens=40, sampling=GREEDY))
    next(generated)
    assert engine.compute(lambda: 6 * 7) == 42
    assert list(generated)[-1].usage is not None


def test_what_fails_is_told_to_who_asked_and_nobody_else(engine: RollingEngine[Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        engine.compute(lambda: 1 // 0)
    assert list(stream(engine, GenerationRequest([1] * 8, max_tokens=2, sampling=GREEDY)))[-1].usage is not None


def test_a_closed_engine_computes_nothing(transformers_engine: TransformersEngine) -> None:
    transformers_engine.close()
    with pytest.raises(EngineClosedError):
        transformers_engine.compute(lambda: 1)


def test_workers_go_when_they_are_given_back() -> None:
    subprocess.run([sys.executable, "-c", COUNTS], cwd=CHECKOUT, check=True, timeout=60)
