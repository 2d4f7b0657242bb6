"""`manage.py stop_all`: ends web server, jobs (with their checkpoints) and agent. Run by `bin/up --stop-all`.

In this order: a web server that misses its agent would start it again. Jobs whose agent was killed are found by a new
one.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.fleet.local import ensure_agent
from controlplane.fleet.protocol import HostUnreachableError
from controlplane.fleet.ray_place import end_holder
from controlplane.sole import end_web_process

NODE_SECONDS = 40.0


class Command(BaseCommand):
    help = "Ends web server, jobs (with checkpoints; they go on at the next start) and agent."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """`--deadline`."""
        parser.add_argument(
            "--deadline", type=float, default=300.0, help="seconds that jobs have for their checkpoints"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Says what it ended; fails where something still runs, whose agent then goes on."""
        home = Path(settings.HOME)
        ended = 0
        try:
            while pid := end_web_process(home):
                ended += 1
                self.stdout.write(f"The web server ({pid}) has ended.")
        except TimeoutError as error:
            raise CommandError(str(error)) from error
        if not ended:
            self.stdout.write("No web server ran.")
        self._leave_fleet(home)
        try:
            ensure_agent(home)
        except HostUnreachableError as error:
            raise CommandError(f"Jobs can't be ended: {error}") from error
        self.stdout.write("Jobs end with their checkpoints …")
        self.stdout.flush()
        command = [sys.executable, "-m", "monitoring", "stop", "--home", str(home), "--jobs"]
        stopped = subprocess.run([*command, "--deadline", str(options["deadline"])], check=False)
        if stopped.returncode != 0:
            raise CommandError(
                "Not everything has ended: the line above says what goes on. Then bin/up --stop-all again."
            )

    def _leave_fleet(self, home: Path) -> None:
        """Before the agent ends: a node of a fleet would start it again."""
        try:
            node = end_holder(home, NODE_SECONDS)
        except TimeoutError as error:
            raise CommandError(str(error)) from error
        if node is not None:
            self.stdout.write(f"The node of the fleet ({node}) has ended.")
