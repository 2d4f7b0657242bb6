"""Compressed logs: unpacked once for many pages, within bounds, and given back."""

import gzip
import shutil
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from monitoring import unpacked_logs
from monitoring.log_pages import Wanted, read_page
from monitoring.unpacked_logs import UnpackedLogs
from monitoring.wire import AgentFaultError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which files were unpacked."""
    seen: list[Path] = []
    real = gzip.open

    def noting(path: Path, mode: str) -> Any:
        seen.append(path)
        return real(path, mode)

    monkeypatch.setattr(gzip, "open", noting)
    return seen


def pack(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_pages_of_one_log_unpack_it_once(tmp_path: Path, opened: list[Path]) -> None:
    packed = pack(tmp_path / "log.txt.gz", "".join(f"line {number}\n" for number in range(100)))
    page = read_page(tmp_path / "log.txt", Wanted(10), ended=True)
    older = read_page(tmp_path / "log.txt", Wanted(10), before=page["start"], ended=True)
    assert [line["number"] for line in older["lines"]] == list(range(81, 91))
    assert opened == [packed]
    assert list(tmp_path.iterdir()) == [packed]
    pack(packed, "another\n")
    assert [line["text"] for line in read_page(tmp_path / "log.txt", Wanted(10), ended=True)["lines"]] == ["another"]
    assert opened == [packed, packed]


def test_two_who_look_at_once_have_their_own_places(tmp_path: Path) -> None:
    packed, logs = pack(tmp_path / "log.txt.gz", "abcdef"), UnpackedLogs()
    with logs.open(packed) as one, logs.open(packed) as other:
        assert (one.read(2), other.read(3), one.read()) == (b"ab", b"abc", b"cdef")


def test_one_that_nobody_looks_at_is_given_back(tmp_path: Path) -> None:
    logs = UnpackedLogs(kept_seconds=0.01)
    with logs.open(pack(tmp_path / "log.txt.gz", "abc")) as stream:
        deadline = time.monotonic() + 10
        while logs.holds_one and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not logs.holds_one
        assert stream.read() == b"abc"


def test_one_that_is_too_large_is_for_downloading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Path]
) -> None:
    packed = pack(tmp_path / "log.txt.gz", "x" * 50_000)
    monkeypatch.setattr(unpacked_logs, "MOST_BYTES", 1000)
    with pytest.raises(AgentFaultError, match="too much for looking through") as refused:
        UnpackedLogs().open(packed)
    assert (refused.value.fault["code"], opened) == ("log_too_large", [])
    monkeypatch.setattr(unpacked_logs, "BLOCK_BYTES", 500)
    packed.write_bytes(packed.read_bytes()[:-4] + b"\0\0\0\0")  # as one of 4 GiB tells it
    with pytest.raises(AgentFaultError, match="too much for looking through"):
        UnpackedLogs().open(packed)


def test_without_room_on_the_disk_nothing_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Path]
) -> None:
    packed = pack(tmp_path / "log.txt.gz", "abc")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1 << 40, 1 << 40, 1000))
    with pytest.raises(AgentFaultError, match="no room on its host's disk") as refused:
        UnpackedLogs().open(packed)
    assert (refused.value.fault["code"], opened) == ("disk_full", [])
