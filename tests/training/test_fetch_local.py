"""The verb `fetch` from this host: a registered directory, a run's checkpoint; and what every source shares."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from monitoring.attempt import JobFaultError
from monitoring.events import Artefact, Inputs, Log, Phase, Progress
from monitoring.files import hashes_of, write_json
from tests.tiny import build_tiny_model
from tests.training.attempts import Attempt, make_attempt
from training import checkpoints
from training.fetch.inspect import inspect_model, model_sha256
from training.fetch.layout import require_space

TRAINED_WITH = {"name": "emoji_think", "version": "7"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    folder = tmp_path / "source"
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def make_fetch(tmp_path: Path, source: str, path: Path, number: int = 1) -> Attempt:
    return make_attempt(
        tmp_path / f"attempt-{number}",
        "fetch",
        config={"source": source, "path": str(path)},
        model_dir=tmp_path / "models" / "m1",
        number=number,
    )


def assert_refused(tmp_path: Path, attempt: Attempt, code: str) -> None:
    """Ends with that code and a fix, and leaves nothing behind."""
    assert attempt.run() == 1
    assert attempt.error().code == code
    assert attempt.error().fix
    assert not any((tmp_path / "models").iterdir())


def test_a_directory_becomes_a_model(tmp_path: Path, source: Path) -> None:
    (source / "optimizer.pt").write_bytes(b"pickle")
    (source / "modeling.py").write_text("raise SystemExit")
    (source / "original").mkdir()
    attempt = make_fetch(tmp_path, "directory", source)
    assert attempt.run() == 0
    final = tmp_path / "models" / "m1"
    assert attempt.all(Phase) == [Phase("active")]
    values = attempt.result()
    assert values["architecture"] == "Qwen3ForCausalLM"
    assert values["source"] == {"kind": "directory", "path": str(source)}
    assert values["answer"] is None
    assert values["hashes"] == {
        name: value for name, value in hashes_of(source).items() if name not in {"optimizer.pt", "modeling.py"}
    }
    assert {key: values[key] for key in inspect_model(final) if key != "size_bytes"} == {
        key: value for key, value in inspect_model(final).items() if key != "size_bytes"
    }
    assert json.loads((final / "pilothouse.json").read_text())["id"] == "m1"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m1"]
    assert any("optimizer.pt" in log.text for log in attempt.all(Log))
    progress = attempt.all(Progress)
    assert progress[-1].done == progress[-1].total


def test_pickled_weights_are_refused(tmp_path: Path, source: Path) -> None:
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    assert_refused(tmp_path, make_fetch(tmp_path, "directory", source), "pickled_weights")


def test_code_of_its_own_is_refused(tmp_path: Path, source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    write_json(source / "config.json", {**config, "auto_map": {"AutoModelForCausalLM": "modeling.Model"}})
    assert_refused(tmp_path, make_fetch(tmp_path, "directory", source), "remote_code")


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path, source: Path) -> None:
    (tmp_path / "private.json").write_text('{"secret": 1}')
    (source / "notes.json").symlink_to(tmp_path / "private.json")
    assert_refused(tmp_path, make_fetch(tmp_path, "directory", source), "escaping_link")


def test_a_link_inside_the_directory_is_followed(tmp_path: Path, source: Path) -> None:
    (source / "model.safetensors").rename(source / "weights-of-today")
    (source / "model.safetensors").symlink_to("weights-of-today")
    assert make_fetch(tmp_path, "directory", source).run() == 0
    assert not (tmp_path / "models" / "m1" / "model.safetensors").is_symlink()


def test_a_model_without_a_usable_tokenizer_is_refused(tmp_path: Path, source: Path) -> None:
    (source / "tokenizer.json").unlink()
    assert_refused(tmp_path, make_fetch(tmp_path, "directory", source), "no_tokenizer")


@pytest.mark.parametrize("place", ["missing", "relative"])
def test_what_is_no_directory_is_refused(tmp_path: Path, place: str) -> None:
    path = tmp_path / "nowhere" if place == "missing" else Path("training")
    assert_refused(tmp_path, make_fetch(tmp_path, "directory", path), "no_directory")


def test_a_model_larger_than_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobFaultError, match=r"1152921504\.6 GB") as fault:
        require_space(tmp_path, 1 << 60)
    assert fault.value.code == "disk_full"


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    attempt = make_fetch(tmp_path, "torrent", tmp_path)
    assert attempt.run() == 1
    assert (attempt.error().code, "smollm2" in attempt.error().fix) == ("bad_config", True)


def test_a_published_model_is_never_overwritten(tmp_path: Path, source: Path) -> None:
    assert make_fetch(tmp_path, "directory", source).run() == 0
    before = hashes_of(tmp_path / "models")
    other = make_attempt(
        tmp_path / "other",
        "fetch",
        config={"source": "directory", "path": str(source)},
        model_dir=tmp_path / "models" / "m1",
    )
    assert other.run() == 1
    assert other.error().code == "already_there"
    assert hashes_of(tmp_path / "models") == before


def test_a_retry_finds_what_the_attempt_before_has_published(tmp_path: Path, source: Path) -> None:
    first = make_fetch(tmp_path, "directory", source)
    assert first.run() == 0
    again = make_fetch(tmp_path, "directory", source, number=2)
    assert again.run() == 0
    assert again.result() == first.result()


def test_what_a_killed_attempt_left_is_cleared(tmp_path: Path, source: Path) -> None:
    (tmp_path / "models" / ".m1.partial").mkdir(parents=True)
    (tmp_path / "models" / ".m1.partial" / "evil.bin").write_bytes(b"")
    assert make_fetch(tmp_path, "directory", source).run() == 0
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m1"]


def make_checkpoint(folder: Path, source: Path) -> Path:
    """A checkpoint as a run leaves it: the model's files, pickled optimizer state, the trainer's state."""
    with checkpoints.writing(folder, 12) as temporary:
        for path in source.iterdir():
            (temporary / path.name).write_bytes(path.read_bytes())
        (temporary / "optimizer.pt").write_bytes(b"pickle")
        (temporary / "trainer_state.json").write_text("{}")
        path, _, _ = checkpoints.publish(temporary, folder, checkpoints.Manifest(step=12, profile=TRAINED_WITH))
    return path


def test_a_checkpoint_becomes_a_model_without_its_optimizer_state(tmp_path: Path, source: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoints", source)
    attempt = make_fetch(tmp_path, "checkpoint", checkpoint)
    assert attempt.run() == 0
    assert attempt.result()["hashes"] == hashes_of(source)
    assert attempt.result()["source"]["step"] == "12"
    facts = json.loads((tmp_path / "models" / "m1" / "pilothouse.json").read_text())
    assert attempt.result()["profile"] == facts["profile"] == TRAINED_WITH


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, source: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoints", source)
    with (checkpoint / "model.safetensors").open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"\xff")
    assert_refused(tmp_path, make_fetch(tmp_path, "checkpoint", checkpoint), "checkpoint_damaged")


def make_adapter(folder: Path) -> Path:
    folder.mkdir()
    save_file({"lora_A": np.zeros((4, 2), np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/srv/models/private", "r": 2}')
    return folder


def test_an_adapter_names_its_base_by_id(tmp_path: Path, source: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoints", make_adapter(tmp_path / "adapter"))
    base = Artefact(id="smollm2", path=str(source))
    attempt = make_attempt(
        tmp_path / "attempt",
        "fetch",
        config={"source": "checkpoint", "path": str(checkpoint)},
        inputs=Inputs(base=base),
        model_dir=tmp_path / "models" / "m1",
    )
    assert attempt.run() == 0
    assert (attempt.result()["kind"], attempt.result()["base_model"]) == ("adapter", "smollm2")
    written = json.loads((tmp_path / "models" / "m1" / "pilothouse.json").read_text())
    assert written["base"] == {"id": "smollm2", "sha256": model_sha256(source)}
    assert "/srv" not in (tmp_path / "models" / "m1" / "adapter_config.json").read_text()


def test_an_adapter_of_an_unknown_base_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoints", make_adapter(tmp_path / "adapter"))
    assert_refused(tmp_path, make_fetch(tmp_path, "checkpoint", checkpoint), "no_base")
