"""`manage.py serve`: the web server and the dispatcher, in the foreground. The web process itself."""

import asyncio
import logging
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.databases import several
from controlplane.sole import WebRunsAlreadyError, sole_web_process


class Command(BaseCommand):
    help = "Serves pages, API and websocket on one port, and dispatches jobs."

    def add_arguments(self, parser: CommandParser) -> None:
        """`--host`, `--port` (0: any free one), `--legacy-port` (likewise), `--no-dispatch`."""
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8080, help="0 takes any free port")
        parser.add_argument("--legacy-port", type=int, help="serves the API there too, without the prefix /api")
        parser.add_argument("--no-dispatch", action="store_true", help="serve only; another process dispatches")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Serves until Ctrl-C or SIGTERM. Jobs go on."""
        host, legacy_port = options["host"], options["legacy_port"]
        listener = listen(host, options["port"])
        legacy = None if legacy_port is None else listen(host, legacy_port, "--legacy-port")
        with ExitStack() as stack:
            if several() or not options["no_dispatch"]:
                try:
                    stack.enter_context(sole_web_process(Path(settings.HOME), shared=several()))
                except WebRunsAlreadyError as error:
                    raise CommandError(str(error)) from error
            _serve(host, listener, legacy, dispatch=not options["no_dispatch"])
        _end()


def _serve(host: str, listener: socket.socket, legacy: socket.socket | None, *, dispatch: bool) -> None:
    from twisted.internet import asyncioreactor

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)

    # What follows imports the reactor, so it can only come now.
    from controlplane.api.bodies import limit_bodies
    from controlplane.api.legacy import LegacyPort
    from controlplane.api.pace import PacedServer
    from controlplane.asgi import application
    from controlplane.leading import at_work
    from controlplane.live.announce import bind_loop
    from controlplane.services.usage import ledger

    bind_loop(loop)
    working = ExitStack()
    working.enter_context(at_work(dispatch=dispatch))
    greeting = _greeting(host, listener, legacy)  # now: the server closes what it is given
    listeners = [listener] if legacy is None else [listener, legacy]
    for each in listeners:
        each.set_inheritable(True)
    limit_bodies()
    server = PacedServer(
        application=application if legacy is None else LegacyPort(application, legacy.getsockname()[1]),
        endpoints=[f"fd:fileno={each.fileno()}" for each in listeners],
        action_logger=None,
        http_timeout=None,
        websocket_timeout=-1,
        application_close_timeout=10,
        ready_callable=lambda: print(f"{greeting}\n", end="", flush=True),  # in one piece: others write there, too
        server_name="pilothouse",
        proxy_forwarded_address_header="X-Forwarded-For" if settings.BEHIND_PROXY else None,
        proxy_forwarded_proto_header="X-Forwarded-Proto" if settings.BEHIND_PROXY else None,
    )
    try:
        server.run()
    finally:
        bind_loop(None)
        working.close()
        ledger.flush()


def _greeting(host: str, listener: socket.socket, legacy: socket.socket | None) -> str:
    """What is said once requests are answered."""
    old = "" if legacy is None else f"The API without /api answers at {url_of(host, legacy)}\n"
    return f"{old}Pilothouse serves {url_of(host, listener)}"


def _end() -> NoReturn:
    """Ends the process without waiting for its threads.

    A view that waited for the event loop when that stopped waits for ever, and Python would wait for its thread. What
    such a request had begun in the data base is rolled back, its files lie in `tmp/` still: nothing half-done stays.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def url_of(host: str, listener: socket.socket) -> str:
    """The address as a browser takes it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """The bound socket; daphne itself would log a busy port and exit with 0. Raises CommandError, naming the option."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(511)
    except OSError as error:
        listener.close()
        raise CommandError(
            f"Port {port} on {host} can't be used ({error.strerror}): choose another with {option}, or stop its user."
        ) from error
    listener.setblocking(False)
    return listener
