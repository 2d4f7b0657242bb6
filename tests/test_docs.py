"""What the docs must name, they name; what they link to is there."""

import os
import re
from pathlib import Path

import pytest

from controlplane.services.settings import DEFAULTS

CHECKOUT = Path(__file__).resolve().parent.parent
GUIDES = sorted(CHECKOUT.glob("docs/*.md"))
PAGES = [*GUIDES, CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md"]
CODE = ("bin", "controlplane", "inference", "monitoring", "training", "deploy")
VARIABLE = re.compile(r"\bPILOTHOUSE_[A-Z_]*[A-Z]\b")
READ_FROM_ENVIRONMENT = re.compile(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"")
NOT_VARIABLES = {"PILOTHOUSE_POWER"}
"""A name in the sudoers file."""


def _text_of_guides() -> str:
    return "\n".join(path.read_text() for path in GUIDES)


def _code() -> list[str]:
    files = [path for folder in CODE for path in (CHECKOUT / folder).rglob("*") if path.is_file()]
    return [path.read_text() for path in files if path.suffix in {"", ".py", ".service", ".sudoers"}]


@pytest.mark.parametrize("key", DEFAULTS)
def test_every_setting_is_in_the_docs(key: str) -> None:
    assert f"`{key}`" in _text_of_guides()


def test_every_management_command_is_in_the_docs() -> None:
    commands = {path.stem for path in (CHECKOUT / "controlplane/management/commands").glob("[!_]*.py")}
    assert commands
    docs = _text_of_guides()
    assert [name for name in sorted(commands) if f"manage.py {name}" not in docs] == []


def test_every_environment_variable_is_in_the_docs() -> None:
    code = "\n".join(_code())
    names = {*VARIABLE.findall(code), *READ_FROM_ENVIRONMENT.findall(code)} - NOT_VARIABLES - {"PATH"}
    assert "PILOTHOUSE_HOME" in names
    docs = _text_of_guides()
    assert [name for name in sorted(names) if f"`{name}`" not in docs] == []


def test_every_extra_is_in_the_docs() -> None:
    pyproject = (CHECKOUT / "pyproject.toml").read_text()
    section = pyproject.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", section, re.MULTILINE)
    assert "ray" in extras
    docs = _text_of_guides()
    assert [name for name in extras if f"`{name}`" not in docs] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("name", ["up", "test", "setup"])
def test_scripts_are_executable(name: str) -> None:
    assert os.access(CHECKOUT / "bin" / name, os.X_OK)


def test_operations_lists_its_sections() -> None:
    """A section that is added is added to the contents too, in its place."""
    text = (CHECKOUT / "docs" / "operations.md").read_text()
    contents, _, rest = text.partition("\n## ")
    sections = re.findall(r"^## (.+)$", f"## {rest}", re.MULTILINE)
    assert re.findall(r"^- \[(.+)\]\(#", contents, re.MULTILINE) == sections
