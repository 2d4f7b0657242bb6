"""What is used again is never from before a change: of this process or another, committed, and on SQLite alone."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from controlplane.models import Setting
from controlplane.recall import Memory, Watch

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        "sqlite" not in connections.settings[DEFAULT_DB_ALIAS]["ENGINE"], reason="only SQLite tells of commits"
    ),
]
OTHER_PROCESS = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1], timeout=20).executescript(sys.argv[2]))"
OTHER_PROCESS_OF_POSTGRES = "import psycopg, sys; psycopg.connect(sys.argv[1], autocommit=True).execute(sys.argv[2])"


def elsewhere(sql: str) -> None:
    """Another process changes the data base."""
    database = connections[DEFAULT_DB_ALIAS]
    if database.vendor == "sqlite":
        command, place = OTHER_PROCESS, str(connections.settings[DEFAULT_DB_ALIAS]["NAME"])
    else:
        command, place = OTHER_PROCESS_OF_POSTGRES, database.connection.info.dsn
    subprocess.run([sys.executable, "-c", command, place, sql], check=True, timeout=60, capture_output=True)


def put(value: int) -> None:
    Setting.objects.update_or_create(key="power.restore_at_stop", defaults={"value": value})


def value() -> Any:
    return Setting.objects.get(key="power.restore_at_stop").value


@pytest.fixture
def watch() -> Iterator[Watch]:
    """A watch of the test's own."""
    put(1)
    one = Watch()
    yield one
    one.close()


def test_every_commit_is_seen_whoever_makes_it(watch: Watch) -> None:
    first = watch.mark()
    assert first is not None
    assert watch.mark() == first
    assert value() == 1
    assert watch.mark() == first, "looking changes nothing"
    with transaction.atomic():
        put(2)
        assert watch.mark() == first, "what isn't committed isn't there"
    second = watch.mark()
    assert second != first
    elsewhere("UPDATE controlplane_setting SET value = '3'")
    assert watch.mark() not in (first, second)


def test_an_answer_is_used_again_until_something_changes(watch: Watch) -> None:
    asked: list[Any] = []

    def ask() -> Any:
        asked.append(value())
        return asked[-1]

    async def work() -> list[Any]:
        memory = Memory(watch)
        told = [await memory.told("it", ask), await memory.told("it", ask)]
        await asyncio.to_thread(elsewhere, "UPDATE controlplane_setting SET value = '5'")
        told += [await memory.told("it", ask), await memory.told("it", ask)]
        return [*told, await memory.told("it", ask, lambda answer: answer != 5)]

    assert asyncio.run(work()) == [1, 1, 5, 5, 5]
    assert asked == [1, 5, 5], "one that is no longer good is asked for anew"


def test_those_who_ask_at_once_share_an_answer_and_nobody_one_from_before_a_change(watch: Watch) -> None:
    asked = []

    async def work() -> list[Any]:
        memory = Memory(watch)
        go_on, loop = asyncio.Event(), asyncio.get_running_loop()

        def ask() -> Any:
            asked.append(value())
            told = asked[-1]
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(20)
            return told

        early = [asyncio.create_task(memory.told("it", ask)) for _ in range(3)]
        async with asyncio.timeout(20):
            while not asked:  # noqa: ASYNC110 - a thread rings no bell of ours
                await asyncio.sleep(0.01)
        early[0].cancel()
        await asyncio.to_thread(put, 7)
        late = asyncio.create_task(memory.told("it", ask))
        await asyncio.sleep(0)
        go_on.set()
        return [*(await asyncio.gather(*early[1:])), await late, await memory.told("it", ask)]

    assert asyncio.run(work()) == [1, 1, 7, 7]
    assert asked == [1, 7]


def test_neither_an_error_nor_nothing_is_kept(watch: Watch) -> None:
    answers = iter([None, ZeroDivisionError, 4])

    def ask() -> int | None:
        answer = next(answers)
        if isinstance(answer, type):
            raise answer
        return answer

    async def work() -> int | None:
        memory = Memory(watch)
        assert await memory.told("it", ask) is None
        with pytest.raises(ZeroDivisionError):
            await memory.told("it", ask)
        return await memory.told("it", ask)

    assert asyncio.run(work()) == 4


def test_without_such_a_mark_each_asks(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings, DEFAULT_DB_ALIAS, {"ENGINE": "postgresql", "NAME": "x"})
    answers = iter([1, 2])

    async def work() -> list[Any]:
        memory = Memory(watch)
        return [await memory.told("it", partial(next, answers)) for _ in range(2)]

    assert asyncio.run(work()) == [1, 2]


def test_a_data_base_put_in_the_place_of_another_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("now", "then"):
        with sqlite3.connect(tmp_path / name) as made:
            made.execute("CREATE TABLE kept (it)")
        made.close()
    settings = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "now")}
    monkeypatch.setitem(connections.settings, DEFAULT_DB_ALIAS, settings)
    watch = Watch()
    try:
        first = watch.mark()
        assert first is not None
        assert watch.mark() == first
        (tmp_path / "then").replace(tmp_path / "now")
        assert watch.mark() not in (first, None)
        (tmp_path / "now").unlink()
        assert watch.mark() is None
    finally:
        watch.close()
