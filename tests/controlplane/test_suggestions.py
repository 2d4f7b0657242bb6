"""What Optuna is asked: the same questions have the same answers, a grid is whole, TPE learns."""

import math
from collections.abc import Callable
from statistics import mean
from typing import Any

import pytest

from controlplane.services.suggestions import Tried, suggest
from controlplane.services.sweep_space import Dimension

RATE = Dimension("hyperparams.learning_rate", low=1e-6, high=1.0, log=True)
RANK = Dimension("model.lora_r", low=2, high=64, step=2)
PACKING = Dimension("data.packing", values=(True, False))


def play(
    method: str, dimensions: list[Dimension], count: int, value_of: Callable[[dict[str, Any]], float], seed: int = 5
) -> list[dict[str, Any]]:
    """A whole sweep, in which every fourth trial fails and the last is always still running."""
    tried: list[Tried] = []
    for number in range(count):
        params = suggest(dimensions, method, tried, seed=seed, max_trials=count)
        if tried and tried[-1].state == "running":
            last = tried.pop().params
            failed = number % 4 == 0
            tried.append(Tried(last, "failed" if failed else "done", None if failed else value_of(last)))
        tried.append(Tried(params, "running", None))
    return [trial.params for trial in tried]


def distance(params: dict[str, Any]) -> float:
    """Orders of magnitude to the best learning rate of this tale."""
    return abs(math.log10(params[RATE.field]) + 2)


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_what_comes_next_depends_on_what_was_tried_alone(method: str) -> None:
    """Every question makes its study anew, as after a restart."""
    dimensions = [RATE, RANK, PACKING]
    tried = play(method, dimensions, 12, distance)
    assert all(1e-6 <= params[RATE.field] <= 1 and params[RANK.field] in range(2, 65, 2) for params in tried)
    assert {type(params[PACKING.field]) for params in tried} == {bool}
    assert {type(params[RANK.field]) for params in tried} == {int}
    assert len({params[RATE.field] for params in tried}) == 12
    assert play(method, dimensions, 12, distance) == tried
    assert play(method, dimensions, 12, distance, seed=6) != tried


def test_a_grid_has_each_combination_once() -> None:
    dimensions = [Dimension("model.lora_r", values=(4, 8, 16)), PACKING]
    tried = play("grid", dimensions, 6, lambda params: params["model.lora_r"])
    assert {(params["model.lora_r"], params["data.packing"]) for params in tried} == {
        (rank, packing) for rank in (4, 8, 16) for packing in (True, False)
    }


def test_tpe_learns_from_what_runs_came_to() -> None:
    late = {
        method: mean(mean(map(distance, play(method, [RATE], 30, distance, seed)[-10:])) for seed in range(4))
        for method in ("random", "tpe")
    }
    assert late["tpe"] < 0.7 * late["random"], late
