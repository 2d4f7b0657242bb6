"""The id of a home: made once, the same for all who ask, made anew where the file holds none."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from monitoring.home_id import HOME_ID_FILE, home_id


def test_a_home_keeps_its_id(tmp_path: Path) -> None:
    first = home_id(tmp_path / "new" / "home")
    assert len(first) == 32
    assert home_id(tmp_path / "new" / "home") == first
    assert home_id(tmp_path / "other") != first


def test_all_who_ask_at_once_get_one_id(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(home_id, [tmp_path] * 32))
    assert len(found) == 1
    assert [path.name for path in tmp_path.iterdir()] == [HOME_ID_FILE]


def test_a_file_that_holds_no_id_is_replaced(tmp_path: Path) -> None:
    (tmp_path / HOME_ID_FILE).write_text("")
    assert home_id(tmp_path) == home_id(tmp_path) != ""
