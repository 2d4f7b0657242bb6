"""Builds the NVML stand-in and writes the file that tells it what to be."""

import shutil
import subprocess
from pathlib import Path

FAKES = Path(__file__).parent


def build_nvml(folder: Path) -> Path:
    """Compiles `nvml.c` to `libnvidia-ml.so.1` in `folder`; returns the library."""
    library = folder / "libnvidia-ml.so.1"
    compiler = shutil.which("cc")
    assert compiler, "the tests need a C compiler: apt-get install gcc"
    soname = f"-Wl,-soname,{library.name}"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", soname, "-o", library, FAKES / "nvml.c"],
        check=True,
    )
    return library


class FakeGpus:
    """The file that FAKE_NVML names: `set(count=2)`, `set_gpu(0, temperature=80)`; a later line outweighs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")

    def set(self, **values: object) -> None:
        """Sets keys of the host."""
        with self.path.open("a") as stream:
            stream.writelines(f"{key}={value}\n" for key, value in values.items())

    def set_gpu(self, index: int, **values: object) -> None:
        """Sets keys of one GPU."""
        self.set(**{f"{index}.{key}": value for key, value in values.items()})

    def uuid(self, index: int) -> str:
        """The UUID that a GPU has unless the file says otherwise."""
        return f"GPU-00000000-0000-0000-0000-{index:012d}"
