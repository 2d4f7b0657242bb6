"""Which GPUs and how many threads a job gets."""

import os
from pathlib import Path
from typing import Any

import pytest

from monitoring.events import JobSpec
from monitoring.launch import job_environment
from tests.monitoring.factories import make_spec


def spec(kind: str, **config: Any) -> JobSpec:
    return JobSpec.from_json(make_spec(kind=kind, **config))


@pytest.mark.parametrize(("kind", "expected"), [("validate", ""), ("fetch", ""), ("train", None), ("serve", None)])
def test_a_job_without_gpus_of_its_own(kind: str, expected: str | None) -> None:
    assert job_environment(spec(kind), Path("/h"), {}).get("CUDA_VISIBLE_DEVICES") == expected


def test_a_restricted_agent_restricts_its_jobs() -> None:
    assert job_environment(spec("train"), Path("/h"), {"CUDA_VISIBLE_DEVICES": "1"})["CUDA_VISIBLE_DEVICES"] == "1"


def test_threads_come_from_config_then_agent_then_cores() -> None:
    def threads(config: dict[str, object], environment: dict[str, str]) -> str:
        return job_environment(spec("train", **config), Path("/h"), environment)["OMP_NUM_THREADS"]

    assert threads({"cpu_threads": 5}, {"OMP_NUM_THREADS": "2"}) == "5"
    assert threads({"environment": {"cpu_threads": 0}}, {"OMP_NUM_THREADS": "2"}) == "2"
    assert threads({}, {}) == str(len(os.sched_getaffinity(0)))


def test_tokenizers_keep_to_one_thread_beside_forked_workers() -> None:
    workers = job_environment(spec("train", data={"workers": 2}), Path("/h"), {})
    assert workers["TOKENIZERS_PARALLELISM"] == "false"
    assert job_environment(spec("validate"), Path("/h"), {})["TOKENIZERS_PARALLELISM"] == "true"
