"""Hears of files in the inbox as they come, through the watchdog library. One thread of the web process.

What it hears is a hint: the inbox is looked through again every few seconds in any case, so that a network file system,
which tells nothing, or a system without inotify left makes files wait a little and loses none.
"""

import logging
import threading
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyObserver

log = logging.getLogger(__name__)


class InboxWatch(FileSystemEventHandler):
    """Whether anything has happened below a folder, and which files were renamed into their place."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = True
        self._renamed: set[Path] = set()
        self._observer: BaseObserver | None = None
        self._watched: int | None = None

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Remembers it. A file that was renamed to where it is now is whole: that is how careful programs write."""
        with self._lock:
            self._changed = True
            if event.event_type == "moved" and event.dest_path:
                self._renamed.add(Path(str(event.dest_path)))

    def news(self) -> tuple[bool, frozenset[Path]]:
        """Whether anything has happened since the last call, and what was renamed into its place since then."""
        with self._lock:
            changed, renamed = self._changed or self._observer is None, frozenset(self._renamed)
            self._changed, self._renamed = False, set()
        return changed, renamed

    def watch(self, folder: Path) -> None:
        """Sees to it that the folder is watched; one that was removed and made again is watched anew."""
        inode = folder.stat().st_ino
        if self._watched == inode and (self._observer is None or self._observer.is_alive()):
            return
        self.stop()
        self._watched = inode
        try:
            observer = InotifyObserver(generate_full_events=True)
            observer.daemon = True
            observer.schedule(self, str(folder), recursive=True)
            observer.start()
        except OSError as error:
            log.warning("the inbox can't be watched (%s): it is looked through every second instead", error)
            return
        self._observer = observer

    def stop(self) -> None:
        """Ends its thread."""
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
            self._observer.join(5)
        self._observer, self._watched = None, None
