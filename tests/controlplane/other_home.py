"""A host with a home of its own, on this machine: its files are real, its agent is played.

other = OtherHome.make(tmp_path / "other")     # a row, a home with an id, a carrier
other.damage = 1                               # the next block that it takes arrives damaged
other.is_away = True                           # its agent doesn't answer
"""

import base64
from pathlib import Path
from typing import Any

import pytest

from controlplane import carrying, dispatch
from controlplane.fleet.files import Library
from controlplane.fleet.protocol import FileBlock, HostUnreachableError, Item
from controlplane.models import Host
from controlplane.services import copies
from monitoring.home_id import home_id
from tests.controlplane.hosts import AbsentHost
from tests.factories import make_host


class OtherFiles(Library):
    """The files of the other home, with whatever goes wrong on the way."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.is_away = False
        self.damage = 0
        self.blocks = 0
        self.away_after_blocks: int | None = None

    def _ask(self, call: str, args: dict[str, Any], timeout_seconds: float = 0.0) -> Any:
        if self.is_away or (self.away_after_blocks is not None and self.blocks >= self.away_after_blocks):
            raise HostUnreachableError("The agent doesn't answer.")
        return super()._ask(call, args, timeout_seconds)

    def write_block(self, item: Item, number: int, offset: int, block: FileBlock) -> int:
        """Takes a block, or a damaged one."""
        if self.damage:
            self.damage -= 1
            raw = bytearray(base64.b64decode(block["data"]))
            raw[0] ^= 1
            block = {**block, "data": base64.b64encode(raw).decode()}
        held = super().write_block(item, number, offset, block)
        self.blocks += 1
        return held


class OtherHome(AbsentHost):
    """The host's agent: it launches nothing, and its files are there."""

    def __init__(self, home: Path, host: Host) -> None:
        super().__init__()
        self.home = home
        self.host = host
        self.files = OtherFiles(home)

    @classmethod
    def make(cls, home: Path, monkeypatch: pytest.MonkeyPatch, name: str = "ant") -> "OtherHome":
        """The host, met and in reach."""
        (home / "tmp").mkdir(parents=True)
        host = make_host(name)
        host.facts = {**host.facts, "home": str(home), "home_id": home_id(home)}
        host.home_id = host.facts["home_id"]
        host.save()
        other = cls(home, host)
        for module in (carrying, copies, dispatch):
            monkeypatch.setattr(module, "carrier", lambda _host: other)
        return other
