"""Losses where memory runs out, in pieces, and of a model whose weights are no numbers."""

import copy
import math
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine.loading import LoadedModel
from inference.engine.transformers import TransformersEngine
from inference.evaluation.cases import Case
from inference.evaluation.log import RowLog
from inference.evaluation.losses import RowLoss, losses
from tests.inference.models import CHATS
from training.profiles.chatml import CHATML_TEMPLATE

CASES = [
    Case(row, {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    for row, (question, answer) in enumerate(CHATS.items())
]


def measured(loaded: LoadedModel, engine: TransformersEngine) -> dict[int, RowLoss]:
    template = loaded.encoder.chat_template or CHATML_TEMPLATE
    return {loss.row: loss for loss in losses(engine, loaded, template, CASES)}


@pytest.fixture(scope="module")
def engine(loaded: LoadedModel) -> Iterator[TransformersEngine]:
    """An idle engine, in whose thread they are measured."""
    engine = TransformersEngine(loaded, [], max_batch=1, max_queue=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def whole(loaded: LoadedModel, engine: TransformersEngine) -> dict[int, float]:
    """The losses of all rows, in one batch."""
    found = measured(loaded, engine)
    assert all(loss.tokens > 3 and not loss.error for loss in found.values())
    return {row: loss.sum for row, loss in found.items()}


class Device:
    """Stands for a device without memory for more than `rows` rows: notes what a failed batch leaves alive."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._left: list[weakref.ref[torch.Tensor]] = []
        self.leaks = 0

    def __call__(self, _model: Any, _args: Any, given: dict[str, Any]) -> None:
        self.leaks += sum(left() is not None for left in self._left)
        activations = torch.zeros(1)
        self._left.append(weakref.ref(activations))
        if given["input_ids"].shape[0] > self._rows:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")


@pytest.fixture
def device(loaded: LoadedModel, request: pytest.FixtureRequest) -> Iterator[Device]:
    """The model on a device that holds so many rows."""
    device = Device(request.param)
    hook = loaded.model.register_forward_pre_hook(device, with_kwargs=True)
    yield device
    hook.remove()


def test_the_engines_thread_alone_computes(loaded: LoadedModel, engine: TransformersEngine) -> None:
    threads: set[str] = set()
    hook = loaded.model.register_forward_pre_hook(lambda _model, _args: threads.add(threading.current_thread().name))
    try:
        measured(loaded, engine)
    finally:
        hook.remove()
    assert threads == {"engine"}


@pytest.mark.parametrize("device", [1], indirect=True)
def test_where_memory_runs_out_fewer_rows_are_measured_at_once(
    loaded: LoadedModel, engine: TransformersEngine, whole: dict[int, float], device: Device
) -> None:
    found = measured(loaded, engine)
    assert {row: loss.sum for row, loss in found.items()} == pytest.approx(whole, rel=1e-3, abs=1e-4)
    assert not any(loss.error for loss in found.values())
    assert device.leaks == 0, "the halves find the memory of the whole freed"


@pytest.mark.parametrize("device", [0], indirect=True)
def test_a_row_that_does_not_fit_alone_may_be_tried_again(
    loaded: LoadedModel, engine: TransformersEngine, device: Device
) -> None:
    found = measured(loaded, engine)
    assert sorted(found) == [case.row for case in CASES]
    assert all(loss.retry and "no memory left for the loss" in loss.error for loss in found.values())
    assert device.leaks == 0


def test_a_long_row_is_measured_in_pieces(
    loaded: LoadedModel, engine: TransformersEngine, whole: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns: list[int] = []
    hook = loaded.model.register_forward_hook(lambda _model, _args, output: columns.append(output.logits.shape[1]))
    monkeypatch.setattr("inference.evaluation.losses.LOGITS_LIMIT", 5 * loaded.vocabulary_size)
    try:
        found = measured(loaded, engine)
    finally:
        hook.remove()
    assert {row: loss.sum for row, loss in found.items()} == pytest.approx(whole, rel=1e-3, abs=1e-4)
    assert max(columns) <= 5
    assert len(columns) > len(CASES)


def test_a_loss_that_is_no_number_is_the_error_of_its_row(
    loaded: LoadedModel, engine: TransformersEngine, tmp_path: Path
) -> None:
    broken = copy.deepcopy(loaded.model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    with RowLog(tmp_path, "losses.jsonl") as log:
        for row, loss in measured(replace(loaded, model=broken), engine).items():
            log.add({"row": row, "sum": loss.sum, "error": loss.error})
        lines = list(log.read())
    assert len(lines) == len(CASES)
    assert {(line["sum"], line["error"].split(":")[0]) for line in lines} == {
        (0.0, "The loss of this row is no number (NaN or infinite)")
    }
