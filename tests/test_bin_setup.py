"""`bin/setup` in a scratch checkout, with a real venv and a real pip; only the project in it is a tiny one.

Its build back end lies in the checkout itself, so nothing is downloaded.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tiny-project"
version = "1.0"
"""
BACKEND = """
import pathlib, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    if pathlib.Path("broken").exists():
        raise SystemExit("the project is broken")
    name = "tiny_project-1.0-py3-none-any.whl"
    info = "tiny_project-1.0.dist-info"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w") as wheel:
        metadata = ("Metadata-Version: 2.1", "Name: tiny-project", "Version: 1.0", "Provides-Extra: dev", "")
        wheel.writestr(f"{info}/METADATA", chr(10).join(metadata))
        facts = ("Wheel-Version: 1.0", "Generator: test", "Root-Is-Purelib: true", "Tag: py3-none-any", "")
        wheel.writestr(f"{info}/WHEEL", chr(10).join(facts))
        wheel.writestr("tiny_project.py", "")
        wheel.writestr(f"{info}/RECORD", "tiny_project.py,,\\n")
    return name
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the scripts and a project that installs without a network."""
    folder = tmp_path / "a checkout"
    shutil.copytree(CHECKOUT / "bin", folder / "bin")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "constraints.txt").write_text("")
    (folder / "backend.py").write_text(BACKEND)
    return folder


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script as a person does, with pip kept from any network."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    whole = {**clean, "PIP_NO_INDEX": "1", "PYTHON": sys.executable, **environment}
    return subprocess.run([script, *arguments], env=whole, capture_output=True, text=True, check=False, timeout=240)


def stand_in(folder: Path, name: str, script: str) -> str:
    """A PATH on which `name` is this shell script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.slow
def test_it_sets_up_once_and_begins_anew_after_a_break(checkout: Path) -> None:
    setup, venv = checkout / "bin" / "setup", checkout / ".venv"
    (checkout / "broken").touch()
    broken = run(setup)
    assert broken.returncode == 1
    assert "nothing half made is kept" in broken.stderr
    assert "the project is broken" in broken.stderr
    assert run(setup, "--check").returncode == 1

    (checkout / "broken").unlink()
    (venv / "left-over").touch()
    of_an_older_install = checkout / "tiny_project.egg-info"
    of_an_older_install.mkdir()
    first = run(setup)
    assert first.returncode == 0, first.stderr
    assert not (venv / "left-over").exists(), "a half-made .venv was taken for a whole one"
    assert not of_an_older_install.exists(), "its entry points would be found before the new ones"
    assert list(venv.glob("lib/python*/site-packages/tiny_project.py"))

    assert run(setup, "--check").returncode == 0
    second = run(setup, PATH="/usr/bin:/bin")
    assert (second.returncode, second.stdout) == (0, "")

    assert run(setup, "--check", "--extras", "dev").returncode == 1
    assert run(setup, "--extras", "dev").returncode == 0
    assert run(setup, "--check").returncode == 0, "an extra that was asked for once stays"

    (checkout / "constraints.txt").write_text("tiny-project==1.0\n")
    assert run(setup, "--check").returncode == 1
    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert run(moved / "bin" / "setup", "--check").returncode == 1


def test_a_python_that_is_too_old_is_named(checkout: Path, tmp_path: Path) -> None:
    script = 'case $1 in --version | -V) echo "Python 3.9.2" ;; *) exit 1 ;; esac'
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14", "python"):
        path = stand_in(tmp_path / "old", name, script)
    old = run(checkout / "bin" / "setup", PYTHON="", PATH=path)
    assert old.returncode == 1
    assert old.stderr.count("\n") == 1
    assert "needs Python 3.11 or newer; found: Python 3.9.2" in old.stderr
    named = run(checkout / "bin" / "setup", PYTHON="python3", PATH=path)
    assert named.returncode == 1
    assert "PYTHON names python3" in named.stderr
    assert not (checkout / ".venv").exists()


def test_a_full_disk_is_said_before_anything_is_made(checkout: Path, tmp_path: Path) -> None:
    path = stand_in(tmp_path / "full", "df", "printf 'Filesystem 1024-blocks Used Available\\nx 9 9 2000000\\n'")
    full = run(checkout / "bin" / "setup", PATH=path)
    assert full.returncode == 1
    assert full.stderr.count("\n") == 1
    assert "Only 2000 MB are free" in full.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("script", ["setup", "up", "test"])
def test_scripts_are_posix_and_explain_themselves(script: str) -> None:
    path = CHECKOUT / "bin" / script
    assert subprocess.run(["/bin/sh", "-n", path], check=False).returncode == 0
    shown = run(path, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"Usage: bin/{script}")


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("setup", ["--frobnicate"], "bin/setup knows no --frobnicate"),
        ("setup", ["--torch"], "--torch wants a value"),
        ("up", ["--frobnicate"], "bin/up knows no --frobnicate"),
        ("up", ["--port", "eighty"], "--port wants a number, not eighty"),
        ("up", ["--port", "70000"], "--port wants a number from 1 to 65535"),
        ("up", ["--legacy-port", ""], "--legacy-port wants a number, not ."),
        ("up", ["--home"], "--home wants a value"),
    ],
)
def test_a_wrong_argument_is_one_clear_line(script: str, arguments: list[str], sentence: str) -> None:
    done = run(CHECKOUT / "bin" / script, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
