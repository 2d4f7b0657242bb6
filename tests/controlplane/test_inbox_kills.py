"""The inbox under SIGKILL: wherever its process ends, no file is lost and none is taken twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from tests.controlplane.inbox_killed import FIRST
from tests.product import CHECKOUT

KILLS = 16


@pytest.mark.django_db
def test_wherever_it_is_killed_each_file_becomes_one_dataset_with_one_run(home: Path) -> None:
    (home / "db.sqlite3").write_bytes(connection.connection.serialize())
    environment = {**os.environ, "PILOTHOUSE_HOME": str(home), "DJANGO_SETTINGS_MODULE": "controlplane.settings"}
    environment.pop("DATABASE_URL", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.controlplane.inbox_killed", str(home), str(KILLS)],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert min(told["points"]) > 2 * KILLS, "the kills are spread over one course"
    assert told["survived"] == []
    assert told["files"] == {
        f"file-{number}.jsonl": {"rows": 1, "runs": 1, "is_whole": True} for number in range(KILLS + FIRST)
    }
    assert told["runs"] == KILLS + FIRST
    left = [path for path in told["left"] if not path.startswith("tmp/dataset-")]  # those wait for `manage.py clean`
    assert left == []
