"""An environment of a peer's own, made by a benchmark: the peer's packages there, everything that both need from ours.

So both sides compute with the very same torch and transformers, and nothing of the peer's comes into ours. A peer that
computes nothing, and pins versions that aren't ours, is `alone`.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from tests.product import CHECKOUT


def make(folder: Path, packages: Sequence[str], *, alone: bool = False) -> Path:
    """Makes the environment in `folder` and installs `packages` (pip's own names); returns its Python.

    Raises subprocess.CalledProcessError when pip can't (it prints why), as without network.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not alone:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        shared = folder / "lib" / version / "site-packages" / "shared.pth"
        shared.write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
        pip += ["--constraint", str(CHECKOUT / "constraints.txt")]
    subprocess.run([*pip, *packages], check=True, env=os.environ)
    return python
