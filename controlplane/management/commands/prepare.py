"""`manage.py prepare`: everything that must be so before the web server starts. Run by `bin/up` at each start.

The port is free, the data base has its tables, there is an admin and a model to start with, static files are collected,
an agent answers. What is so already costs milliseconds.
"""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import OperationalError

from controlplane.collecting import collect_if_changed
from controlplane.databases import several
from controlplane.fleet.local import ensure_agent
from controlplane.fleet.protocol import HostUnreachableError
from controlplane.management.commands.serve import listen
from controlplane.models import User
from controlplane.models.access import SYSTEM
from controlplane.services import access, models
from controlplane.sole import holder

MIN_FREE_BYTES = 1 << 30
TURN_FILE = "prepare.lock"


class Command(BaseCommand):
    help = "Brings this installation up to date: tables, first admin, first model, static files, agent."
    requires_system_checks: list[str] = []  # they import all pages; `serve`, which comes next, makes them

    def add_arguments(self, parser: CommandParser) -> None:
        """`--host`, `--port` and `--legacy-port` of the server that is to start; `--no-starter`; `--no-password`."""
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, help="where the server will listen: checked before anything is done")
        parser.add_argument("--legacy-port", type=int, help="likewise")
        parser.add_argument("--no-starter", action="store_true", help="don't fetch a first model at the first start")
        parser.add_argument(
            "--no-password", action="store_true", help="don't print the one-time password: a journal would keep it"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Says what it does where that takes long or is news."""
        home = Path(settings.HOME)
        _check_place(home, options["host"], {name: options[name] for name in ("port", "legacy_port")})
        with (home / TURN_FILE).open("w") as turn:  # several web processes may start at once
            fcntl.flock(turn, fcntl.LOCK_EX)
            self._bring_up_to_date(home, options)

    def _bring_up_to_date(self, home: Path, options: dict[str, Any]) -> None:
        self._migrate()
        starter = not options["no_starter"] and os.environ.get("PILOTHOUSE_STARTER") != "none"
        self._welcome(home, starter=starter, password=not options["no_password"])
        if collect_if_changed(home):
            self.stdout.write("Static files are collected.")
        try:
            ensure_agent(home)
        except HostUnreachableError as error:
            raise CommandError(f"The agent can't be started: {error}") from error

    def _migrate(self) -> None:
        try:
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                self.stdout.write("The data base is brought up to date.")
                call_command("migrate", interactive=False, verbosity=0)
        except OperationalError as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise CommandError(f"The data base can't be opened: {reason}. Look at DATABASE_URL.") from error

    def _welcome(self, home: Path, *, starter: bool, password: bool) -> None:
        """At the first start: the admin, whose password is shown this once, and the model to start with."""
        if not User.objects.exists() and starter:
            models.ensure_starter(SYSTEM)
        path = access.ensure_first_admin(home)
        waiting = home / access.ONE_TIME_PASSWORD_FILE
        if path is not None and password:
            user, text = (line.partition(": ")[2] for line in path.read_text().splitlines())
            self.stdout.write(f"\nLog in as {user} with the one-time password {text}")
            self.stdout.write(f"It is kept in {path} until it is changed, and is not shown again.\n\n")
        elif waiting.exists():
            self.stdout.write(f"The admin's one-time password is in {waiting}.")


def _check_place(home: Path, host: str, ports: dict[str, int | None]) -> None:
    """Raises CommandError where the server could not start."""
    if (pid := holder(home)) is not None and not several():
        raise CommandError(f"Pilothouse already runs on {home} (pid {pid}): bin/up --stop-all ends it.")
    for name, port in ports.items():
        if port:
            listen(host, port, f"--{name.replace('_', '-')}").close()
    free = shutil.disk_usage(home).free
    if free < MIN_FREE_BYTES:
        raise CommandError(
            f"Only {free / 1e9:.1f} GB are free on the disk of {home}; starting needs {MIN_FREE_BYTES / 1e9:.1f} GB."
        )
