"""The back end's promises: what services rely on since SQLite keeps it, PostgreSQL keeps too."""

import threading
from collections.abc import Callable

import pytest
from django.db import connection, transaction
from django.db.utils import DatabaseError, OperationalError

from controlplane.models import Host, Setting
from tests.factories import make_host, make_job
from tests.product import wait_for


def in_thread(work: Callable[[], None]) -> threading.Thread:
    """Runs it in a thread with a connection of its own."""

    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def waiting_for_the_lock() -> bool:
    """Whether somebody waits for the lock of transactions."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return cursor.fetchone() is not None


def count_up() -> None:
    """Reads a figure, then writes the next: two who do so at once lose one, unless one waits for the other."""
    with transaction.atomic():
        row = Setting.objects.get(key="count")
        Setting.objects.filter(key="count").update(value=row.value + 1)


def test_of_two_transactions_one_waits_for_the_other(committed: None) -> None:
    Setting.objects.create(key="count", value=0)
    with transaction.atomic():
        row = Setting.objects.get(key="count")
        other = in_thread(count_up)
        wait_for("the other to wait", waiting_for_the_lock, 20)
        Setting.objects.filter(key="count").update(value=row.value + 1)
    other.join(20)
    assert Setting.objects.get(key="count").value == 2


def test_who_stands_still_in_a_transaction_loses_it(committed: None) -> None:
    with pytest.raises(DatabaseError, match="idle-in-transaction"), transaction.atomic():
        Setting.objects.create(key="never", value=1)
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
        broken = connection.connection
        wait_for("the server to end it", lambda: _is_ended(broken), 20)
        Setting.objects.count()
    connection.close()
    assert not Setting.objects.exists()


def _is_ended(raw: object) -> bool:
    """Asks the server from another connection: a question over this one would keep it alive."""
    pid = raw.info.backend_pid  # type: ignore[attr-defined]
    found: list[bool] = []

    def look() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid])
            found.append(cursor.fetchone() is None)

    in_thread(look).join(10)
    return found == [True]


def test_a_transaction_that_could_not_begin_leaves_a_sound_connection(committed: None) -> None:
    held, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            held.set()
            enough.wait(20)

    other = in_thread(hold)
    assert held.wait(20)
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '50ms'")
    with pytest.raises(OperationalError, match="lock timeout"), transaction.atomic():
        pass
    assert connection.get_autocommit()
    assert Setting.objects.count() == 0
    enough.set()
    other.join(20)


@pytest.mark.django_db
@pytest.mark.parametrize("text", ["a\0b", "\0", "\ud83d half", "C:\\u0000 as it stands"])
def test_texts_that_it_can_store_nowhere_are_stored_with_a_mark(text: str) -> None:
    wanted = text.replace("\0", "�").replace("\ud83d", "�")
    row = Setting.objects.create(key="texts", value={text: [text, {"deep": text}]})
    row.refresh_from_db()
    assert row.value == {wanted: [wanted, {"deep": wanted}]}
    if "\ud83d" not in text:  # neither can SQLite
        job = make_job(title=text)
        job.refresh_from_db()
        assert job.title == wanted


@pytest.mark.django_db
def test_texts_and_numbers_are_as_large_as_they_are() -> None:
    job = make_job(title="long " * 200, waiting_reason="because " * 200, attempt_count=1 << 40)
    job.refresh_from_db()
    assert (len(job.title), len(job.waiting_reason), job.attempt_count) == (1000, 1600, 1 << 40)
    host = make_host(name="h" * 500)
    assert Host.objects.get(name="h" * 500) == host
