"""Jobs of the verb `generate_data` for its tests: specs, seeds, and what is on the disk in the end."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from monitoring.events import SPEC_FILE, Artefact, Inputs, JobSpec
from tests.inference.attempts import Attempt
from tests.product import CHECKOUT
from training.data.rows import ROWS_FILE

SERVING = {"dtype": "float32", "cpu_threads": 1, "max_batch": 4}


def chat(*turns: str, system: str = "") -> dict[str, Any]:
    """Turns of the user and the assistant, one after the other."""
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *messages]}


def write_seeds(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """A dataset's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ROWS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_spec(
    job: Path, attempt: int = 1, *, seeds: Path | None = None, model: Path | None = None,
    profile: str = "plain", **section: Any,
) -> Path:  # fmt: skip
    """The spec of an attempt of the job in that folder."""
    folder = job / "attempts" / str(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = Artefact("1", str(seeds)) if seeds else None
    spec = JobSpec(
        job_id=1, attempt=attempt, kind="data_gen", verb="generate_data", host="here", output_dir=str(job),
        inputs=Inputs(dataset=dataset, model=Artefact("taught", str(model)) if model else None),
        config={
            "serving": {"model_name": "taught", "profile": {"name": profile}, **(SERVING if model else {})},
            "environment": {"nice": 5},
            "data_generation": section,
        },
    )  # fmt: skip
    (folder / SPEC_FILE).write_text(json.dumps(spec.to_json()))
    return folder / SPEC_FILE


def started(spec: Path, *, before: str = "") -> "subprocess.Popen[str]":
    """The process of an attempt, as the supervisor starts it; with `before` some Python runs in it first."""
    command = [sys.executable, "-m", "inference", "generate_data", str(spec)]
    if before:
        lines = ("import sys", before, "from inference.__main__ import main", "sys.exit(main())")
        command = [sys.executable, "-c", "\n".join(lines), *command[3:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=CHECKOUT, env=environment, text=True, stderr=subprocess.PIPE)


def ended(spec: Path, process: "subprocess.Popen[str]") -> Attempt:
    """Waits until it has ended well."""
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said[-2000:]
    return Attempt(spec.parent, process.returncode)


def shard_bytes(job: Path) -> dict[str, bytes]:
    """Every file that lies among the shards."""
    return {path.name: path.read_bytes() for path in sorted((job / "shards").iterdir())}


def rows_of(job: Path) -> list[dict[str, Any]]:
    """All rows, in order."""
    return [json.loads(line) for data in shard_bytes(job).values() for line in data.splitlines()]


def contents(row: dict[str, Any]) -> Sequence[str]:
    """What is said, turn by turn."""
    return [turn["content"] for turn in row["messages"]]
