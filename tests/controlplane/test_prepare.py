"""What `manage.py prepare` does and is made of: collected static files, the names of this machine, refusals."""

import io
import os
import shutil
import socket
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from controlplane.addresses import names_of
from controlplane.collecting import collect_if_changed
from controlplane.models import LanguageModel, User
from controlplane.settings import STORAGES

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def sources(tmp_path: Path, home: Path, settings: Settings) -> Path:
    """One small source of static files, and a home to collect into."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "a.css").write_text("p { color: red }")
    settings.STATICFILES_DIRS = [folder]
    settings.STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    settings.STATIC_ROOT = home / "static"
    settings.STORAGES = STORAGES  # the product's own, which name each file by its content
    return folder


def test_static_files_are_collected_when_a_source_has_changed(sources: Path, home: Path) -> None:
    assert collect_if_changed(home)
    assert not collect_if_changed(home)
    (sources / "b.css").write_text("p { color: blue }")
    os.utime(sources / "b.css", (1, 1))
    assert collect_if_changed(home)
    assert len(list((home / "static").glob("b.*.css"))) == 1
    shutil.rmtree(home / "static")
    assert collect_if_changed(home), "a stamp without the files is worth nothing"


def test_a_machine_is_called_by_its_names_and_addresses() -> None:
    everywhere = names_of("0.0.0.0")  # noqa: S104 - nothing is bound
    assert socket.gethostname() in everywhere
    assert {"127.0.0.1"} <= set(everywhere)
    assert names_of("::1")[0].startswith("["), "an IPv6 address is bracketed, as in a browser's address bar"
    assert "192.0.2.7" in names_of("192.0.2.7")


@pytest.mark.django_db
def test_it_refuses_before_anything_is_done(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CommandError, match="can't be used"):
            call_command("prepare", port=other.getsockname()[1])
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 10**12, 5 * 10**8))
    with pytest.raises(CommandError, match=r"Only 0\.5 GB are free"):
        call_command("prepare")
    assert not User.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_first_start_and_the_second(home: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    monkeypatch.setattr("controlplane.management.commands.prepare.ensure_agent", started.append)
    monkeypatch.delenv("PILOTHOUSE_STARTER", raising=False)
    first, second = io.StringIO(), io.StringIO()
    call_command("prepare", stdout=first)
    call_command("prepare", stdout=second)
    password = (home / "admin-password").read_text().partition("password: ")[2].strip()
    assert User.objects.get().check_password(password)
    assert password in first.getvalue()
    assert password not in second.getvalue()
    assert [model.name for model in LanguageModel.objects.all()] == ["smollm2-135m-instruct"]
    assert started == [home, home]

    LanguageModel.objects.all().delete()
    call_command("prepare", stdout=io.StringIO())
    assert not LanguageModel.objects.exists(), "a model that was deleted does not come back"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("by", ["option", "environment"])
def test_no_model_is_fetched_where_none_is_wanted(
    by: str, home: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.management.commands.prepare.ensure_agent", lambda _home: None)
    monkeypatch.setenv("PILOTHOUSE_STARTER", "none" if by == "environment" else "")
    call_command("prepare", no_starter=by == "option", stdout=io.StringIO())
    assert User.objects.exists()
    assert not LanguageModel.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_journal_gets_no_password(home: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.management.commands.prepare.ensure_agent", lambda _home: None)
    said = io.StringIO()
    call_command("prepare", no_starter=True, no_password=True, stdout=said)
    password = (home / "admin-password").read_text().partition("password: ")[2].strip()
    assert password not in said.getvalue()
    assert str(home / "admin-password") in said.getvalue()
