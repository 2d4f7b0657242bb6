"""Fixtures of the control plane's tests."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from controlplane.services import engine_http, inbox_files, inbox_work, usage


@pytest.fixture
def home(tmp_path: Path, settings: Settings) -> Path:
    """A home folder of the test's own."""
    folder = tmp_path / "home"
    for name in ("tmp", "logs"):
        (folder / name).mkdir(parents=True)
    settings.HOME = folder
    return folder


@pytest.fixture(autouse=True)
def quick_pages(settings: Settings) -> None:
    """Pages name their static files without a collected manifest, and logging in costs no second of hashing."""
    settings.STORAGES = {
        **settings.STORAGES, "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }  # fmt: skip
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def no_connections_left() -> Iterator[None]:
    """Django's test client has an event loop for each request, which tells nobody of its end."""
    yield
    if engine_http._sessions:
        asyncio.run(engine_http.end_connections())


@pytest.fixture(autouse=True)
def nothing_noted() -> None:
    """What other tests' requests took belongs to them."""
    usage.ledger._fresh.clear()


@pytest.fixture
def inbox_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inbox of a process that has just started. Nothing watches it: each round looks by itself."""
    monkeypatch.setattr(inbox_work, "_looked_at", {})
    monkeypatch.setattr(inbox_work._watch, "watch", lambda _folder: None)
    inbox_files.make_folders()
    return home / "inbox"
