"""The guide "Write your own profile or callback", followed to the letter: its package is found as it is."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from training.profiles.regime3.decode import decode
from training.profiles.regime3.encode import encode
from training.profiles.regime3.evaluate import evaluate

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "profiles.md").read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path with the guide's package, as pip leaves it there."""
    folder = tmp_path_factory.mktemp("installed")
    files = dict(re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL))
    assert set(files) == {"ahoy.py", "ahoy_processors.py", "ahoy_callback.py", "pyproject.toml"}
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    for name, text in files.items():
        (folder / name).write_text(text)
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run(installed: Path, code: str) -> Any:
    """What a process that has the package beside ours prints, as JSON."""
    env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_the_profile_is_found_and_does_what_the_guide_says(installed: Path) -> None:
    code = """
import json
from training.profiles.base import BrokenProfileError, faults_of, load_profile, profile_names
example = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
profile = load_profile("ahoy", system_prompt="Be kind.", options={"greeting": "Hoy!"})
once = profile.transform(example, 0)
try:
    load_profile("ahoy", options={"volume": 3})
except BrokenProfileError as error:
    refused = str(error)
print(json.dumps([
    list(profile_names()), once["messages"], profile.transform(once, 1) == once,
    [fault.code for fault in faults_of(profile, example)], faults_of(profile, once), refused,
]))
"""
    names, messages, is_idempotent, before, after, refused = run(installed, code)
    assert {"ahoy", "plain", "emoji_think", "regime3"} <= set(names)
    assert [turn["content"] for turn in messages] == ["Be kind.", "Hi", "Hoy! Hello."]
    assert (is_idempotent, before, after) == (True, ["no_greeting"], [])
    assert refused == "The profile 'ahoy' can't be used: it has the option greeting alone, not volume."


def test_its_processor_and_the_callback_are_found(installed: Path) -> None:
    code = """
import json
import torch
from inference.processors import Progress, Vocabulary, load_processors
from training.callbacks.plugins import load_callbacks
vocabulary = Vocabulary(encode=lambda text: [3], decode=lambda ids: "", end_token_ids=frozenset({1}), size=5)
(make,) = load_processors("ahoy")
logits = make(vocabulary).process(torch.zeros(5), Progress((), (3,), "Ahoy!"))
print(json.dumps([logits.tolist(), [type(callback).__name__ for callback in load_callbacks()]]))
"""
    assert run(installed, code) == [[0.0, 0.0, 0.0, -80.0, 0.0], ["Bell"]]


def test_the_guides_sums_are_right() -> None:
    assert encode("-2 ^ 2 + 1 / 2") == "(add (neg (pow 2 2)) (div 1 2))"
    assert "'(add (neg (pow 2 2)) (div 1 2))'" in GUIDE
    assert repr(evaluate(decode("(add (pow 2 3) (div 1 2))"))) == "Fraction(17, 2)"
    assert "# Fraction(17, 2)" in GUIDE
