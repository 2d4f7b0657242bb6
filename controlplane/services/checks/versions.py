"""Whether what is installed is what is needed. Runs in commands and in the web process; imports none of it."""

import importlib.util
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from controlplane.services.checks.finding import Check, Finding

SECONDS = 10.0
SHOWN = ("pilothouse", "torch", "transformers", "django")
CUDA_OF_TORCH = re.compile(r"^cuda(?:: [^=]+)? = '([0-9.]+)'", re.MULTILINE)


def check() -> Check:
    """Python and the packages that pyproject.toml asks for."""
    return Check("versions", SECONDS, lambda: [_python(), _packages()])


def _python() -> Finding:
    found = f"Python {platform.python_version()}."
    if tuple(map(int, platform.python_version_tuple()[:2])) < (3, 11):
        return Finding("python", "fail", found, "Pilothouse needs 3.11 or newer: PYTHON=/path/to/python3.11 bin/setup.")
    return Finding("python", "ok", found)


def _packages() -> Finding:
    wrong = [fault for text in requires("pilothouse") or () if (fault := _fault(Requirement(text)))]
    if wrong:
        return Finding("packages", "fail", f"Not as needed: {'; '.join(wrong)}.", "Run bin/setup.")
    return Finding("packages", "ok", ", ".join(f"{name} {version(name)}" for name in SHOWN) + ".")


def _fault(needed: Requirement) -> str | None:
    """What is wrong with a package; None where it is as needed, or belongs to an extra."""
    if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
        return None
    try:
        present = version(needed.name)
    except PackageNotFoundError:
        return f"{needed.name} is missing"
    if needed.specifier.contains(present, prereleases=True):
        return None
    return f"{needed.name} is {present}, wanted {needed.specifier}"


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for, or None (no torch, or one for processors)."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "version.py"
    found = CUDA_OF_TORCH.search(path.read_text()) if path.exists() else None
    return found[1] if found else None


def cuda(name: str, driver_cuda: str | None, gpus: Sequence[str], built_for: str | None) -> Finding:
    """Whether a host's driver can run the torch of this machine: CUDA's minor versions are compatible, majors not.

    `driver_cuda`: the newest CUDA that the driver knows; `gpus`: the names of its cards.
    """
    if not gpus:
        return Finding(name, "ok", "No GPU, so torch runs on the processor.")
    if built_for is None:
        fix = 'Install a CUDA build: bin/setup --torch "torch==VERSION --index-url https://download.pytorch.org/whl/cu126".'
        return Finding(name, "warn", f"torch is built for processors, and {len(gpus)} GPUs lie idle.", fix)
    if driver_cuda is None:
        return Finding(name, "warn", f"torch is built for CUDA {built_for}; the driver doesn't tell what it knows.",
                       "Look at nvidia-smi's first lines; update a driver that tells no CUDA version.")  # fmt: skip
    found = f"torch is built for CUDA {built_for}; the driver knows CUDA up to {driver_cuda}."
    if int(built_for.partition(".")[0]) > int(driver_cuda.partition(".")[0]):
        fix = "Update the driver, or install a torch for the driver's CUDA: bin/setup --torch SPEC."
        return Finding(name, "fail", found, fix)
    return Finding(name, "ok", found)
