"""`manage.py move_to_postgres URL`: copies everything from the home's SQLite file to an empty PostgreSQL."""

import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.errors import PilothouseError
from controlplane.services.moving import move
from controlplane.sole import WebRunsAlreadyError, sole_web_process


class Command(BaseCommand):
    help = "Copies all rows from SQLite to an empty PostgreSQL, compares both, and changes nothing here."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """The target."""
        parser.add_argument(
            "url",
            help="postgresql://USER:PASSWORD@HOST:5432/NAME; - reads it from standard input, where nobody sees it",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError with the reason where nothing was moved."""
        url = sys.stdin.readline().strip() if options["url"] == "-" else options["url"]
        try:
            with sole_web_process(Path(settings.HOME)):
                rows = move(url, self.stdout.write)
        except WebRunsAlreadyError as error:
            raise CommandError(f"{error} Nothing was moved.") from error
        except (PilothouseError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{rows} rows are there, and the same. Now start with DATABASE_URL set to that address.")
        self.stdout.write(f"{settings.HOME}/db.sqlite3 is as it was: keep it until you are content, then delete it.")
