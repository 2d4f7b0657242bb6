"""The factories make rows that belong together."""

from pathlib import Path

import pytest

from controlplane.services import access
from tests import factories

pytestmark = pytest.mark.django_db


def test_a_run_has_files_and_a_whole_configuration(home: Path) -> None:
    run = factories.make_run()
    assert run.job.kind == "train"
    assert run.training_set.rows_path.is_relative_to(home)
    assert run.training_set.rows_path.read_bytes().count(b"\n") == run.training_set.examples == 3
    assert (run.start_model.folder / "config.json").is_file()
    assert run.config["hyperparams"]["learning_rate"] == 2e-4


def test_a_host_reads_its_gpus() -> None:
    host = factories.make_host(gpus=2)
    assert [gpu.index for gpu in host.gpus.all()] == [0, 1]
    host.refresh_from_db()
    assert [gpu["uuid"] for gpu in host.reading["gpus"]] == [gpu.uuid for gpu in host.gpus.all()]
    assert host.is_online


def test_a_key_opens_what_its_role_allows() -> None:
    actor = access.authenticate_key(factories.make_key("read"))
    assert actor is not None
    assert actor.role.word == "read"
