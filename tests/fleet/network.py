"""A machine behind a cable: a network namespace that a pair of virtual interfaces joins to this one."""

import os
import random
import shutil
import subprocess
from typing import Self

IP = shutil.which("ip") or "/usr/sbin/ip"


class NoNetworkError(Exception):
    """Network namespaces can't be made here; the sentence says why."""


class Cable:
    """One namespace and the link to it. `here` and `there` are the addresses of its ends."""

    def __init__(self) -> None:
        self.name = f"pilothouse-{os.getpid()}"
        self._link = f"ph{os.getpid() % 1_000_000}"
        net = random.randrange(1, 250)
        self.here, self.there = f"10.254.{net}.1", f"10.254.{net}.2"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with to run there."""
        return IP, "netns", "exec", self.name

    def __enter__(self) -> Self:
        """Raises NoNetworkError."""
        try:
            _ip("netns", "add", self.name)
            _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            _ip("address", "add", f"{self.here}/30", "dev", self._link)
            _ip("link", "set", self._link, "up")
            for words in (("address", "add", f"{self.there}/30", "dev", "eth0"), ("link", "set", "eth0", "up"),
                          ("link", "set", "lo", "up"), ("route", "add", "default", "via", self.here)):  # fmt: skip
                _ip("-n", self.name, *words)
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            said = getattr(error, "stderr", b"") or str(error).encode()
            raise NoNetworkError(f"no network namespaces here: {said.decode().strip()}") from error
        return self

    def __exit__(self, *_error: object) -> None:
        for words in (("link", "del", self._link), ("netns", "del", self.name)):
            subprocess.run([IP, *words], capture_output=True, check=False)

    def cut(self) -> None:
        """Nothing passes, and nobody is told so."""
        _ip("link", "set", self._link, "down")

    def heal(self) -> None:
        """As before."""
        _ip("link", "set", self._link, "up")


def _ip(*words: str) -> None:
    subprocess.run([IP, *words], capture_output=True, check=True)
