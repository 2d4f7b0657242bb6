"""Curves as files: each point once and whole, in forms that other programs read."""

import csv
import io
import math
import struct
from collections.abc import Iterator

import pytest

from controlplane.services import curve_export, curves
from tests.controlplane.page_reading import whole
from tests.factories import make_client, make_run

pytestmark = pytest.mark.django_db
KEY = 'eval/"a", <b>'


def crc(data: bytes) -> int:
    """CRC-32C bit by bit, masked as in TensorFlow's records: the definition, not the code's table."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data: bytes) -> Iterator[bytes]:
    while data:
        (length,), (of_length,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        body, (of_body,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert (of_length, of_body) == (crc(data[:8]), crc(body))
        yield body
        data = data[16 + length :]


def varint(data: bytes) -> tuple[int, bytes]:
    number = 0
    for place, byte in enumerate(data):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number & (2**64 - 1), data[place + 1 :]
    raise AssertionError("an endless number")


def fields(data: bytes) -> dict[int, object]:
    """A message of a protocol buffer by its fields' numbers."""
    found: dict[int, object] = {}
    while data:
        tag, data = varint(data)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            found[number], data = varint(data)
        elif kind == 1:
            found[number], data = struct.unpack("<d", data[:8])[0], data[8:]
        elif kind == 5:
            found[number], data = struct.unpack("<f", data[:4])[0], data[4:]
        else:
            assert kind == 2
            length, data = varint(data)
            found[number], data = data[:length], data[length:]
    return found


def part(message: dict[int, object], number: int) -> dict[int, object]:
    inner = message[number]
    assert isinstance(inner, bytes)
    return fields(inner)


def test_the_known_check_value_of_the_sum() -> None:
    assert crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_an_event_file_has_each_point_as_tensorboard_reads_it() -> None:
    run = make_run()
    curves.append(run, KEY, [(1, 0.5, 1000.25), (2**40, -2.0, 1001.5), (2**41, math.nan, 1002.0)])
    curves.append(run, "x" * 200, [(7, 1e300, 1003.0)])
    first, *events = [fields(body) for body in records(b"".join(curve_export.event_pieces(run, curves.keys(run))))]
    assert first[3] == b"brain.Event:2"
    assert [(event[1], event[2]) for event in events] == [
        (1000.25, 1), (1001.5, 2**40), (1002.0, 2**41), (1003.0, 7)
    ]  # fmt: skip
    values = [part(part(event, 5), 1) for event in events]
    assert [value[1] for value in values] == [KEY.encode()] * 3 + [b"x" * 200]
    assert [value[2] for value in values[:2]] == [0.5, -2.0]
    assert str(values[2][2]) == "nan"
    assert values[3][2] == math.inf


def test_files_over_the_api_hold_every_point_of_the_keys_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channels.db.close_old_connections", lambda: None)  # they would close the one transaction's
    run, client = make_run(), make_client("read")
    curves.append(run, KEY, [(step, step / 4, 1000.0 + step) for step in range(1, 20_001)])
    curves.append(run, "loss", [(1, math.nan, 1.0), (2, math.inf, 2.0)])
    answer = client.get(f"/api/runs/{run.pk}/metrics.csv")
    assert f'filename="run-{run.pk}.csv"' in answer.headers["Content-Disposition"]
    rows = list(csv.reader(io.StringIO(whole(answer).decode())))
    assert rows[0] == ["key", "step", "value", "time"]
    assert rows[1:20_001] == [[KEY, str(step), str(step / 4), str(1000.0 + step)] for step in range(1, 20_001)]
    assert rows[20_001:] == [["loss", "1", "NaN", "1.0"], ["loss", "2", "Infinity", "2.0"]]
    one = whole(client.get(f"/api/runs/{run.pk}/metrics.csv", {"keys": "loss"})).decode()
    assert one.count("\n") == 3
    events = client.get(f"/api/runs/{run.pk}/metrics.tfevents", {"keys": "loss"})
    assert "events.out.tfevents." in events.headers["Content-Disposition"]
    assert len(list(records(whole(events)))) == 3
    assert client.get("/api/runs/999999/metrics.csv").status_code == 404
