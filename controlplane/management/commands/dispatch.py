"""`manage.py dispatch`: the dispatcher alone, in the foreground, beside web processes that run `serve --no-dispatch`.

What it announces reaches browsers through the channel layer: with REDIS_URL those of every web process, without it none
(pages then show what is new when they are loaded). One process dispatches: on SQLite the one that holds `web.lock`, on
PostgreSQL the one of several that holds the lease.
"""

import asyncio
import logging
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from controlplane.databases import several
from controlplane.leading import at_work
from controlplane.live.announce import bind_loop
from controlplane.sole import WebRunsAlreadyError, sole_web_process

log = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Dispatches jobs without serving: for a split installation, beside `serve --no-dispatch`."

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Dispatches until Ctrl-C or SIGTERM. Jobs go on."""
        if not os.environ.get("REDIS_URL"):
            log.warning("without REDIS_URL nothing is live: web processes hear of news when a page is loaded")
        try:
            with sole_web_process(Path(settings.HOME), shared=several()):
                asyncio.run(self._dispatch())
        except WebRunsAlreadyError as error:
            raise CommandError(str(error)) from error

    async def _dispatch(self) -> None:
        """The loop carries announcements alone; the dispatcher has threads of its own."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        bind_loop(loop)
        working = ExitStack()
        working.enter_context(at_work(dispatch=True))
        self.stdout.write(f"Pilothouse dispatches for {settings.HOME}")
        self.stdout.flush()
        try:
            await ended.wait()
        finally:
            bind_loop(None)
            await asyncio.to_thread(working.close)
