"""A new module can't slip past the import contracts: each is either named in them or known to be open."""

import tomllib
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
OPEN_IN_MONITORING = {"monitoring.attempt", "monitoring.events", "monitoring.files", "monitoring.log_text"}
OPEN_IN_TRAINING = {
    "training.config", "training.data.rows", "training.data.specs", "training.estimate", "training.profiles",
}  # fmt: skip


def _contracts() -> list[dict[str, Any]]:
    pyproject = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    contracts: list[dict[str, Any]] = pyproject["tool"]["importlinter"]["contracts"]
    return contracts


def _modules(package: str) -> set[str]:
    """The modules of a package, and its packages as one each."""
    folder = CHECKOUT / package.replace(".", "/")
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    return {f"{package}.{name}" for name in names - {"__init__"}}


def test_every_module_of_the_agent_is_protected_or_open() -> None:
    protected = next(set(entry["protected_modules"]) for entry in _contracts() if "protected_modules" in entry)
    assert protected == _modules("monitoring") - OPEN_IN_MONITORING


def test_every_module_of_training_is_forbidden_to_the_control_plane_or_open() -> None:
    contract = next(entry for entry in _contracts() if entry["name"].startswith("Of training, the control plane"))
    modules = (_modules("training") - {"training.data"}) | _modules("training.data")
    assert set(contract["forbidden_modules"]) == modules - OPEN_IN_TRAINING
