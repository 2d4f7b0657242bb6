"""A snapshots' address that hangs costs one thread, and nobody but the first who asks waits for it."""

import os
import threading
from pathlib import Path

import pytest

from controlplane.errors import UnavailableError
from controlplane.models.access import SYSTEM
from controlplane.services import settings, snapshot_looks, snapshots
from tests.product import wait_for

pytestmark = pytest.mark.django_db


def lookers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "look at snapshots"]


def test_a_hanging_address_is_asked_once(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.put(SYSTEM, "snapshots.address", str(tmp_path / "away"))
    monkeypatch.setattr(snapshot_looks, "LOOK_SECONDS", 0.1)
    hanging = tmp_path / "away" / "snapshots" / "20260101T000000Z.json"
    hanging.parent.mkdir(parents=True)
    os.mkfifo(hanging)  # whoever opens it to read waits for a writer, as in a dead share
    with pytest.raises(UnavailableError, match="not answered within"):
        snapshots.list_snapshots()
    for _ in range(3):
        with pytest.raises(UnavailableError, match="hangs"):
            snapshots.list_snapshots()
    (looker,) = lookers()
    assert looker.daemon, "it doesn't keep the server from ending"
    other = str(tmp_path / "elsewhere")
    assert snapshot_looks.within_deadline(other, lambda place: place.names()) == [], "another address is another matter"

    hanging.open("w").close()
    wait_for("the look's end", lambda: not lookers(), 10)
    hanging.unlink()
    assert snapshots.list_snapshots() == []
