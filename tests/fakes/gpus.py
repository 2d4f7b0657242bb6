"""Builds the NVML stand-in and writes the file that tells it what to be."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from monitoring.cards import REASONS

FAKES = Path(__file__).parent


def build_nvml(folder: Path) -> Path:
    """Compiles `nvml.c` to `libnvidia-ml.so.1` in `folder`; returns the library."""
    library = folder / "libnvidia-ml.so.1"
    compiler = shutil.which("cc")
    assert compiler, "the tests need a C compiler: apt-get install gcc"
    soname = f"-Wl,-soname,{library.name}"
    subprocess.run(
        [
            compiler,
            "-shared",
            "-fPIC",
            "-O1",
            "-pthread",
            "-Wall",
            "-Wextra",
            "-Werror",
            soname,
            "-o",
            library,
            FAKES / "nvml.c",
        ],
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

    def set_power_curve(self, index: int, points: Sequence[tuple[float, float]]) -> None:
        """What a GPU draws over time: (Unix seconds, watts), straight lines between them."""
        self.set_gpu(index, power_curve=",".join(f"{moment:.3f}:{watts * 1000:.0f}" for moment, watts in points))

    def set_processes(self, index: int, memory_of_pid: Mapping[int, int]) -> None:
        """Which processes hold how many bytes of a GPU's memory."""
        self.set_gpu(index, processes=",".join(f"{pid}:{used}" for pid, used in memory_of_pid.items()))

    def set_process_use(self, index: int, *samples: tuple[int, int, int]) -> None:
        """Samples of who keeps a GPU's multiprocessors busy: pid, percent, and how many milliseconds ago."""
        self.set_gpu(index, process_use=",".join(f"{pid}:{percent}:{age}" for pid, percent, age in samples))

    def set_throttle_reasons(self, index: int, *reasons: str) -> None:
        """The clocks-event reasons in force, in the words of `monitoring.cards.REASONS`."""
        bits = {name: bit for bit, name in REASONS.items()}
        self.set_gpu(index, reasons=sum(bits[name] for name in reasons))

    def lose(self, index: int, *, lost: bool = True) -> None:
        """A GPU falls off the bus, or is back."""
        self.set_gpu(index, lost=int(lost))

    def hang(self, *calls: str) -> None:
        """These NVML calls don't return until others (or none) are named."""
        self.set(hang=",".join(calls))

    def uuid(self, index: int) -> str:
        """The UUID that a GPU has unless the file says otherwise."""
        return f"GPU-00000000-0000-0000-0000-{index:012d}"
