"""`manage.py clean [--dry-run]`: takes away what nobody owns any more."""

import getpass
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from controlplane.errors import PilothouseError
from controlplane.services import cleaning


class Command(BaseCommand):
    help = "Takes away what nobody owns any more, and compresses old logs. --dry-run only says what that is."

    def add_arguments(self, parser: CommandParser) -> None:
        """`--dry-run`."""
        parser.add_argument("--dry-run", action="store_true", help="change nothing")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Prints a line for each thing, and what it comes to."""
        found = cleaning.plan()
        for leftover in found:
            self.stdout.write(f"{filesizeformat(leftover.bytes):>12}  {leftover.path}  ({leftover.why})")
        if options["dry_run"]:
            total = filesizeformat(sum(leftover.bytes for leftover in found))
            self.stdout.write(f"{len(found)} things, {total}. Nothing was changed.")
            return
        try:
            result = cleaning.clean(getpass.getuser())
        except PilothouseError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{result['things']} things, {filesizeformat(result['freed_bytes'])} freed.")
        for fault in result["failed"]:
            self.stderr.write(f"left: {fault}")
