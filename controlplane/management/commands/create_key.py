"""`manage.py create_key NAME --role admin|use|read`: prints a new API key, once."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.errors import PilothouseError
from controlplane.models.access import SYSTEM
from controlplane.services.access import create_key


class Command(BaseCommand):
    help = "Makes an API key and prints it. Only its hash is stored: copy it now."

    def add_arguments(self, parser: CommandParser) -> None:
        """The name and the role."""
        parser.add_argument("name")
        parser.add_argument("--role", choices=["admin", "use", "read"], default="use")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Prints the key alone on standard output, so that a script can take it."""
        try:
            _, plain = create_key(SYSTEM, options["name"], options["role"])
        except PilothouseError as error:
            raise CommandError(error.message) from error
        print(plain)
