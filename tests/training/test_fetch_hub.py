"""The verb `fetch` from a hub: the real library against a hub on this machine."""

import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

from monitoring.events import EVENTS_FILE, EXIT_PAUSED, EventWriter, Progress, Wish, read_lines
from monitoring.files import hashes_of
from tests.fakes.hub import COMMIT, FakeHub, serving
from tests.tiny import build_tiny_model
from tests.training.attempts import Attempt, make_attempt, wait_until
from training.fetch.hub import bar_of
from training.pacing import PacedProgress

NAME = "pirates/tiny"
TOKEN = "hf_secretsecretsecret"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def repository(tiny: Path, tmp_path: Path) -> Path:
    """The tiny model with what repositories have beside it: pickles, code, other formats."""
    folder = tmp_path / "repository"
    shutil.copytree(tiny, folder)
    for name in ("pytorch_model.bin", "modeling_tiny.py", "model.gguf", "consolidated.safetensors"):
        (folder / name).write_text("not wanted")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[FakeHub]:
    with serving() as hub:
        hub.repositories[NAME] = repository
        yield hub


def make_fetch(tmp_path: Path, *, hub_id: str = NAME, revision: str = "", number: int = 1, token: str = "") -> Attempt:
    return make_attempt(
        tmp_path / f"attempt-{number}",
        "fetch",
        config={"source": "hub", "hub_id": hub_id, "revision": revision},
        model_dir=tmp_path / "models" / "m1",
        number=number,
        secrets={"hf_token": token} if token else None,
    )


def env_of(hub: FakeHub | str, tmp_path: Path) -> dict[str, str]:
    """A process that knows this hub alone, with no cache or token of the user's."""
    url = hub if isinstance(hub, str) else hub.url
    no_proxy = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    mine = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    return {**mine, "HF_TOKEN": "", "HF_HUB_DISABLE_XET": "1", **no_proxy}


def test_a_model_comes_down_with_byte_progress(tmp_path: Path, hub: FakeHub, tiny: Path) -> None:
    attempt = make_fetch(tmp_path)
    assert attempt.run(env_of(hub, tmp_path)) == 0
    values = attempt.result()
    assert values["hashes"] == hashes_of(tiny)
    assert values["source"] == {"kind": "hub", "hub_id": NAME, "revision": COMMIT}
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"m1"}
    assert {path.name for path in (tmp_path / "models" / "m1").iterdir()} == {*hashes_of(tiny), "pilothouse.json"}
    progress = attempt.all(Progress)
    total = sum(path.stat().st_size for path in tiny.iterdir())
    assert {item.total for item in progress} == {total}
    assert [item.done for item in progress] == sorted(item.done for item in progress)
    assert progress[-1].done == total


def test_the_token_is_used_and_told_to_nobody(tmp_path: Path, hub: FakeHub) -> None:
    hub.token = TOKEN
    attempt = make_fetch(tmp_path, token=TOKEN)
    assert attempt.run(env_of(hub, tmp_path)) == 0
    assert TOKEN in hub.tokens_seen
    (attempt.folder / "secret").unlink()
    for path in [*attempt.folder.iterdir(), *(tmp_path / "models" / "m1").glob("*.json")]:
        assert TOKEN not in path.read_text(), path


def test_a_paused_download_goes_on_where_it_was(tmp_path: Path, hub: FakeHub, tiny: Path) -> None:
    hub.hold_back = {"model.safetensors"}
    first = make_fetch(tmp_path)
    process = first.start(env_of(hub, tmp_path))
    try:
        wait_until(lambda: hub.downloads["model.safetensors"], "the weights begin to come")
        process.send_signal(Wish.PAUSE.signal)
        assert process.wait(20) == EXIT_PAUSED
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "models" / "m1").exists()
    hub.released.set()
    second = make_fetch(tmp_path, number=2)
    assert second.run(env_of(hub, tmp_path)) == 0
    assert second.result()["hashes"] == hashes_of(tiny)
    assert {name: count for name, count in hub.downloads.items() if count > 1} == {"model.safetensors": 2}
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"m1"}


def test_bytes_that_come_by_xet_are_counted_too(tmp_path: Path) -> None:
    with EventWriter(tmp_path / EVENTS_FILE) as events:
        bar = bar_of(PacedProgress(events, "bytes", 100, interval_seconds=0))
        bar.begin(10, "model.safetensors")
        reporter = XetDownloadProgressReporter(reconstruction_desc="", total=90, log_level=20, name="x", tqdm_class=bar)
        for done in (30, 90):
            reporter.update_progress(XetReport(total_bytes_completed=done, total_transfer_bytes_completed=done + 5))
        reporter.close()
    lines, _ = read_lines(tmp_path / EVENTS_FILE, 0)
    assert [json.loads(line)["done"] for line in lines.splitlines()] == [40, 100]


@dataclass(frozen=True)
class XetReport:
    """What hf_xet says now and then of a download."""

    total_bytes_completed: int
    total_transfer_bytes_completed: int
    total_bytes: int = 90
    total_transfer_bytes: int = 95
    total_bytes_completion_rate: float = 1.0
    total_transfer_bytes_completion_rate: float = 1.0


def assert_refused(tmp_path: Path, attempt: Attempt, env: dict[str, str], code: str) -> None:
    """Ends with that code, names the model, gives a fix and publishes nothing."""
    assert attempt.run(env) == 1
    error = attempt.error()
    assert (error.code, bool(error.fix)) == (code, True), error
    assert not (tmp_path / "models" / "m1").exists()


@pytest.mark.parametrize(
    ("code", "hub_id", "revision"),
    [
        ("hub_not_found", "pirates/none", ""),
        ("hub_not_found", "../../etc", ""),
        ("hub_not_found", NAME, "no-such-branch"),
    ],
)
def test_what_the_hub_does_not_have(tmp_path: Path, hub: FakeHub, code: str, hub_id: str, revision: str) -> None:
    assert_refused(tmp_path, make_fetch(tmp_path, hub_id=hub_id, revision=revision), env_of(hub, tmp_path), code)


def test_a_gated_model_says_where_to_ask(tmp_path: Path, hub: FakeHub) -> None:
    hub.gated.add(NAME)
    attempt = make_fetch(tmp_path)
    assert_refused(tmp_path, attempt, env_of(hub, tmp_path), "hub_gated")
    assert f"https://huggingface.co/{NAME}" in attempt.error().fix


@pytest.mark.parametrize(("status", "code"), [(429, "hub_busy"), (403, "hub_token_refused"), (500, "hub_unreachable")])
def test_a_hub_that_refuses(tmp_path: Path, hub: FakeHub, status: int, code: str) -> None:
    hub.status = status
    assert_refused(tmp_path, make_fetch(tmp_path), env_of(hub, tmp_path), code)


def test_a_repository_of_pickles_is_refused(tmp_path: Path, hub: FakeHub, repository: Path) -> None:
    for path in repository.glob("*.safetensors"):
        path.unlink()
    assert_refused(tmp_path, make_fetch(tmp_path), env_of(hub, tmp_path), "no_safetensors")
    assert not hub.downloads


def test_code_of_its_own_is_refused_before_the_weights_come(tmp_path: Path, hub: FakeHub, repository: Path) -> None:
    config = json.loads((repository / "config.json").read_text())
    (repository / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling_tiny.Tiny"}}))
    assert_refused(tmp_path, make_fetch(tmp_path), env_of(hub, tmp_path), "remote_code")
    assert hub.downloads["model.safetensors"] == 0
    assert not any((tmp_path / "models").iterdir())


def test_an_altered_file_is_refused(tmp_path: Path, hub: FakeHub) -> None:
    hub.altered.add("model.safetensors")
    assert_refused(tmp_path, make_fetch(tmp_path), env_of(hub, tmp_path), "hash_mismatch")


def test_offline_by_setting(tmp_path: Path, hub: FakeHub) -> None:
    attempt = make_fetch(tmp_path)
    assert_refused(tmp_path, attempt, {**env_of(hub, tmp_path), "HF_HUB_OFFLINE": "1"}, "hub_unreachable")
    assert "OfflineModeIsEnabled" in attempt.error().message


def test_offline_by_network(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert_refused(tmp_path, make_fetch(tmp_path), env_of(url, tmp_path), "hub_unreachable")
