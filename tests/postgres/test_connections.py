"""Who holds a connection of the pool: nobody who waits, nobody who sends for minutes."""

import threading

import pytest
from django.db import connection, transaction
from django.db.utils import OperationalError

from controlplane import threads
from controlplane.kept_connections import give_back, keep_sound
from controlplane.models import Setting
from controlplane.outage import away
from tests.factories import make_client, make_dataset

pytestmark = pytest.mark.usefixtures("committed")


def lent() -> int:
    """How many connections are out of the pool."""
    stats = connection.pool.get_stats()  # type: ignore[attr-defined] # the PostgreSQL back end's
    return int(stats["pool_size"] - stats["pool_available"])


def ask_once() -> None:
    """One question."""
    Setting.objects.count()


def test_a_thread_that_waits_between_two_rounds_holds_none() -> None:
    Setting.objects.count()
    assert lent() == 1
    keep_sound()
    assert lent() == 0
    with transaction.atomic():
        give_back()
        assert lent() == 1, "not within a transaction"


def test_a_thread_that_ends_holds_none() -> None:
    connection.close()
    threads.begin("asks", ask_once).join(20)
    assert lent() == 0


def test_a_pool_that_is_all_lent_is_said_as_the_server_being_away() -> None:
    pool = connection.pool  # type: ignore[attr-defined]
    connection.close()
    taken = [pool.getconn() for _ in range(pool.max_size)]
    patience, pool.timeout = pool.timeout, 0.2
    said: list[OperationalError] = []

    def ask() -> None:
        try:
            Setting.objects.count()
        except OperationalError as error:
            said.append(error)

    try:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(20)
    finally:
        pool.timeout = patience
        for each in taken:
            pool.putconn(each)
    unavailable = away(said[0])
    assert unavailable is not None
    assert unavailable.status_code == 503


def test_a_download_holds_none_while_it_is_sent() -> None:
    dataset = make_dataset()
    dataset.folder.mkdir(parents=True, exist_ok=True)
    (dataset.folder / "rows.jsonl").write_text('{"text": "x"}\n')
    response = make_client("read").get(f"/api/datasets/{dataset.pk}/download")
    assert response.streaming
    assert lent() == 0
