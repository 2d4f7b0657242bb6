"""Layer 3 in a real run: a user's own callback from an installed package, the pace of progress, the one public call."""

import ast
import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from monitoring.events import EVENTS_FILE, EventWriter, Metrics, Progress, decode_event, read_lines
from tests.tiny import write_style_dataset
from tests.training.trainjobs import REPOSITORY, make_job, tiny_model
from training.callbacks import progress
from training.callbacks.plugins import ENTRY_POINT_GROUP
from training.state import RunState


@pytest.fixture
def bell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The callback of the guide, installed as pip leaves it: a module and a folder of facts beside it."""
    guide = (REPOSITORY / "docs" / "profiles.md").read_text()
    folder = tmp_path / "installed"
    info = folder / "ahoy-1.0.dist-info"
    info.mkdir(parents=True)
    code = re.search(r"```python\n# ahoy_callback.py\n(.*?)```", guide, re.DOTALL)
    assert code is not None
    (folder / "ahoy_callback.py").write_text(code[1])
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ahoy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nbell = ahoy_callback:Bell\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


@pytest.mark.usefixtures("bell")
def test_the_guides_callback_rings_in_a_run_whose_progress_is_told_as_seldom_as_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(
        tmp_path / "job",
        hyperparams={"max_steps": 5, "per_device_train_batch_size": 2},
        monitoring={"update_interval_seconds": 3600.0},
    )
    job.run_here()
    assert "Eight bells after 5 steps." in capsys.readouterr().out
    assert [body.done for body in job.bodies(Progress)] == [0, 1, 5], "the first step and the last are always told"


def test_between_two_updates_lies_the_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    control, state = TrainerControl(), TrainerState(max_steps=1000)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    with EventWriter(tmp_path / EVENTS_FILE) as events:
        teller = progress.ProgressTeller(events, progress.PhaseTeller(events), RunState(), 0.5)
        for step in range(1, 21):
            clock.now, state.global_step = 100.0 + step / 8, step
            teller.on_step_end(arguments, state, control)
    lines, _ = read_lines(tmp_path / EVENTS_FILE, 0)
    told: list[Any] = [decode_event(line).body for line in lines.splitlines()]
    assert [body.done for body in told] == [1, 5, 9, 13, 17]


def test_a_logged_step_asks_for_the_counts_once(tmp_path: Path) -> None:
    asked: list[int] = []
    control, state = TrainerControl(), TrainerState(global_step=1, max_steps=10)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])

    class Counting:
        def counts(self) -> tuple[int, int]:
            asked.append(1)
            return 80, 4

    with EventWriter(tmp_path / EVENTS_FILE) as events:
        teller: Any = progress.ProgressTeller(events, progress.PhaseTeller(events), RunState(), 0.5)
        teller.trainer = Counting()
        teller.on_log(arguments, state, control, {"loss": 1.0})
    line = read_lines(tmp_path / EVENTS_FILE, 0)[0].splitlines()[-1]
    body = decode_event(line).body
    assert isinstance(body, Metrics)
    assert (body.values["tokens"], len(asked)) == (80.0, 1)


def test_the_guides_call_from_python_trains(tmp_path: Path) -> None:
    guide = (REPOSITORY / "docs" / "training.md").read_text()
    code = re.search(r"```python\n(from pathlib.*?)```", guide, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)  # noqa: S102 - our own guide
    write_style_dataset(tmp_path / "data" / "rows.jsonl", 12, 0)
    result = names["train"](str(tmp_path / "data"), str(tiny_model()), str(tmp_path / "out"))
    assert result.steps == 3
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_the_engine_alone_touches_the_training_loop() -> None:
    callers = set()
    for path in (REPOSITORY / "training").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "train" and ast.unparse(node.value) == "trainer":
                callers.add(path.relative_to(REPOSITORY).as_posix())
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("JobTrainer"):
                callers.add(path.relative_to(REPOSITORY).as_posix())
    assert callers == {"training/engine.py"}
