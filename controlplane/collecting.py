"""Static files are collected when, and only when, one of their sources has changed. Runs in `manage.py prepare`.

Collecting compresses each file, which takes seconds; looking whether it must be done takes milliseconds.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command

from monitoring.files import write_bytes

STAMP_FILE = "static.stamp"


def collect_if_changed(home: Path) -> bool:
    """Brings `home/static` up to date; returns whether there was anything to do."""
    stamp = home / STAMP_FILE
    wanted = _fingerprint()
    if stamp.exists() and stamp.read_bytes() == wanted and Path(settings.STATIC_ROOT).is_dir():
        return False
    stamp.unlink(missing_ok=True)
    call_command("collectstatic", interactive=False, verbosity=0, clear=Path(settings.STATIC_ROOT).is_dir())
    write_bytes(stamp, wanted)
    return True


def _fingerprint() -> bytes:
    """A hash over name, size and time of change of every source, and over how they are stored."""
    digest = hashlib.sha256(repr(settings.STORAGES["staticfiles"]).encode())
    for line in sorted(_sources()):
        digest.update(line.encode())
    return digest.hexdigest().encode()


def _sources() -> Iterator[str]:
    for finder in get_finders():
        for name, storage in finder.list(["CVS", ".*", "*~"]):
            path = storage.path(name)
            facts = Path(path).stat()
            yield f"{path} {facts.st_size} {facts.st_mtime_ns}\n"
